import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.objectives import pqm_ranking


def oracle_row(q, y, mask, zeta):
    """The published formula, term by term, in float64; None where nothing is labelled."""
    q, y = np.asarray(q, np.float64)[mask], np.asarray(y)[mask]
    if len(q) == 0:
        return None
    wrong = np.exp(q[y < 0.5] + zeta).sum()
    terms = [np.log(1 + wrong)] if (y < 0.5).any() else []
    for t in np.flatnonzero(y >= 0.5):
        before = np.exp(q[: t + 1][y[: t + 1] >= 0.5]).sum()
        terms.append(np.log(1 + before + wrong) - q[t])
    return np.mean(terms)


def oracle(q, y, mask, zeta):
    rows = [oracle_row(*row, zeta) for row in zip(q, y, mask)]
    rows = [row for row in rows if row is not None]
    return np.sum(rows), len(rows)


@jax.jit
def compiled(q, y, mask, more):
    return pqm_ranking(q[..., None], y, mask, **more)


@jax.jit
def compiled_gradient(q, y, mask, more):
    return jax.value_and_grad(lambda q: pqm_ranking(q[..., None], y, mask, **more).mean())(q)


def arrays(q, y, mask, zeta=4.0, **more):
    return jnp.float32(q), jnp.float32(y), jnp.asarray(mask), {"zeta": jnp.float32(zeta), **more}


def call(*args, **more):
    return compiled(*arrays(*args, **more))


@pytest.mark.parametrize("q, y, zeta, expected", [
    ([0.5, 1.0, -0.5, -1.0], [1, 1, 0, 0], 4.0, 3.528517),
    ([0.2, 0.4, 0.9], [1, 1, 1], 4.0, 0.810069),
    ([0.5, 1.0], [0, 0], 4.0, 5.478262),
    ([0.5, 1.0, -0.5, -1.0], [1, 1, 0, 0], 0.0, 0.771573),
])
def test_golden_numbers(q, y, zeta, expected):
    loss = call([q], [y], np.ones((1, len(q)), bool), zeta=zeta)
    np.testing.assert_allclose(loss.mean(), expected, atol=1e-5)
    assert loss.weight == 1


@pytest.mark.parametrize("zeta", [0.0, 2.0, 4.0])
def test_equals_the_oracle_with_labels_in_any_order(zeta):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        q, y, mask = 2 * rng.standard_normal((5, 7)), rng.integers(0, 2, (5, 7)), rng.random((5, 7)) < 0.6
        y[0], y[1], mask[2], mask[3, 1:] = 1, 0, False, False  # all right, all wrong, unlabelled, at most one step
        loss = call(q, y, mask, zeta=zeta)
        total, rows = oracle(q, y, mask, zeta)
        np.testing.assert_allclose(loss.total, total, rtol=2e-6)
        assert loss.weight == rows


def test_gradient_equals_finite_differences_of_the_oracle():
    rng = np.random.default_rng(0)
    q, y, mask = rng.standard_normal((3, 4)), rng.integers(0, 2, (3, 4)), np.ones((3, 4), bool)
    mask[1, 2] = False
    gradient = 3 * compiled_gradient(*arrays(q, y, mask))[1]
    for index in np.ndindex(q.shape):
        high, low = q.copy(), q.copy()
        high[index] += 1e-5
        low[index] -= 1e-5
        difference = (oracle(high, y, mask, 4.0)[0] - oracle(low, y, mask, 4.0)[0]) / 2e-5
        np.testing.assert_allclose(gradient[index], difference, atol=2e-6)


def test_packed_rows_equal_separate_rows():
    rng = np.random.default_rng(3)
    q, y, mask = rng.standard_normal((4, 5)), rng.integers(0, 2, (4, 5)), rng.random((4, 5)) < 0.8
    weights = rng.random((4, 5))
    apart = call(q, y, mask, weights=jnp.float32(weights))
    segments = jnp.asarray(np.repeat([[1], [2], [1], [2]], 5, 1).reshape(2, 10))
    packed = call(q.reshape(2, 10), y.reshape(2, 10), mask.reshape(2, 10), segments=segments,
                  weights=jnp.float32(weights.reshape(2, 10)))
    np.testing.assert_allclose(packed.total, apart.total, rtol=1e-6)
    np.testing.assert_allclose(packed.weight, apart.weight, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), packed.metrics, apart.metrics)
    merged = call(q.reshape(2, 10), y.reshape(2, 10), mask.reshape(2, 10), weights=jnp.float32(weights.reshape(2, 10)))
    assert abs(merged.mean() - apart.mean()) > 1e-2


