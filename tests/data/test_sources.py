"""Batches from mixtures and stored examples: every example once per epoch of its source, the same batches for the same
seed, exact resumption at any batch, processes that share the examples."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprm.data.arrayrecord import write_examples
from jaxprm.data.examples import step_example
from jaxprm.data.mixture import Part, draws
from jaxprm.data.pipeline import StepDataset
from jaxprm.errors import InputError


def example(identity, lengths):
    """Tokens ``1000 * identity + position``, so that each says where it belongs."""
    ends = np.cumsum(lengths)
    return step_example(1000 * identity + np.arange(ends[-1] + 1), ends, [(identity % 7) / 7] * len(ends), identity + 1)


def source(first, count, seed=0):
    generator = np.random.default_rng(seed)
    return [example(first + i, generator.integers(1, 8, generator.integers(1, 5))) for i in range(count)]


def identities(batch):
    """Which examples a batch holds; checks that each lies there whole, once, with its step ends and labels."""
    found = []
    for row in range(len(batch["tokens"])):
        tokens, segments = batch["tokens"][row], batch["segment_ids"][row]
        step_segments = segments[batch["step_ends"][row]] * batch["step_mask"][row]
        for segment in range(1, segments.max() + 1):
            content = tokens[segments == segment]
            identity, steps = int(content[0]) // 1000, step_segments == segment
            np.testing.assert_array_equal(content, 1000 * identity + np.arange(len(content)))
            ends = tokens[batch["step_ends"][row][steps]] - 1000 * identity
            assert ends[-1] == len(content) - 1 and (np.diff(ends) > 0).all()
            np.testing.assert_array_equal(batch["labels"][row][steps], np.float32((identity % 7) / 7))
            np.testing.assert_array_equal(batch["weights"][row][steps], identity + 1)
            found.append(identity)
    return found


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


SIZE = {"row_tokens": 40, "row_steps": 8, "batch_rows": 4}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two sources in memory and the same ones in ArrayRecord files of 16 examples each."""
    folder = tmp_path_factory.mktemp("stores")
    small, large = source(1, 9), source(101, 50, seed=1)
    stores = [write_examples(folder / name, items, shard=16) for name, items in (("small", small), ("large", large))]
    return [[Part("small", a, 1.0), Part("large", b, 2.5)] for a, b in ((small, large), stores)]


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3), data=st.data(), packing=st.booleans())
@settings(max_examples=8)
def test_every_example_once_per_epoch_of_its_source(sizes, data, packing):
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=len(sizes), max_size=len(sizes)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    parts = [Part(str(i), source(100 * i, size, i), weight) for i, (size, weight) in enumerate(zip(sizes, weights))]
    window, seen = 64 if packing else SIZE["batch_rows"], []
    for batch in itertools.islice(StepDataset(parts, seed=seed, packing=packing, **SIZE), 64 // SIZE["batch_rows"]):
        seen += identities(batch)
    if packing:  # the rows of a window come in any order; all of a window's examples have been seen
        assert len(seen) >= window
    found = [[identity for identity in seen if identity // 100 == i] for i in range(len(parts))]
    assert [len(items) for items in found] == draws(weights, len(seen))
    for items, size in zip(found, sizes):
        counts = np.bincount(np.array(items, int) % 100, minlength=size)
        assert counts.max() - counts.min() <= 1  # each once before any a second time
    again = [identities(batch) for batch in itertools.islice(StepDataset(parts, seed=seed, packing=packing, **SIZE), 3)]
    assert sum(again, []) == seen[:sum(map(len, again))]


def test_stored_examples_give_the_same_batches(stored):
    memory, disk = (list(itertools.islice(StepDataset(parts, seed=3, **SIZE), 30)) for parts in stored)
    assert_equal(memory, disk)
    assert any(batch["segment_ids"].max() > 1 for batch in disk)
    single = [StepDataset(parts[1].examples, seed=3, epochs=1, **SIZE) for parts in stored]
    assert_equal(*map(list, single))
    assert sorted(sum(map(identities, single[1]), [])) == list(range(101, 151))


@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
@pytest.mark.parametrize("where", [0, 1])
def test_resumes_exactly_from_any_batch(stored, where, process):
    dataset = StepDataset(stored[where], seed=1, process_index=process[0], process_count=process[1], **SIZE)
    iterator, batches, states = iter(dataset), [], []
    for _ in range(40):  # beyond two packing windows and several epochs of both sources
        states.append(json.loads(json.dumps(iterator.get_state())))
        batches.append(next(iterator))
    for start in (0, 1, 15, 16, 17, 32):
        resumed = iter(StepDataset(stored[where], seed=1, process_index=process[0], process_count=process[1], **SIZE))
        resumed.set_state(states[start])
        assert_equal(batches[start:start + 8], list(itertools.islice(resumed, 8)))


def test_processes_share_all_examples(stored):
    seen = []
    for process in range(2):
        dataset = StepDataset(stored[1], seed=5, process_index=process, process_count=2, packing=False, **SIZE)
        found = sum((identities(batch) for batch in itertools.islice(dataset, 20)), [])
        seen.append(set(found))
        assert {name: sum(low <= item < high for item in found) for name, low, high in (
            ("small", 0, 100), ("large", 100, 200))} == dict(zip(("small", "large"), draws([1.0, 2.5], 80)))
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {*range(1, 10), *range(101, 151)}


def test_another_seed_another_order(stored):
    one, other = (sum(map(identities, itertools.islice(StepDataset(stored[0], seed=seed, **SIZE), 16)), []) for seed in (1, 2))
    assert one != other


def test_counts_and_shares(stored):
    parts = [*stored[0], Part("long", [example(201, [60, 3]), example(202, [3, 60])], 0.5)]
    dataset = StepDataset(parts, seed=0, overlong="truncate", **SIZE)
    assert dataset.counts.whole == 59 and dataset.counts.truncated == 1 and dataset.counts.dropped == 1
    assert [part.examples.counts.dropped for part in dataset.parts] == [0, 0, 1]
    shares = dataset.shares(80)
    assert {name: value["drawn"] for name, value in shares.items()} == {"small": 20, "large": 50, "long": 10}
    assert shares["long"]["epochs"] == 10 and shares["small"]["solutions"] == 9


def test_refuses(stored):
    with pytest.raises(InputError, match="field 'epochs' = 2: must be None .endless. with several processes or sources"):
        StepDataset(stored[0], seed=0, epochs=2, **SIZE)
    with pytest.raises(InputError, match="there are 9 examples for 10 process"):
        StepDataset(stored[1], seed=0, process_count=10, **SIZE)
    with pytest.raises(InputError, match="'overlong' = 'drop': none of the 1 examples of 'long' fits a row; use longer rows"):
        StepDataset([*stored[0], Part("long", [example(1, [60])])], seed=0, overlong="drop", **SIZE)
