"""Scores from files: every way in which they can fail to fit is one line with file, row, field and value."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import Item
from jaxprm.evaluation.score_files import named_file, read_scores
from jaxprm.records import Problem, Solution


def item(name, steps=2, skip=None, **meta):
    solution = Solution(Problem(name, "q", meta=meta), ("s",) * steps)
    return Item(name, name, solution, meta=meta, skip=skip, file="b.jsonl", row=3)


ITEMS = [item("a"), item("7", 1), item("left", skip="unlabeled"), item("dropped", 1, empty_steps_dropped=1)]
GOOD = [{"id": 7, "scores": [1], "model": "x"}, {"id": "a", "scores": [0.25, 0]}, {"id": "dropped", "scores": [0.5]}]


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_scores_come_in_the_order_of_the_items(tmp_path):
    found = read_scores(write(tmp_path / "s.jsonl", GOOD), ITEMS, probabilities=True)
    assert [None if row is None else row.tolist() for row in found] == [[0.25, 0.0], [1.0], None, [0.5]]
    assert found[1].dtype == np.float64
    more = read_scores(write(tmp_path / "s.jsonl", [*GOOD, {"id": "left", "scores": [1, 1]}]), ITEMS, probabilities=True)
    assert more[2].tolist() == [1, 1]  # it does not count, and may be scored
    found = read_scores(write(tmp_path / "s.jsonl", [*GOOD[1:], {"id": "7", "scores": [-3.5]}]), ITEMS, probabilities=False)
    assert found[1].tolist() == [-3.5]


@pytest.mark.parametrize(("row", "message"), [
    ({"id": "b", "scores": [1]}, "s.jsonl:4: field 'id' = 'b': is no solution of this benchmark; its ids look like 'a', '7'"),
    ({"id": "a", "scores": [1, 1]}, "s.jsonl:4: field 'id' = 'a': is given twice"),
    ({"scores": [1]}, "s.jsonl:4: field 'id' = None: must be a text or a whole number"),
    ({"id": True, "scores": [1]}, "field 'id' = True: must be a text"),
    ({"id": "left"}, "s.jsonl:4: field 'scores' = None: must be a list of numbers"),
    ({"id": "left", "scores": [1]}, "s.jsonl:4: field 'scores': has 1 scores for the 2 steps of 'left'; one score per step"),
    ({"id": "left", "scores": [1, math.nan]}, "s.jsonl:4: field 'scores[1]' = nan: must be a finite number"),
    ({"id": "left", "scores": [1, None]}, "field 'scores[1]' = None: must be a finite number"),
    ({"id": "left", "scores": [1, "0.5"]}, "field 'scores[1]' = '0.5': must be a finite number"),
    ({"id": "left", "scores": [1, 1.5]}, "field 'scores[1]' = 1.5: must be a probability"),
    ([1], "s.jsonl:4: a row must be a JSON object, not list"),
    ("{", "s.jsonl:4: is not valid JSON"),
])
def test_bad_rows(tmp_path, row, message):
    with pytest.raises(InputError) as caught:
        read_scores(write(tmp_path / "s.jsonl", [*GOOD, row]), ITEMS, probabilities=True)
    assert message in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="s.jsonl: field 'id' = 'a': has no scores for 2 of 3 solutions"):
        read_scores(write(tmp_path / "s.jsonl", GOOD[:1]), ITEMS, probabilities=True)
    with pytest.raises(InputError, match="has 2 scores for the 1 steps of 'dropped'; 1 empty steps were left out"):
        read_scores(write(tmp_path / "s.jsonl", [{"id": "dropped", "scores": [1, 1]}]), ITEMS, probabilities=True)
    with pytest.raises(InputError, match="b.jsonl:3: field 'id' = 'a': stands for two solutions"):
        read_scores(write(tmp_path / "s.jsonl", GOOD), [*ITEMS, ITEMS[0]], probabilities=True)
    with pytest.raises(InputError, match="absent.jsonl: no such file"):
        read_scores(tmp_path / "absent.jsonl", ITEMS, probabilities=True)


def test_names(tmp_path):
    assert named_file("mine=dir/s.jsonl") == ("mine", Path("dir/s.jsonl"))
    assert named_file("dir/a=b/s.jsonl") == ("dir/a=b/s.jsonl", Path("dir/a=b/s.jsonl"))
    assert named_file("s.jsonl") == ("s.jsonl", Path("s.jsonl"))
