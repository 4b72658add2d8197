"""PRM800K's native trees: which steps a solution went on with, and what each candidate follows."""

import gzip
import json

import pytest

from jaxprm.errors import InputError


def candidate(text, rating=1, **more):
    return {"text": text, "rating": rating, "flagged": None, **more}


def position(*candidates, chosen=0, human=None):
    return {"completions": list(candidates), "human_completion": human, "chosen_completion": chosen}


def session(*positions, finish="solution"):
    return {"labeler": "someone", "generation": 2, "question": {"problem": "Add 1 and 1.", "ground_truth_answer": "2"},
            "label": {"steps": list(positions), "total_time": 3, "finish_reason": finish}}


TREE = session(position(candidate("start"), candidate("other start", 0)),
               position(candidate("wrong", -1), candidate("also wrong", -1), chosen=None, human={"text": "by hand"}),
               position(candidate("end"), candidate("vague end", 0), candidate("unrated", None)))


def test_the_path_that_was_taken(read):
    item, = read("prm800k", TREE)
    assert item.solution.steps == ("start", "by hand", "end") and item.labels.values == (1.0, 1.0, 1.0)
    assert item.labels.first_error == -1 and item.solution.problem.answer == "2"
    meta = item.solution.problem.meta
    assert meta["human_written"] == [1] and meta["finish_reason"] == "solution" and meta["generation"] == 2
    assert meta["alternatives"][1] == [{"text": "wrong", "rating": -1}, {"text": "also wrong", "rating": -1}]
    assert item.labels.made_by == "human; format=prm800k, neutral=good, after_error=keep"


def test_alternatives_follow_the_chosen_path_and_not_the_last_candidate(read):
    items = {item.id: item for item in read("prm800k-alternatives", TREE)}
    assert list(items) == ["1/chosen", "1/0.0", "1/1.0", "1/1.1", "1/2.0", "1/2.1"]
    assert items["1/1.1"].solution.steps == ("start", "also wrong")
    # Behind the labeller's own step, too, although no candidate was chosen there.
    assert items["1/2.0"].solution.steps == ("start", "by hand", "vague end")
    assert [item.labels.first_error for item in items.values()] == [-1, None, 1, 1, None, None]
    assert items["1/2.1"].labels.values == (1.0, 1.0, None)
    assert {item.solution.problem.id for item in items.values()} == {"1"}


@pytest.mark.parametrize(("neutral", "value", "error"), [("good", 1.0, None), ("bad", 0.0, 0), ("ignore", None, None)])
def test_neutral_ratings_are_a_choice_that_is_recorded(read, neutral, value, error):
    item = read("prm800k-alternatives", TREE, neutral=neutral)[1]
    assert item.labels.values == (value,) and item.labels.first_error == error and f"neutral={neutral}" in item.labels.made_by


def test_phase_two_ends_at_the_first_error_that_nobody_chose(read):
    row = session(position(candidate("a")), position(candidate("b", 0)), position(candidate("c", -1), chosen=None),
                  finish="found_error")
    item, = read("prm800k", row)
    assert item.solution.steps == ("a", "b", "c") and item.labels.values == (1.0, 1.0, 0.0) and item.labels.first_error == 2
    item, = read("prm800k", row, neutral="bad", after_error="ignore")
    assert item.labels.values == (1.0, 0.0, None) and item.labels.first_error == 1
    item, = read("prm800k", row, neutral="bad", after_error="bad")
    assert item.labels.values == (1.0, 0.0, 0.0)


def test_several_candidates_that_nobody_chose_end_the_path_before_them(read):
    row = session(position(candidate("a")), position(candidate("b", -1), candidate("c", -1), chosen=None), finish="give_up")
    item, = read("prm800k", row)
    assert item.solution.steps == ("a",)
    assert [item.solution.steps for item in read("prm800k-alternatives", row)] == [("a",), ("a", "b"), ("a", "c")]


@pytest.mark.parametrize(("row", "message"), [
    (session(), "field 'label.steps': has no steps"),
    (session(position(candidate("a"), chosen=4)), r"field 'label.steps\[0\].chosen_completion' = 4: is not one of the 1 comp"),
    (session(position(candidate("a"), chosen=None), position(candidate("b"))), "the solution goes on"),
    (session(position(candidate("a", 2))), r"field 'label.steps\[0\].completions\[0\].rating' = 2: must be -1, 0, 1 or null"),
    ({"question": {}}, "field 'label': is missing"), (session() | {"question": "p"}, "'question' = 'p': has type str")])
def test_broken_sessions_name_the_place(read, row, message):
    with pytest.raises(InputError, match=message):
        read("prm800k", row)


def test_real_trees(read, shared):
    """The 73 published test sessions, put back into native form, give the path and every alternative that the card lists."""
    folder = shared / "data/dev_eval"
    if not folder.is_dir():
        pytest.skip("no real data")

    def rows(name):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt") as lines:
            return [json.loads(line) for line in lines]

    sessions, expected = [], rows("prm800k_phase1_test")
    for row in expected:
        human = row["meta"].get("human_written") or []
        positions = []
        for step, (text, rating) in enumerate(zip(row["steps"], row["labels"])):
            others = [candidate(option["text"], option["rating"]) for option in row["meta"]["alternatives"][step]]
            if step < len(human) and human[step]:
                positions.append(position(*others, chosen=None, human={"text": text, "rating": rating}))
            else:
                positions.append(position(candidate(text, rating), *others))
        sessions.append({"id": row["id"], "question": {"problem": row["problem"]}, "label": {"steps": positions}})
    paths = read("prm800k", *sessions)
    assert [item.solution.steps for item in paths] == [tuple(row["steps"]) for row in expected]
    every = read("prm800k-alternatives", *sessions)
    found = {(item.solution.problem.prompt, item.solution.steps): item.labels for item in every}
    for row in rows("prm800k_phase1_test_expanded"):
        labels = found[row["problem"], tuple(row["steps"])]
        if None not in row["labels"]:  # where a step of the path was not rated, "no wrong step" is more than anyone said
            assert labels.first_error == row["first_error"]
    assert sum(item.labels.first_error not in (None, -1) for item in every) >= 1113
