import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxprm.objectives import language_model, next_token_cross_entropy, token_entropies, token_log_probs


def data(seed=0, rows=3, length=7, width=5, vocabulary=11):
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((rows, length, width))
    unembedding = rng.standard_normal((width, vocabulary))
    targets = rng.integers(0, vocabulary, (rows, length))
    mask = rng.random((rows, length)) < 0.6
    return hidden, unembedding, targets, mask


def oracle_log_probs(hidden, unembedding, temperature=1.0):
    logits = hidden @ unembedding / temperature
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def device(hidden, unembedding, targets, mask):
    return jnp.float32(hidden), jnp.float32(unembedding), jnp.asarray(targets, jnp.int32), jnp.asarray(mask)


@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 100])
def test_loss_and_gradients_equal_the_oracle_for_every_chunk(chunk):
    hidden, unembedding, targets, mask = data()
    logp = oracle_log_probs(hidden, unembedding)
    chosen = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    h, u, y, m = device(hidden, unembedding, targets, mask)
    loss = next_token_cross_entropy(h, u, y, m, chunk=chunk)
    np.testing.assert_allclose(loss.total, -chosen[mask].sum(), rtol=2e-6)
    assert loss.weight == mask.sum()
    np.testing.assert_allclose(loss.metric_means()["accuracy"], (logp.argmax(-1) == targets)[mask].mean(), rtol=1e-6)

    residual = (np.exp(logp) - np.eye(11)[targets]) * mask[..., None]
    total = lambda h, u: next_token_cross_entropy(h, u, y, m, chunk=chunk).total
    by_hidden, by_unembedding = jax.grad(total, (0, 1))(h, u)
    np.testing.assert_allclose(by_hidden, residual @ unembedding.T, atol=1e-5)
    np.testing.assert_allclose(by_unembedding, np.einsum("btd,btv->dv", hidden, residual), atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_token_log_probs_and_entropies_equal_the_oracle(chunk, temperature):
    hidden, unembedding, targets, mask = data(1)
    logp = oracle_log_probs(hidden, unembedding, temperature)
    h, u, y, _ = device(hidden, unembedding, targets, mask)
    got = token_log_probs(h, u, y, temperature, chunk=chunk)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.take_along_axis(logp, targets[..., None], -1)[..., 0], rtol=1e-5, atol=1e-5)
    entropies = token_entropies(h, u, temperature, chunk=chunk)
    np.testing.assert_allclose(entropies, -(np.exp(logp) * logp).sum(-1), rtol=1e-4, atol=1e-5)


def test_a_cap_bends_logits_before_the_temperature():
    hidden, unembedding, targets, mask = data(1)
    h, u, y, m = device(hidden, unembedding, targets, mask)
    capped = 0.5 * np.tanh(hidden @ unembedding / 0.5) / 0.7
    logp = capped - np.log(np.exp(capped).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(token_log_probs(h, u, y, 0.7, softcap=0.5), chosen, atol=1e-5)
    np.testing.assert_allclose(token_entropies(h, u, 0.7, softcap=0.5), -(np.exp(logp) * logp).sum(-1), atol=1e-5)
    u2 = jnp.asarray(0.7 * unembedding)
    np.testing.assert_allclose(next_token_cross_entropy(h, u2, y, m, softcap=1e4).total,
                               next_token_cross_entropy(h, u2, y, m).total, rtol=1e-4)


def test_log_probs_are_differentiable_and_sum_to_one():
    hidden, unembedding, targets, mask = data(2)
    h, u, y, _ = device(hidden, unembedding, targets, mask)
    total = sum(jnp.exp(token_log_probs(h, u, jnp.full_like(y, token))) for token in range(11))
    np.testing.assert_allclose(total, np.ones_like(total), rtol=1e-5)
    direct = jax.grad(lambda u: jnp.sum(token_log_probs(h, u, y, 0.7)))(u)
    chunked = jax.grad(lambda u: jnp.sum(token_log_probs(h, u, y, 0.7, chunk=2)))(u)
    np.testing.assert_allclose(chunked, direct, rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite():
    h, u = jnp.array([[[1e4], [-1e4]]]), jnp.array([[1.0, -1.0, 0.0]])
    y, m = jnp.array([[0, 0]]), jnp.ones((1, 2), bool)
    value, gradient = jax.value_and_grad(lambda h: next_token_cross_entropy(h, u, y, m).total)(h)
    assert value == 2e4 and np.isfinite(gradient).all()
    assert (token_entropies(h, u) == 0).all()


def test_positions_outside_the_mask_are_never_read():
    hidden, unembedding, targets, mask = data(3)
    h, u, y, m = device(hidden, unembedding, targets, mask)
    clean = jax.value_and_grad(lambda u: next_token_cross_entropy(h, u, y, m).mean())(u)
    dirty_h = jnp.pad(jnp.where(m[..., None], h, jnp.nan), ((0, 1), (0, 4), (0, 0)), constant_values=jnp.nan)
    dirty_y = jnp.pad(jnp.where(m, y, -100), ((0, 1), (0, 4)), constant_values=-100)
    dirty_m = jnp.pad(m, ((0, 1), (0, 4)))
    dirty = jax.value_and_grad(lambda u: next_token_cross_entropy(dirty_h, u, dirty_y, dirty_m, chunk=4).mean())(u)
    np.testing.assert_allclose(dirty[0], clean[0], rtol=1e-6)
    np.testing.assert_allclose(dirty[1], clean[1], atol=1e-6)


def test_nothing_to_train_gives_zero():
    h, u, y, m = device(*data(4))
    assert next_token_cross_entropy(h, u, y, jnp.zeros_like(m)).mean() == 0


def test_a_large_vocabulary_is_cut_into_chunks_by_itself(monkeypatch):
    monkeypatch.setattr(language_model, "DIRECT_LOGITS", 3 * 11 * 2)
    h, u, y, m = device(*data(5, length=8))
    jaxpr = jax.make_jaxpr(lambda h: next_token_cross_entropy(h, u, y, m).total)(h)
    assert "scan" in str(jaxpr) and "3,8,11" not in str(jaxpr) and "3,2,11" in str(jaxpr)
    monkeypatch.setattr(language_model, "DIRECT_LOGITS", 3 * 11 * 8)
    assert "scan" not in str(jax.make_jaxpr(lambda h: next_token_cross_entropy(h, u, y, m).total)(h))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_equals_unsharded(kind):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(kind,) * 2)
    h, u, y, m = device(*data(6, rows=8, vocabulary=12))
    put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
    grad = jax.jit(jax.value_and_grad(lambda u, h, y, m: next_token_cross_entropy(h, u, y, m, chunk=2).mean()))
    alone = grad(u, h, y, m)
    with jax.set_mesh(mesh):
        spread = grad(put(u, None, "tensor"), put(h, "data"), put(y, "data"), put(m, "data"))
    np.testing.assert_allclose(spread[0], alone[0], rtol=1e-6)
    np.testing.assert_allclose(spread[1], alone[1], atol=1e-6)


def test_low_precision_inputs_are_accumulated_in_float32():
    hidden, unembedding, targets, mask = data(7, width=64, vocabulary=200)
    h, u, y, m = device(hidden, unembedding / 8, targets, mask)
    h, u = h.astype(jnp.bfloat16), u.astype(jnp.bfloat16)
    low = token_log_probs(h, u, y)
    same_values = token_log_probs(h.astype(jnp.float32), u.astype(jnp.float32), y)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, same_values, atol=1e-4)
