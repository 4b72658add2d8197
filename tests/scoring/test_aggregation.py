import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.scoring.aggregation import AGGREGATIONS, aggregate

SCORES = np.array([[0.9, 0.5, 0.8, 0.7], [0.2, 0.9, 0.4, 0.6], [0.3, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.5]], np.float32)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
EXPECTED = {
    "min": [0.5, 0.2, 0.3, 0],
    "max": [0.9, 0.9, 0.3, 0],
    "mean": [0.725, 0.5, 0.3, 0],
    "prod": [0.9 * 0.5 * 0.8 * 0.7, 0.2 * 0.9 * 0.4, 0.3, 0],
    "last": [0.7, 0.4, 0.3, 0],
    "geometric_mean": [0.252**0.25, 0.072 ** (1 / 3), 0.3, 0],
    "soft_min": [-0.1 * math.log(sum(math.exp(-10 * s) for s in (0.9, 0.5, 0.8, 0.7)) / 4),
                 -0.1 * math.log(sum(math.exp(-10 * s) for s in (0.2, 0.9, 0.4)) / 3), 0.3, 0],
    "logit_mean": [1 / (1 + ((0.1 * 0.5 * 0.2 * 0.3) / (0.9 * 0.5 * 0.8 * 0.7)) ** (1 / 4)),
                   1 / (1 + ((0.8 * 0.1 * 0.6) / (0.2 * 0.9 * 0.4)) ** (1 / 3)), 0.3, 0],
    "sum": [2.9, 1.5, 0.3, 0],
    "first_below": [1, 0, 0, 0],
}


def test_every_aggregation_is_expected():
    assert set(EXPECTED) == set(AGGREGATIONS)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_by_hand_in_numpy_in_jax_and_under_jit(how):
    on_host = aggregate(SCORES, MASK, how)
    assert isinstance(on_host, np.ndarray) and on_host.dtype == np.float32
    np.testing.assert_allclose(on_host, EXPECTED[how], rtol=1e-6)
    for function in (aggregate, jax.jit(aggregate, static_argnums=2)):
        on_device = function(jnp.asarray(SCORES), jnp.asarray(MASK), how)
        assert isinstance(on_device, jax.Array) and on_device.dtype == jnp.float32
        np.testing.assert_allclose(on_device, EXPECTED[how], rtol=1e-6)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_padding_and_what_is_outside_the_mask_change_nothing(how):
    dirty = np.pad(np.where(MASK, SCORES, np.nan), ((0, 1), (0, 3)), constant_values=np.nan)
    got = aggregate(dirty, np.pad(MASK, ((0, 1), (0, 3))), how)
    np.testing.assert_array_equal(got, np.append(aggregate(SCORES, MASK, how), 0))


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_any_leading_axes_and_no_step_at_all(how):
    got = aggregate(SCORES.reshape(2, 2, 4), MASK.reshape(2, 2, 4), how)
    np.testing.assert_allclose(got.ravel(), EXPECTED[how], rtol=1e-6)
    assert aggregate(SCORES[0], MASK[0], how).shape == ()
    np.testing.assert_array_equal(aggregate(np.zeros((2, 0), np.float32), np.zeros((2, 0), bool), how), [0, 0])


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_monotone_in_every_step_and_between_min_and_max(how):
    rng = np.random.default_rng(0)
    scores, mask = rng.random((50, 5), np.float32), rng.random((50, 5)) < 0.8
    value = aggregate(scores, mask, how)
    for step in range(5):
        raised = scores.copy()
        raised[:, step] = np.minimum(1, raised[:, step] + 0.1)
        assert (aggregate(raised, mask, how) >= value - 1e-6).all()
    if how not in ("prod", "sum", "first_below"):
        assert (value >= aggregate(scores, mask, "min") - 1e-6).all()
        assert (value <= aggregate(scores, mask, "max") + 1e-6).all()


