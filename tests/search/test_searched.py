"""The JSON form of searches: it comes back as it was, and readers of solutions read it."""

import copy
import dataclasses
import json

import pytest

from jaxprm.errors import InputError
from jaxprm.records import Problem, parse_row
from jaxprm.search.searched import Answered, Costs, Node, Searched, read_searched, searched_row, tree_warnings

NODES = (Node(0, None, "a", 2, 0.9, 0.9, True, False), Node(1, None, "b\nc", 3, None, None, False, False),
         Node(2, 0, "so 3", 4, 0.5, 0.5, True, True), Node(3, 0, "", 1, None, 0.9, True, True))
FOUND = Searched(Problem("p", "1 + 2", "3", {"level": 1}), NODES, (Answered(3, 0.9), Answered(2, 0.5, "3", True)), 2,
                 Costs(10, 20, 3, 4, 1.5e9, 0.25, 2), "finished", {"empty steps": 1})


def test_a_row_comes_back_and_is_a_solution():
    row = json.loads(json.dumps(searched_row(FOUND, "beam")))
    assert read_searched(row) == ("beam", FOUND)
    item, _ = parse_row(row)
    assert item.id == "beam/p" and item.solution.steps == ("a", "so 3") and item.solution.problem == FOUND.problem
    assert (item.solution.answer, item.solution.correct, item.solution.generator) == ("3", True, "beam")
    assert row["scores"] == [0.9, 0.5] and row["aggregate"] == 0.5 and row["finished"] is True
    ended = dataclasses.replace(FOUND, chosen=3)  # its last node only ends it: no step, no score
    row = searched_row(ended, "beam")
    assert (row["steps"], row["scores"], row["aggregate"]) == (["a"], [0.9], 0.9) and ended.answer == FOUND.solutions[0]


def test_what_has_not_ended_is_no_answer():
    open_ = dataclasses.replace(FOUND, chosen=0, solutions=(), stopped_by="steps")
    row = searched_row(open_, "beam")
    assert not open_.finished and open_.answer is None and row["finished"] is False and row["final_correct"] is False
    nothing = dataclasses.replace(open_, nodes=(), chosen=None)
    row = searched_row(nothing, "beam")
    assert row["steps"] == [] and row["aggregate"] is None and read_searched(row) == ("beam", nothing)


@pytest.mark.parametrize(("change", "message"), [
    (lambda row: row.pop("search"), "x.jsonl:4: field 'search': is not a row of a search"),
    (lambda row: row["search"].pop("costs"), "field 'search': is not what a search writes ('costs')"),
    (lambda row: row["search"]["nodes"].pop(0), "node 0 is out of place"),
    (lambda row: row["search"]["nodes"][2].update(parent=2), "node 2 is out of place"),
    (lambda row: row["search"]["nodes"][0].update(score=float("nan")), "node 0 has a score that is not finite"),
    (lambda row: row["search"].update(chosen=9), "there is no node 9"),
    (lambda row: row.update(steps="a"), "field 'steps' = 'a': has type str"),
])
def test_damaged_rows(change, message):
    row = copy.deepcopy(searched_row(FOUND, "beam"))
    change(row)
    with pytest.raises(InputError) as error:
        read_searched(row, file="x.jsonl", number=4)
    assert message in str(error.value) and str(error.value).startswith("x.jsonl:4: ")


def test_what_a_policy_does_wrong_is_counted():
    texts = [(None, "a"), (0, "b"), (1, "a"), (None, " "), (1, "a"), (0, "c")]
    nodes = [Node(i, parent, text, 1, 0.5, 0.5, True, False) for i, (parent, text) in enumerate(texts)]
    assert tree_warnings(nodes, 3) == {"steps that did not end": 3, "repeated steps": 2, "empty steps": 1}
    assert not tree_warnings(nodes[:2])
