"""The page of a search: a tree that can be unfolded, equal steps together, every text escaped."""

import html.parser

import numpy as np
import pytest

from jaxprm.evaluation.searches import compare_searches, summarise_search
from jaxprm.records import Problem
from jaxprm.reports.search_tree import branches, render_searches
from jaxprm.search.searched import Answered, Costs, Node, Searched


def searched(name="p", right=True, finished=True):
    """a (twice), b; behind the a's: c (twice, once each), d; c ends."""
    texts = [(None, "a", 0.9), (None, "<b>", 0.95), (None, "a", 0.9), (0, "c", 0.8), (2, "c", 0.8), (2, "d", None)]
    nodes = tuple(Node(i, parent, text, 2, score, score, i != 1, finished and text == "c")
                  for i, (parent, text, score) in enumerate(texts))
    solutions = (Answered(3, 0.8, "3", right), Answered(4, 0.8, "3", right)) if finished else ()
    return Searched(Problem(name, "1 & 2?", "3"), nodes, solutions, 4 if finished else 2, Costs(12, 20, 2, 3, 1e6, 0.5, 1),
                    "finished" if finished else "steps", {} if finished else {"endpoint: timed out": 2})


def test_branches():
    drawn = branches(searched())
    assert [(one.node.text, one.count, one.children, one.leave, one.steps) for one in drawn] == [
        ("a", 2, True, 0, 3), ("c", 2, False, 0, 0), ("d", 1, False, 1, 0), ("<b>", 1, False, 0, 0)]
    assert [one.chosen for one in drawn] == [True, True, False, False]
    assert [one.tip for one in drawn] == [False, True, False, False] and drawn[1].node.id == 4 and drawn[0].node.id == 2


def test_a_tree_may_be_deep():
    nodes = tuple(Node(i, i - 1 if i else None, f"s{i}", 1, 0.5, 0.5, True, False) for i in range(3000))
    drawn = branches(Searched(Problem("p", "q"), nodes, (), 2999, Costs(), "steps"))
    assert len(drawn) == 3000 and drawn[-1].leave == 2999 and drawn[0].steps == 2999


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.most, self.text = [], 0, []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
            self.most = max(self.most, self.open.count("details"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole():
    found = {"beam": [searched(f"p{i}", right=i < 3) for i in range(4)],
             "greedy": [searched(f"p{i}", finished=i > 0) for i in range(4)]}
    summaries = {name: summarise_search(some, 0) for name, some in found.items()}
    differences = {"greedy": compare_searches(found["greedy"], found["beam"], 0)}
    page = render_searches(found, summaries, differences=differences, limit=2)
    tags = Tags()
    tags.feed(page)
    text = " ".join("".join(tags.text).split())
    assert tags.open == [] and tags.most == 2  # a card, and one place that can be unfolded in it
    assert "<b>" in text and "<b>" not in page.split("Trees")[1] and "1 & 2?" in text
    assert "75.0 %" in text and "2 problems shown, 2 more left out" in text and "endpoint: timed out: 2" in text
    assert "best, not ended" in text and "a ×2" in text
    assert "http" not in page.replace("http-equiv", "")  # nothing is loaded from elsewhere


def test_numbers():
    found = [searched(f"p{i}", right=i < 3, finished=i < 4) for i in range(5)]
    summary = summarise_search(found, 0)
    assert (summary.problems, summary.graded, summary.accuracy.mean, summary.finished.mean) == (5, 5, 0.6, 0.8)
    assert summary.accuracy.low < 0.6 < summary.accuracy.high and summary.policy_tokens.mean == 12
    assert summary.costs == Costs(60, 100, 10, 15, 5e6, 2.5, 5) and summary.warnings == {"endpoint: timed out": 2}
    assert summary.stopped == {"finished": 4, "steps": 1}
    assert compare_searches(found[::-1], found, 0).mean == pytest.approx(0)
    ungraded = summarise_search([Searched(Problem("p", "q"), (), (), None, Costs(), "steps")], 0)
    assert np.isnan(ungraded.accuracy.mean) and ungraded.graded == 0 and ungraded.finished.mean == 0
