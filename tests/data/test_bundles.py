"""More columns, several solutions per example, merged windows: the worked examples, and every array at its place in a batch."""

import numpy as np
import pytest

from jaxprm.data.bundles import bundle_siblings, join_solutions, two_readings
from jaxprm.data.examples import step_example
from jaxprm.data.pipeline import StepDataset
from jaxprm.data.windows import merged_windows
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels


def example(tokens, ends, group, **columns):
    made = step_example(tokens, ends, [1.0] * len(ends))
    return made | {"groups": np.full(len(ends), group, np.int32)} | columns


def batches(examples, rows=2, tokens=12, steps=8, **options):
    return list(StepDataset(examples, row_tokens=tokens, row_steps=steps, batch_rows=rows, seed=None, epochs=1, **options))


def test_solutions_of_a_bundle_are_segments_of_their_own():
    a, b = example([5, 6, 7], [1, 2], 3), example([5, 8], [1], 3)
    (batch,) = batches([join_solutions([a, b]), example([9, 4], [1], 4)], rows=1)
    assert batch["tokens"].tolist() == [[5, 6, 7, 5, 8, 9, 4, 0, 0, 0, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 3, 3, 0, 0, 0, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 0, 0, 0, 0, 0]]
    assert batch["step_ends"][0, :4].tolist() == [1, 2, 4, 6] and batch["step_mask"].sum() == 4
    assert batch["groups"][0, :4].tolist() == [3, 3, 3, 4]


def test_columns_keep_their_values_and_places():
    columns = {"values": np.array([0.25, 0.75], np.float32), "reference": np.array([-3.5, -0.1], np.float32),
               "step_starts": np.array([1, 2], np.int32)}
    single = {"values": np.array([1.0], np.float32), "reference": np.array([-7.0], np.float32),
              "step_starts": np.array([1], np.int32)}
    (batch,) = batches([example([5, 6, 7], [1, 2], 0, **columns), example([8, 9], [1], 1, **single)], rows=1)
    assert batch["values"][0, :3].tolist() == [0.25, 0.75, 1.0] and batch["values"].dtype == np.float32
    np.testing.assert_array_equal(batch["reference"][0, :3], np.array([-3.5, -0.1, -7.0], np.float32))
    assert batch["step_starts"][0, :3].tolist() == [1, 2, 4] and batch["step_ends"][0, :3].tolist() == [1, 2, 4]
    with pytest.raises(InputError, match="field 'values': is missing in an example"):
        batches([example([5, 6, 7], [1, 2], 0, **columns), example([8, 9], [1], 1)])


def test_a_second_reading_points_back():
    forward = step_example([5, 1, 2], [1, 2], [1.0, 0.0])
    both = two_readings(forward, [5, 2, 1], [1, 2])
    (batch,) = batches([step_example([7, 7], [1], [1.0]) | {"partners": np.zeros(1, np.int32)}, both], rows=1)
    assert batch["tokens"][0, :8].tolist() == [7, 7, 5, 1, 2, 5, 2, 1]
    assert batch["segment_ids"][0, :8].tolist() == [1, 1, 2, 2, 2, 3, 3, 3]
    assert batch["step_ends"][0, :5].tolist() == [1, 3, 4, 6, 7]
    # places 1 2 are the forward steps a b, places 3 4 are b a
    assert batch["partners"][0, :5].tolist() == [0, 4, 3, 2, 1]
    assert batch["label_mask"][0, :5].tolist() == [True, True, True, False, False]
    with pytest.raises(InputError, match="field 'backward_ends': has 1 steps, the forward reading 2"):
        two_readings(forward, [5, 2], [1])


def test_siblings_share_rows_as_far_as_rows_reach():
    rng = np.random.default_rng(0)
    problems = rng.integers(0, 4, 17).tolist()
    examples = [example(rng.integers(1, 9, length := int(rng.integers(2, 6))), [length - 1], problem) for problem in problems]
    bundles = bundle_siblings(examples, problems, 12, 3)
    assert sorted(len(bundle["step_ends"]) for bundle in bundles)[-1] == 3
    for bundle in bundles:
        assert len(bundle["tokens"]) <= 12 and len(set(bundle["groups"].tolist())) == 1
    batch = {name: np.concatenate([one[name] for one in batches(bundles, packing=False)]) for name in ("groups", "step_mask")}
    assert batch["step_mask"].sum() == 17
    assert sorted(batch["groups"][batch["step_mask"]].tolist()) == sorted(problems)
    # No problem has two bundles that would fit into one row with what comes next.
    for problem in set(problems):
        sizes = [len(bundle["tokens"]) for bundle in bundles if bundle["groups"][0] == problem]
        own = [example for example, other in zip(examples, problems) if other == problem]
        assert len(sizes) <= max(-(-sum(len(one["tokens"]) for one in own) // 7), -(-len(own) // 2))


def test_bundles_are_packed_and_shuffled_whole():
    pairs = [[example([place + 1, last], [1], place) for last in (1, 2)] for place in range(9)]
    examples = [join_solutions(pair) for pair in pairs]
    dataset = StepDataset(examples, row_tokens=12, row_steps=8, batch_rows=2, seed=1, epochs=1)
    seen = []
    for batch in dataset:
        for row in range(2):
            groups = batch["groups"][row][batch["step_mask"][row]]
            assert (groups[::2] == groups[1::2]).all()
            seen += groups.tolist()
            ends = batch["step_ends"][row][batch["step_mask"][row]]
            assert (batch["tokens"][row, ends - 1] == groups + 1).all() and (batch["positions"][row, ends] == 1).all()
    assert sorted(seen) == sorted([*range(9)] * 2)


def test_bundles_of_nothing_are_refused():
    with pytest.raises(InputError, match="field 'examples': has no solutions"):
        join_solutions([])
    with pytest.raises(InputError, match="differ in their columns"):
        join_solutions([example([1], [0], 0), step_example([1], [0])])
    with pytest.raises(InputError, match="field 'problems': has 1 entries for 2 examples"):
        bundle_siblings([example([1], [0], 0)] * 2, ["a"], 4, 4)


def item(number, steps, labels):
    return LabeledSolution(f"s{number}", Solution(Problem("p", "q"), steps, None, None, "g"), StepLabels(labels, None, "me"))


def test_a_window_is_one_step_with_the_second_label():
    ((index, copy),) = merged_windows([item(0, ("a", "b", "c"), (1.0, None, 0.0))], 1.0, 3)
    assert index == 0 and copy.solution.steps == ("a", "b c") and copy.labels.values == (None, 0.0)
    assert copy.id == "s0/window-1" and copy.labels.made_by == "me; two steps merged"
    assert merged_windows([item(0, ("a",), (1.0,)), item(1, ("a", "b"), (1.0, None))], 1.0, 3) == []


def test_windows_are_drawn_with_their_probability_and_by_key():
    items = [item(number, ("a", "b", "c", "d"), (1.0, 1.0, 0.0, 0.5)) for number in range(400)]
    found = merged_windows(items, 0.3, (1, 2))
    assert 90 < len(found) < 150
    assert found == merged_windows(items, 0.3, (1, 2)) and found != merged_windows(items, 0.3, (1, 3))
    places = {copy.labels.values.index(next(value for value in copy.labels.values if value is not None)) for _, copy in found}
    assert places == {0, 1, 2} and all(sum(value is not None for value in copy.labels.values) == 1 for _, copy in found)
    assert merged_windows(items, 0.0, 1) == []
    with pytest.raises(InputError, match="field 'probability' = 1.5"):
        merged_windows(items, 1.5, 1)
