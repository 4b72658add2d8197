"""Attention in blocks against a dense softmax over all keys: values and gradients, packed rows, windows, long rows."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.models import Transformer, attention_kernels, forward, parameters, with_parameters
from jaxprm.models.attention import QUERY_BLOCK, attend
from jaxprm.testing import tiny_config
from jaxprm.testing.models import random_model


def dense(query, key, value, segment_ids, positions, scale, softcap=None, window=None):
    """One softmax over all keys of the row, ``[B, N, T, T]`` at once; zeros for padding."""
    group = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, group, axis=2) for x in (key, value))
    logits = jnp.einsum("btnh,bcnh->bntc", query, key, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    tokens = query.shape[1]
    seen = (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids[:, :, None] > 0)
    seen &= jnp.tril(jnp.ones((tokens, tokens), bool))
    if window is not None:
        seen &= (positions[:, :, None] - positions[:, None] < window) | (window == 0)
    weights = jax.nn.softmax(jnp.where(seen[:, None], logits, -1e30), axis=-1)
    out = jnp.einsum("bntc,bcnh->btnh", weights, value.astype(jnp.float32))
    return jnp.where((segment_ids > 0)[:, :, None, None], out, 0.0).astype(query.dtype)


def packed(rows, tokens, parts):
    """Segments and positions: row r holds ``parts + r`` solutions of about equal length and some padding at its end."""
    segments, positions = np.zeros((2, rows, tokens), np.int32)
    for row in range(rows):
        ends = np.linspace(0, tokens - tokens // 9, parts + row + 1).astype(int)
        for part, (start, end) in enumerate(zip(ends, ends[1:]), 1):
            segments[row, start:end], positions[row, start:end] = part, np.arange(end - start)
    return jnp.asarray(segments), jnp.asarray(positions)


def inputs(rows, tokens, heads, kv_heads, size, dtype=jnp.float32):
    rng = np.random.default_rng(tokens)
    return tuple(jnp.asarray(rng.standard_normal((rows, tokens, count, size)), dtype) for count in (heads, kv_heads, kv_heads))


def value_and_gradients(function, heads, *arguments):
    """Of a sum with different weights for every output; padding counts, too."""
    factors = jnp.asarray(np.random.default_rng(1).standard_normal(heads[0].shape), jnp.float32)

    def total(*heads):
        out = function(*heads, *arguments)
        return jnp.sum(out.astype(jnp.float32) * factors), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*heads)
    return out, *gradients


@pytest.mark.parametrize("rows, tokens, heads, parts, softcap, window", [
    (2, 1, (2, 2), 1, None, None), (3, 100, (4, 2), 2, None, 7), (2, 128, (3, 1), 1, 2.0, None), (2, 300, (4, 4), 3, 1.5, 40),
    (2, 2100, (2, 1), 2, None, 0),
    (1, 4096, (2, 1), 3, 3.0, 500)])
def test_blocks_equal_a_dense_softmax(rows, tokens, heads, parts, softcap, window):
    arrays = inputs(rows, tokens, *heads, 8)
    window = None if window is None else jnp.int32(window)
    arguments = (*packed(rows, tokens, parts), 0.4, softcap, window)
    for found, expected in zip(value_and_gradients(attend, arrays, *arguments), value_and_gradients(dense, arrays, *arguments)):
        np.testing.assert_allclose(found, expected, atol=2e-6 * max(1.0, np.abs(expected).max()))


def test_bfloat16_gradients_stay_close():
    arguments = (*packed(2, 300, 2), 0.4, None, None)
    exact = value_and_gradients(dense, inputs(2, 300, 4, 2, 16), *arguments)
    for found, expected in zip(value_and_gradients(attend, inputs(2, 300, 4, 2, 16, jnp.bfloat16), *arguments), exact):
        assert found.dtype == jnp.bfloat16
        assert np.abs(found.astype(np.float32) - expected).max() < 0.03 * np.abs(expected).max()


def test_padding_reads_zeros_and_gives_no_gradient():
    segments = jnp.asarray([[1] * 5 + [0] * 3])
    out, *gradients = value_and_gradients(attend, inputs(1, 8, 2, 2, 4), segments, jnp.arange(8)[None], 0.5, None, None)
    for x in (out, *gradients):
        assert not np.any(x[:, 5:]) and np.all(np.any(x[:, 1:4], axis=(0, 2, 3)))


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_nothing_grows_with_the_square_of_a_row(remat):
    """No array of the derivative, masks included, is larger than the logits of one block of queries."""
    config = tiny_config(context=8192, layers=5, heads=2, kv_heads=1, windows=(300, 0, 0, 0, 0), remat=remat)
    model = jax.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    ids = jax.ShapeDtypeStruct((1, 8192), jnp.int32)

    def total(values, ids):
        return jnp.sum(forward(with_parameters(model, values), ids, ids, ids))

    program = str(jax.make_jaxpr(jax.grad(total))(parameters(model), ids))
    sizes = [math.prod(map(int, shape.split(","))) for shape in re.findall(r":\w+\[([\d,]+)\]", program)]
    assert len(sizes) > 1000 and max(sizes) == config.heads * QUERY_BLOCK * 8192


def test_a_model_on_long_packed_rows_equals_dense_attention(monkeypatch):
    config = tiny_config(context=4096, windows=(300, 0), heads=1, kv_heads=1, remat="dots")
    model = random_model(lambda: Transformer(config, rngs=nnx.Rngs(0)), 0)
    segments, positions = packed(1, 4096, 3)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 20, (1, 4096)))

    def run():
        def total(values):
            hidden = forward(with_parameters(model, values), tokens, positions, segments)
            hidden = jnp.where((segments > 0)[..., None], hidden, 0.0)
            return jnp.sum(jnp.sin(hidden)), hidden

        return jax.jit(jax.grad(total, has_aux=True))(parameters(model))

    gradients, hidden = run()
    monkeypatch.setattr(attention_kernels, "attend", dense)
    expected_gradients, expected = run()
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[name], atol=1e-5 * np.abs(expected_gradients[name]).max(),
                                   err_msg=name)
