"""Packed batches: the worked example, every example exactly once, packed == one per row, resume, sharding, speed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.data.examples import language_model_example, step_example
from jaxprm.data.pipeline import LanguageModelDataset, StepDataset
from jaxprm.errors import InputError


def make_example(identity, step_lengths, prompt=2):
    """Tokens that nothing else has: 1000 * identity + 1 + position. Labels and weights likewise."""
    ends = prompt - 1 + np.cumsum(step_lengths)
    tokens = 1000 * identity + 1 + np.arange(ends[-1] + 1)
    labels = [None if (identity + s) % 3 == 0 else ((identity * 7 + s) % 11) / 10 for s in range(len(ends))]
    return step_example(tokens, ends, labels, weight=identity + 0.5)


def unpack(batches):
    """Batches -> list of (tokens, step-end tokens, labels, label mask, weights), one per packed solution."""
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            step_segments = batch["segment_ids"][row][batch["step_ends"][row]] * batch["step_mask"][row]
            for segment in range(1, batch["segment_ids"][row].max() + 1):
                at = batch["segment_ids"][row] == segment
                steps = step_segments == segment
                np.testing.assert_array_equal(batch["positions"][row][at], np.arange(at.sum()))
                found.append(tuple(map(tuple, (
                    batch["tokens"][row][at], batch["tokens"][row][batch["step_ends"][row][steps]],
                    batch["labels"][row][steps], batch["label_mask"][row][steps], batch["weights"][row][steps]))))
    return found


def expected(examples):
    return [tuple(map(tuple, (e["tokens"], e["tokens"][e["step_ends"]], e["labels"], e["label_mask"], e["weights"])))
            for e in examples]


def test_worked_example():
    examples = [step_example([5, 6, 7, 8], [1, 3], [1.0, None]), step_example([3, 9, 4], [2], [0.25], weight=2.0)]
    (batch,) = StepDataset(examples, row_tokens=8, row_steps=4, batch_rows=2, seed=None, epochs=1, pad_id=9)
    assert batch["tokens"].tolist() == [[5, 6, 7, 8, 3, 9, 4, 9], [9] * 8]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0], [0] * 8]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [0] * 8]
    assert batch["step_ends"].tolist() == [[1, 3, 6, 0], [0] * 4]
    assert batch["step_mask"].tolist() == [[True, True, True, False], [False] * 4]
    assert batch["labels"].tolist() == [[1.0, 0.0, 0.25, 0.0], [0.0] * 4]
    assert batch["label_mask"].tolist() == [[True, False, True, False], [False] * 4]
    assert batch["weights"].tolist() == [[1.0, 1.0, 2.0, 0.0], [0.0] * 4]
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "tokens": "int32", "positions": "int32", "segment_ids": "int32", "step_ends": "int32", "step_mask": "bool",
        "labels": "float32", "label_mask": "bool", "weights": "float32"}


@given(shapes=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=30),
       seed=st.one_of(st.none(), st.integers(0, 2**32 - 1)), packing=st.booleans(), batch_rows=st.integers(1, 5))
def test_every_example_exactly_once_with_its_own_steps(shapes, seed, packing, batch_rows):
    examples = [make_example(i, shape) for i, shape in enumerate(shapes)]
    dataset = StepDataset(examples, row_tokens=40, row_steps=7, batch_rows=batch_rows, seed=seed, epochs=1,
                          packing=packing)
    batches = list(dataset)
    assert {batch["tokens"].shape for batch in batches} == {(batch_rows, 40)}
    assert {batch["step_ends"].shape for batch in batches} == {(batch_rows, 7)}
    found = unpack(batches)
    assert sorted(found) == sorted(expected(examples))
    for batch in batches:
        padding = batch["segment_ids"] == 0
        assert not batch["tokens"][padding].any() and not batch["positions"][padding].any()
        for name in ("step_ends", "labels", "label_mask", "weights"):
            assert not batch[name][~batch["step_mask"]].any()
    if not packing:
        assert all(batch["segment_ids"].max() <= 1 for batch in batches)
        if seed is None:
            assert found == expected(examples)


def test_each_epoch_sees_each_example_once_in_its_own_order():
    examples = [make_example(i, [3]) for i in range(20)]
    arguments = {"row_tokens": 5, "row_steps": 1, "batch_rows": 5, "packing": False}
    twice = unpack(StepDataset(examples, seed=3, epochs=2, **arguments))
    assert sorted(twice[:20]) == sorted(twice[20:]) == sorted(expected(examples))
    assert twice[:20] != twice[20:] and twice[:20] != expected(examples)
    assert twice == unpack(StepDataset(examples, seed=3, epochs=2, **arguments))
    assert twice != unpack(StepDataset(examples, seed=4, epochs=2, **arguments))


@pytest.mark.parametrize("packing", [True, False])
def test_resumes_exactly_from_any_batch(packing):
    generator = np.random.default_rng(0)
    examples = [make_example(i, generator.integers(1, 8, generator.integers(1, 6))) for i in range(150)]
    dataset = StepDataset(examples, row_tokens=48, row_steps=8, batch_rows=3, seed=1, packing=packing)
    iterator, batches, states = iter(dataset), [], []
    for _ in range(90):  # beyond one packing window and one epoch
        states.append(json.loads(json.dumps(iterator.get_state())))
        batches.append(next(iterator))
    for start in (0, 1, 20, 21, 22, 23, 57):
        resumed = iter(dataset)
        resumed.set_state(states[start])
        for batch in batches[start:start + 25]:
            again = next(resumed)
            for name, array in batch.items():
                np.testing.assert_array_equal(array, again[name], err_msg=name)


def test_packing_fills_rows_and_respects_the_step_budget():
    generator = np.random.default_rng(0)
    examples = [make_example(i, generator.integers(2, 10, generator.integers(2, 9))) for i in range(600)]
    batches = list(StepDataset(examples, row_tokens=256, row_steps=64, batch_rows=8, seed=0, epochs=1))[:-1]
    assert np.mean([batch["segment_ids"] > 0 for batch in batches]) > 0.93
    tight = list(StepDataset(examples, row_tokens=256, row_steps=9, batch_rows=8, seed=0, epochs=1))
    assert len(tight) > 2 * len(batches)
    assert sorted(unpack(tight)) == sorted(expected(examples))


def test_processes_share_the_examples():
    examples = [make_example(i, [3, 2]) for i in range(11)]
    arguments = {"row_tokens": 7, "row_steps": 2, "batch_rows": 2, "seed": 5, "packing": False}
    seen = []
    for process in range(3):
        iterator = iter(StepDataset(examples, process_index=process, process_count=3, **arguments))
        found = unpack(next(iterator) for _ in range(4))
        seen.append(set(found))
        assert len(seen[-1]) == len(examples[process::3])
    assert set.union(*seen) == set(expected(examples)) and not seen[0] & seen[1] | seen[1] & seen[2] | seen[0] & seen[2]


def test_language_model_batches():
    examples = [language_model_example([1, 2], [3, 4]), language_model_example([], [6, 7, 8])]
    (batch,) = LanguageModelDataset(examples, row_tokens=9, batch_rows=1, seed=None, epochs=1)
    assert batch["tokens"].tolist() == [[1, 2, 3, 4, 6, 7, 8, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 0]]
    assert batch["loss_mask"].astype(int).tolist() == [[0, 0, 1, 1, 0, 1, 1, 0, 0]]  # 6 has nothing before it
    assert batch["loss_mask"].dtype == bool


@pytest.mark.parametrize(("changes", "message"), [
    ({"row_tokens": 0}, "field 'overlong'|example 0 has 4 tokens"),
    ({"batch_rows": 0}, "field 'batch_rows' = 0: must be at least 1"),
    ({"epochs": 0}, "field 'epochs' = 0: must be at least 1"),
    ({"seed": -1}, r"field 'seed' = -1: must be in \[0, 2\*\*32\)"),
    ({"process_index": 2, "process_count": 2, "epochs": None}, "field 'process_index' = 2"),
    ({"process_count": 2}, "field 'epochs' = 1: must be None"),
    ({"process_count": 2, "epochs": None}, r"there are 1 examples for 2 process\(es\)"),
    ({"row_steps": 1}, r"example 0 has 4 tokens \(a row has 8\) and 2 steps \(a row has 1\)"),
])
def test_refuses(changes, message):
    arguments = {"row_tokens": 8, "row_steps": 4, "batch_rows": 2, "seed": 0, "epochs": 1} | changes
    with pytest.raises(InputError, match=message):
        StepDataset([step_example([5, 6, 7, 8], [1, 3])], **arguments)
