import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.objectives import STEP_OBJECTIVES, Loss, binary_cross_entropy, cross_entropy


def batch(seed, rows=4, steps=6, outputs=1, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((rows, steps, outputs))
    labels = rng.random((rows, steps))  # soft
    labels[: rows // 2] = labels[: rows // 2].round()  # hard
    mask = rng.random((rows, steps)) < 0.7
    return logits, labels, mask


def oracle_binary(logits, labels, mask, weights):
    p = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64)))
    return np.sum((weights * -(labels * np.log(p) + (1 - labels) * np.log1p(-p)))[mask])


def oracle_two_way(logits, labels, mask, weights):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.sum((weights * -(labels * np.log(p[..., 1]) + (1 - labels) * np.log(p[..., 0])))[mask])


def on_device(logits, labels, mask, **more):
    return (jnp.float32(logits), jnp.float32(labels), jnp.asarray(mask)), {k: jnp.float32(v) for k, v in more.items()}


CASES = [(binary_cross_entropy, oracle_binary, 1), (cross_entropy, oracle_two_way, 2)]


@pytest.mark.parametrize("objective, oracle, outputs", CASES)
def test_equals_the_oracle_with_hard_and_soft_labels_and_weights(objective, oracle, outputs):
    for seed in range(3):
        logits, labels, mask = batch(seed, outputs=outputs)
        weights = np.random.default_rng(seed + 9).random(mask.shape)
        args, more = on_device(logits, labels, mask, weights=weights)
        loss = objective(*args, **more)
        np.testing.assert_allclose(loss.total, oracle(logits, labels, mask, weights), rtol=2e-6)
        np.testing.assert_allclose(loss.weight, weights[mask].sum(), rtol=1e-6)
        plain = objective(*args)
        assert plain.weight == mask.sum()
        mean = oracle(logits, labels, mask, np.ones_like(labels)) / mask.sum()
        np.testing.assert_allclose(plain.mean(), mean, rtol=2e-6)


@pytest.mark.parametrize("objective, oracle, outputs", CASES)
def test_gradient_equals_finite_differences_of_the_oracle(objective, oracle, outputs):
    logits, labels, mask = batch(5, rows=2, steps=4, outputs=outputs)
    weights = np.ones_like(labels)
    (x, y, m), _ = on_device(logits, labels, mask)
    gradient = jax.grad(lambda x: objective(x, y, m).total)(x)
    for index in np.ndindex(logits.shape):
        high, low = logits.copy(), logits.copy()
        high[index] += 1e-5
        low[index] -= 1e-5
        difference = (oracle(high, labels, mask, weights) - oracle(low, labels, mask, weights)) / 2e-5
        np.testing.assert_allclose(gradient[index], difference, atol=2e-6)


def test_both_heads_agree_and_column_1_is_the_good_one():
    logits, labels, mask = batch(1)
    (x, y, m), _ = on_device(logits, labels, mask)
    two = jnp.concatenate([jnp.zeros_like(x), x], axis=-1)
    np.testing.assert_allclose(cross_entropy(two, y, m).total, binary_cross_entropy(x, y, m).total, rtol=1e-6)
    confident_and_right = cross_entropy(jnp.array([[[-9.0, 9.0]]]), jnp.ones((1, 1)), jnp.ones((1, 1), bool))
    assert confident_and_right.mean() < 1e-6 and confident_and_right.metric_means()["accuracy"] == 1


def test_hand_computed_value_and_metrics():
    x = jnp.array([[[np.log(3.0)], [0.0], [-2.0]]], jnp.float32)  # probabilities 3/4, 1/2, .119
    y = jnp.array([[1.0, 1.0, 0.0]])
    loss = binary_cross_entropy(x, y, jnp.array([[True, True, False]]))
    np.testing.assert_allclose(loss.mean(), (np.log(4 / 3) + np.log(2)) / 2, rtol=1e-6)
    assert loss.metric_means()["accuracy"] == 0.5 and loss.metric_means()["positives"] == 1