def test_a_zero_score_is_exactly_zero_and_low_precision_is_summed_in_float32():
    scores, mask = np.array([[0.0, 1.0], [-0.5, 0.5]], np.float32), np.ones((2, 2), bool)
    assert (aggregate(scores, mask, "geometric_mean") == 0).all()
    long = jnp.full((1, 4096), 0.7, jnp.bfloat16)
    np.testing.assert_allclose(aggregate(long, jnp.ones((1, 4096), bool), "mean"), float(long[0, 0]), rtol=1e-5)


@pytest.mark.parametrize("how", [how for how in AGGREGATIONS if how != "last"])
def test_a_score_that_is_not_a_number_is_not_hidden(how):
    scores, mask = np.array([[0.4, np.nan, 0.9], [0.4, np.nan, 0.9]], np.float32), np.array([[1, 1, 1], [1, 0, 1]], bool)
    for got in (aggregate(scores, mask, how), aggregate(jnp.asarray(scores), jnp.asarray(mask), how)):
        assert np.isnan(got).tolist() == [True, False]


@pytest.mark.parametrize("how", [how for how in AGGREGATIONS if how not in ("last", "first_below")])
def test_the_order_of_the_steps_does_not_matter(how):
    np.testing.assert_allclose(aggregate(SCORES[:, ::-1], MASK[:, ::-1], how), aggregate(SCORES, MASK, how), rtol=1e-6)


def test_soft_min_runs_from_the_minimum_to_the_mean():
    near = [aggregate(SCORES, MASK, "soft_min", temperature=value) for value in (1e-4, 0.03, 0.3, 3.0, 1e3)]
    np.testing.assert_allclose(near[0], aggregate(SCORES, MASK, "min"), atol=2e-4)
    np.testing.assert_allclose(near[-1], aggregate(SCORES, MASK, "mean"), atol=2e-4)
    assert (np.diff(np.stack(near), axis=0) >= -1e-6).all()
    with pytest.raises(ValueError, match="temperature must be positive, not 0"):
        aggregate(SCORES, MASK, "soft_min", temperature=0.0)


def test_logit_mean_ranks_by_the_mean_logit_and_survives_zero_and_one():
    scores = np.array([[0.0, 1.0], [0.0, 0.9], [0.5, 0.6], [1.0, 1.0], [0.0, 0.0]], np.float32)
    value = aggregate(scores, np.ones((5, 2), bool), "logit_mean")
    assert np.isfinite(value).all() and np.argsort(value).tolist() == [4, 1, 0, 2, 3]
    assert value[0] == pytest.approx(0.5, abs=0.05) and 0 < value[4] < 1e-6 and 1 - 1e-6 < value[3] < 1


def test_first_below_counts_the_steps_before_the_first_bad_one():
    scores = np.array([[0.9, 0.5, 0.4, 0.9], [0.9, 0.8, 0.7, 0.6], [0.1, 0.9, 0.9, 0.9]], np.float32)
    mask = np.ones((3, 4), bool)
    np.testing.assert_array_equal(aggregate(scores, mask, "first_below"), [0.5, 1, 0])
    np.testing.assert_array_equal(aggregate(scores, mask, "first_below", threshold=0.65), [0.25, 0.75, 0])


def test_unknown_aggregation_raises():
    with pytest.raises(Exception, match="median"):
        aggregate(SCORES, MASK, "median")


def test_equals_search_and_learn(shared):
    cases = json.loads((shared / "fixtures/golden/search_and_learn.json").read_text())["cases"]
    for case in cases:
        if case["inputs"]["kind"] == "aggregate" and case["inputs"]["scores"]:
            scores = np.array(case["inputs"]["scores"], np.float32)
            for how in ("min", "prod", "last"):
                got = aggregate(scores, np.ones(len(scores), bool), how)
                np.testing.assert_allclose(got, case["outputs"][how], rtol=1e-5, atol=1e-30)