def test_weights():
    rng = np.random.default_rng(4)
    q, y, mask = rng.standard_normal((3, 6)), rng.integers(0, 2, (3, 6)), np.ones((3, 6), bool)
    plain = call(q, y, mask)
    np.testing.assert_allclose(call(q, y, mask, weights=jnp.ones((3, 6))).total, plain.total, rtol=1e-6)
    left_out = mask.copy()
    left_out[:, [1, 4]] = False
    zeroed = call(q, y, mask, weights=jnp.float32(left_out))
    np.testing.assert_allclose(zeroed.total, call(q, y, left_out).total, rtol=1e-6)
    rows = np.array([2.0, 0.0, 0.5])
    weighted = call(q, y, mask, weights=jnp.float32(np.tile(rows[:, None], 6)))
    singles = [call(q[i : i + 1], y[i : i + 1], mask[i : i + 1]).total for i in range(3)]
    np.testing.assert_allclose(weighted.total, rows @ np.array(singles), rtol=1e-6)
    np.testing.assert_allclose(weighted.weight, 2.5, rtol=1e-6)


def test_extreme_values_stay_finite_where_exp_overflows():
    q, y = [[1e4, -1e4, 1e4, -1e4]], [[1, 1, 0, 0]]
    value, gradient = compiled_gradient(*arrays(q, y, np.ones((1, 4), bool)))
    np.testing.assert_allclose(value, ((1e4 + 4) + (np.log(1 + np.exp(-4.0)) + 4) + (2e4 + 4)) / 3, rtol=1e-6)
    assert np.isfinite(gradient).all() and gradient[0, 2] > 0 and gradient[0, 1] < 0


def test_soft_labels_count_from_one_half():
    q, mask = [[0.3, -0.2, 0.8]], np.ones((1, 3), bool)
    assert call(q, [[0.5, 0.49, 0.9]], mask).total == call(q, [[1, 0, 1]], mask).total


def test_metrics_by_hand():
    q = [[1.0, 2.0, 1.5], [0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]
    y = [[1, 1, 0], [0, 0, 1], [1, 1, 1]]  # the third row has no pair
    metrics = call(q, y, np.ones((3, 3), bool)).metric_means()
    np.testing.assert_allclose(metrics["separated"], (0.5 + 1.0) / 2)
    np.testing.assert_allclose(metrics["margin"], ((1.5 - 1.5) + (2.0 - 0.5)) / 2)


def test_equals_the_reference_implementation(shared):
    """The reference adds 1e-5 inside the logarithm, and its rows without a label are not-a-number: there ours are left
    out."""
    cases = json.loads((shared / "fixtures/golden/pqm_ranking_loss.json").read_text())["cases"]
    checked = 0
    for case in cases:
        inputs, expected = case["inputs"], case["outputs"]["rank"]
        rows, steps = np.shape(inputs["rewards"])
        q, y, mask = np.zeros((8, 10)), np.zeros((8, 10)), np.zeros((8, 10), bool)  # one shape, one compilation
        q[:rows, :steps], y[:rows, :steps] = inputs["rewards"], inputs["labels"]
        mask[:rows, :steps] = np.array(inputs["labels"]) != -100
        for row, value in enumerate(expected["per_row"]):
            loss = call(q, y, mask & (np.arange(8) == row)[:, None], zeta=inputs["zeta"])
            if isinstance(value, float):
                np.testing.assert_allclose(loss.mean(), value, rtol=1e-4, atol=1e-4)
                checked += 1
            elif not mask[row].any():
                assert loss.mean() == 0 and loss.weight == 0
            else:
                assert np.isfinite(loss.mean())
        if isinstance(expected["batch_loss"], float):
            value, gradient = compiled_gradient(*arrays(q, y, mask, zeta=inputs["zeta"]))
            np.testing.assert_allclose(value, expected["batch_loss"], rtol=1e-4)
            np.testing.assert_allclose(gradient[:rows, :steps], expected["grad_wrt_rewards"], atol=1e-4)
    assert checked > 30