@pytest.mark.parametrize("name, outputs", [("binary_cross_entropy", 1), ("cross_entropy", 2)])
def test_extreme_logits_stay_finite(name, outputs):
    objective = STEP_OBJECTIVES[name]
    x = jnp.array([[1e4, -1e4, 1e4, -1e4]])[..., None] * jnp.ones(outputs)
    x = x if outputs == 1 else x.at[..., 0].multiply(-1)
    y = jnp.array([[1.0, 1.0, 0.0, 0.5]])
    mask = jnp.ones((1, 4), bool)
    value, gradient = jax.value_and_grad(lambda x: objective(x, y, mask).total)(x)
    gap = 1e4 if outputs == 1 else 2e4
    np.testing.assert_allclose(value, 2.5 * gap, rtol=1e-6)
    assert np.isfinite(gradient).all() and gradient[0, 0, -1] == 0 and gradient[0, 1, -1] == -1


@pytest.mark.parametrize("name", ["binary_cross_entropy", "pqm_ranking"])
def test_micro_batches_add_up_inside_a_scan(name):
    """As gradient accumulation does it; see `test_invariants` for the other objectives."""
    objective = jax.jit(STEP_OBJECTIVES[name])
    logits, labels, mask = batch(4, rows=6)
    mask[0], mask[1, 1:], mask[2:] = False, False, True
    (x, y, m), _ = on_device(logits, labels, mask)
    full = objective(x, y, m)

    def add(total, rows):
        return total + objective(*rows), None

    cut = jax.tree.map(lambda a: a.reshape(3, 2, *a.shape[1:]), (x, y, m))
    parts, _ = jax.lax.scan(add, Loss.zero(full.metrics), cut)
    np.testing.assert_allclose(parts.mean(), full.mean(), rtol=1e-6)
    assert parts.weight == full.weight
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), parts.metric_means(), full.metric_means())
    of_means = np.mean([objective(x[i : i + 2], y[i : i + 2], m[i : i + 2]).mean() for i in (0, 2, 4)])
    assert abs(of_means - full.mean()) > 1e-3


def test_equals_the_token_classification_loss_of_trl(shared):
    cases = json.loads((shared / "fixtures/golden/trl_losses.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "token_classification"]
    assert len(cases) >= 5
    gradient_of = jax.value_and_grad(lambda logits, labels, mask: cross_entropy(logits, labels, mask).mean())
    for case in cases:
        labels = np.array(case["inputs"]["labels"])
        mask = labels != -100
        if not mask.any():
            continue
        logits = jnp.array(case["inputs"]["logits"], jnp.float32)
        loss, gradient = gradient_of(logits, jnp.float32(labels), jnp.asarray(mask))
        np.testing.assert_allclose(loss, case["outputs"]["loss"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient, case["outputs"]["grad_logits"], atol=1e-5)
        accuracy = cross_entropy(logits, jnp.float32(labels), jnp.asarray(mask)).metric_means()["accuracy"]
        np.testing.assert_allclose(accuracy, case["outputs"]["accuracy"], rtol=1e-6)


def test_equals_the_soft_label_loss_of_openrlhf(shared):
    cases = json.loads((shared / "fixtures/golden/openrlhf_losses.json").read_text())["cases"]
    cases = [c for c in cases if c["inputs"]["kind"] == "prm_soft" and not c["note"].startswith("REFERENCE DEFECT")]
    for case in cases:
        inputs = case["inputs"]
        mask = np.array(inputs["input_ids"]) == inputs["placeholder_token_id"]
        right, wrong = inputs["reward_token_ids"]
        logits = jnp.array(inputs["logits"], jnp.float32)[..., jnp.array([wrong, right])]
        loss = cross_entropy(logits, jnp.array(inputs["labels"], jnp.float32), jnp.asarray(mask))
        np.testing.assert_allclose(loss.mean(), case["outputs"]["reward_tokens"]["loss"], rtol=1e-5)
