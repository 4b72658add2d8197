"""Mixtures: grain's order in closed form, exact shares, what is refused."""

import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.data.example_table import Examples
from jaxprm.data.examples import step_example
from jaxprm.data.mixture import Part, draws, mix, mixed_lengths, proportions, shares
from jaxprm.data.solutions import SolutionFiles, Source
from jaxprm.errors import InputError


def part(name, sizes, weight=1.0):
    return Part(name, Examples([step_example(range(size), [size - 1], [1.0]) for size in sizes]), weight)


@given(weights=st.lists(st.floats(0.01, 50), min_size=1, max_size=4), count=st.integers(0, 400))
def test_draws_are_those_of_the_stream(weights, count):
    datasets = [grain.MapDataset.source([index]).repeat(None) for index in range(len(weights))]
    stream = mix(datasets, weights)
    found = np.bincount([stream[index] for index in range(count)], minlength=len(weights))
    assert draws(weights, count) == found.tolist()
    exact = count * np.array(weights) / sum(weights)
    assert np.abs(found - exact).max() <= len(weights) + 0.01 * count


def test_weights_are_met_to_a_hundredth_of_the_smallest():
    assert proportions([0.7, 0.2, 0.1]) == [700, 200, 100]
    assert proportions([1 / 3, 2 / 3]) == [100, 200]  # not 199
    assert draws([0.7, 0.2, 0.1], 1000) == [700, 200, 100]
    with pytest.raises(InputError, match="are more than a factor of 1,000,000 apart"):
        proportions([1.0, 1e-7])


def test_shares():
    parts = [part("long", [30, 50], 1.0), part("short", [10] * 6, 3.0)]
    found = shares(parts, [item.examples.table for item in parts], 40)
    assert found["long"] == {"weight": 0.25, "solutions": 2, "drawn": 10, "share": 0.25, "epochs": 5.0,
                             "tokens": pytest.approx(400 / 700), "labels": 0.25}
    assert found["short"]["epochs"] == 5.0 and found["short"]["tokens"] == pytest.approx(300 / 700)
    tokens, steps = mixed_lengths(parts, [item.examples.table for item in parts], 40)
    assert sorted(tokens.tolist()) == [10] * 30 + [30] * 5 + [50] * 5 and steps.tolist() == [1] * 40


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_weights_must_be_positive(weight):
    with pytest.raises(InputError, match=f"field 'weight' = {weight}: must be positive and finite; leave 'a' out"):
        Source("a", ("x.jsonl",), weight)
    with pytest.raises(InputError, match="field 'weight of 'a'' = .*: must be positive and finite"):
        Part("a", [], weight)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"files": ("x",), "mixture": (Source("a", ("y",)),)}, r"field 'files' = \('x',\): cannot be set beside mixture"),
    ({"mixture": (Source("a", ("y",)), Source("a", ("z",)))}, r"field 'mixture' = \['a', 'a'\]: names a source twice"),
    ({}, r"field 'files' = \(\): must be a tuple of at least one path"),
])
def test_configs_that_make_no_sense(arguments, message):
    with pytest.raises(InputError, match=message):
        SolutionFiles(**arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    (("", ("x",)), "field 'name' = ''"), (("a", ()), "field 'files'"), (("a", "x.jsonl"), "field 'files' = 'x.jsonl'")])
def test_sources_that_make_no_sense(arguments, message, without_type_checks):
    with pytest.raises(InputError, match=message):
        Source(*arguments)


def test_sources_of_a_single_one():
    data = SolutionFiles(("x", "y"))
    assert data.sources == (Source("data", ("x", "y")),) and data.all_files == ("x", "y")
    mixed = SolutionFiles(mixture=(Source("a", ("x", "y")), Source("b", ("y", "z"), 2.0)))
    assert mixed.all_files == ("x", "y", "z") and mixed.sources == mixed.mixture
