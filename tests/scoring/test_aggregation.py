import json

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
    if how != "prod":
        assert (value >= aggregate(scores, mask, "min") - 1e-6).all()
        assert (value <= aggregate(scores, mask, "max") + 1e-6).all()


def test_a_zero_score_is_exactly_zero_and_low_precision_is_summed_in_float32():
    scores, mask = np.array([[0.0, 1.0], [-0.5, 0.5]], np.float32), np.ones((2, 2), bool)
    assert (aggregate(scores, mask, "geometric_mean") == 0).all()
    long = jnp.full((1, 4096), 0.7, jnp.bfloat16)
    np.testing.assert_allclose(aggregate(long, jnp.ones((1, 4096), bool), "mean"), float(long[0, 0]), rtol=1e-5)


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
