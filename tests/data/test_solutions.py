"""Reading step-labelled files: policies, counts, splits, statistics."""

import gzip
import json

import pytest

from jaxprm.data.rows import data_path
from jaxprm.data.solutions import (
    LoadCounts,
    SolutionFiles,
    label_statistics,
    load_solutions,
    split_by_problem,
)
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels

ROWS = [
    {"id": "a", "problem": "1 + 1?", "steps": ["x", "y", "z"], "labels": [1, 0, -1]},
    {"id": "b", "problem": "2 + 2?", "steps": ["x", " ", "z"], "labels": [1, 1, 1]},
    {"id": "c", "problem": "3 + 3?", "steps": ["x"], "labels": None},
    {"id": "d", "problem": "1  +  1?", "steps": ["x", "y", "z"], "labels": [-1, 1, None]},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as out:
        out.write("\n".join(map(json.dumps, ROWS)))
    return path


def values(items):
    return {item.id: item.labels.values for item in items}


def test_policies_and_counts(file):
    items, counts = load_solutions(SolutionFiles((str(file),), drop_empty_steps=True))
    assert counts == LoadCounts(rows=4, unlabeled=1, empty_steps=1)
    assert values(items) == {"a": (1.0, 1.0, 0.0), "b": (1.0, 1.0), "d": (0.0, 1.0, None)}
    items, _ = load_solutions(SolutionFiles((str(file),), neutral="bad", after_error="ignore", drop_empty_steps=True))
    assert values(items) == {"a": (1.0, 0.0, None), "b": (1.0, 1.0), "d": (0.0, None, None)}
    items, _ = load_solutions(SolutionFiles((str(file),), neutral="ignore", after_error="bad", drop_empty_steps=True))
    assert values(items) == {"a": (1.0, None, 0.0), "b": (1.0, 1.0), "d": (0.0, 0.0, 0.0)}
    items, counts = load_solutions(SolutionFiles((str(file), str(file)), drop_empty_steps=True, keep_unlabeled=True))
    assert [item.id for item in items] == list("abcdabcd") and counts == LoadCounts(8, 0, 2)


def test_refuses(file, tmp_path):
    with pytest.raises(InputError, match=r"rows.jsonl.gz:2: field 'steps\[1\]' = ' ': is an empty step"):
        load_solutions(SolutionFiles((str(file),)))
    with pytest.raises(InputError, match="no such file"):
        load_solutions(SolutionFiles((str(file), str(tmp_path / "absent.jsonl")), drop_empty_steps=True))
    unlabeled = tmp_path / "unlabeled.jsonl"
    unlabeled.write_text(json.dumps(ROWS[2]))
    with pytest.raises(InputError, match=r"no usable solutions \(1 rows, 1 of them without a judged step\)"):
        load_solutions(SolutionFiles((str(unlabeled),)))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"files": ()}, "field 'files'"),
    ({"files": "x.jsonl"}, "field 'files' = 'x.jsonl': must be a tuple"),
    ({"neutral": "fine"}, "must be one of good, bad, ignore"),
    ({"after_error": "drop"}, "must be one of keep, ignore, bad"),
])
def test_refuses_settings(arguments, message, without_type_checks):
    with pytest.raises(InputError, match=message):
        SolutionFiles(**{"files": ("x",)} | arguments)


def test_data_path(file, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPRM_DATA", str(file.parent))
    assert data_path("rows.jsonl.gz") == file
    with pytest.raises(InputError, match="no such file; set JAXPRM_DATA to the folder that holds it"):
        data_path("absent.jsonl")
    with pytest.raises(InputError, match="exact.jsonl: no such file; make it first: python experiments/objectives/study.py"):
        data_path("runs/objectives/exact.jsonl")
    monkeypatch.delenv("JAXPRM_DATA")
    monkeypatch.chdir(tmp_path)
    assert data_path("rows.jsonl.gz").resolve() == file
    assert data_path(file) == file


def solution(prompt, labels=None, first_error=None):
    steps = tuple("abc"[:len(labels or "a")])
    return LabeledSolution(prompt, Solution(Problem("p", prompt), steps),
                           None if labels is None else StepLabels(labels, first_error))


def test_split_by_problem():
    items = [solution(f"Problem {i // 2}" if i % 2 else f"problem\n{i // 2} ") for i in range(4000)]
    train, held_out = split_by_problem(items, 0.25)
    assert len(train) + len(held_out) == 4000 and abs(len(held_out) / 4000 - 0.25) < 0.03
    numbers = [{item.id.split()[1] for item in side} for side in (train, held_out)]
    assert not numbers[0] & numbers[1]
    assert split_by_problem(items[::-1], 0.25)[1] == held_out[::-1]
    assert split_by_problem(items, 0.25, salt=1)[1] != held_out
    assert set(map(id, held_out)) < set(map(id, split_by_problem(items, 0.5)[1]))
    assert split_by_problem(items, 0.0)[1] == []
    with pytest.raises(InputError, match="field 'held_out' = 1.0"):
        split_by_problem(items, 1.0)


def test_label_statistics():
    statistics = label_statistics([solution("Q", (1.0, 0.0, None), 1), solution("q ", (1.0, 0.5), None),
                                   solution("R", (1.0,), -1), solution("S")])
    assert (statistics.solutions, statistics.problems, statistics.steps, statistics.judged) == (4, 3, 7, 5)
    assert (statistics.good, statistics.bad, statistics.soft) == (3, 1, 1)
    assert (statistics.with_error, statistics.clean, statistics.unknown) == (1, 1, 2)
    assert statistics.max_steps == 3 and statistics.mean_label == pytest.approx(3.5 / 5)
    assert label_statistics([]).mean_label == 0.0


def test_published_counts(shared):
    """The numbers of the data card: PRM800K has 1,267 rows, 8,848 steps, 7,219 / 580 / 1,049 ratings of +1 / 0 / -1."""
    file = shared / "data/train/prm800k_train1818.jsonl.gz"
    if not file.is_file():
        pytest.skip("no real data")
    items, counts = load_solutions(SolutionFiles((str(file),), neutral="good", drop_empty_steps=True))
    statistics = label_statistics(items)
    assert counts.rows == 1267 and statistics.problems == 198
    assert (statistics.good, statistics.bad) == (7219 + 580, 1049)
    assert (statistics.with_error, statistics.clean) == (1049, 218)
