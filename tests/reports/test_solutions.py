import re

import pytest

from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels
from jaxprm.reports import render_solutions, scored_solution


def _item(identifier="row-1", steps=("<script>bad()</script>", "b"), labels=StepLabels((1.0, 0.0), 1), **options):
    return LabeledSolution(identifier, Solution(Problem(identifier, "1 < 2 & 3?", "4"), steps, **options), labels)


def test_a_standalone_page():
    page = render_solutions([_item(), _item("row-2", labels=None)], [[0.25, 0.5], [1.0, None]], aggregates=[0.25, None])
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert "<script" not in page and "&lt;script&gt;bad()&lt;/script&gt;" in page
    assert "1 &lt; 2 &amp; 3?" in page
    assert not re.search(r"https?://", page)
    assert "2 solutions" in page
    assert re.findall(r'<span class="score"[^>]*>([\d.–]+)', page) == ["0.25", "0.50", "1.00", "–"]
    assert page.count(">first error<") == 1
    assert page.count("score of the solution") == 1


def test_a_limit_is_said():
    page = render_solutions([_item(str(i)) for i in range(4)], [[0.5, 0.5]] * 4, limit=3)
    assert page.count("<article") == 3
    assert "3 solutions shown, 1 more left out" in page


def test_long_steps_take_the_whole_width():
    assert 'class="solutions"' in render_solutions([_item()], [[0.5, 0.5]])
    assert 'class="solutions single"' in render_solutions([_item(steps=("x" * 200, "b"))], [[0.5, 0.5]])


def test_raw_outputs_are_printed_and_coloured_as_the_nearer_end():
    page = render_solutions([_item()], [[-2.5, 3.25]])
    assert "-2.50" in page and "3.25" in page
    assert re.findall("--score:(#......)", page) == ["#b82a2a", "#a8eca0"]


def test_fields_of_a_scored_solution():
    shown = scored_solution(_item(answer="5", correct=False), [0.5, None], aggregate=0.5)
    assert (shown.title, shown.reference, shown.answer, shown.correct) == ("row-1", "4", "5", False)
    assert (shown.labels, shown.first_error, shown.scores) == ((1.0, 0.0), 1, (0.5, None))
    assert scored_solution(_item(), [0.5, 0.5], title="best").title == "best"


def test_counts_must_agree():
    with pytest.raises(InputError, match="1 values for 2 steps"):
        render_solutions([_item()], [[0.5]])
    with pytest.raises(InputError, match="has 2 lists"):
        render_solutions([_item()], [[0.5, 0.5]] * 2)
