"""Rotary frequencies: golden numbers of transformers 5.23, an oracle, and the length that dynamic scaling follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.models import PromptCache, RopeScaling, empty_cache, extend, forward, prefill
from jaxprm.models.rope import inverse_frequencies, rotary_angles, rotate, text_lengths
from jaxprm.testing import tiny_config, tiny_language_model
from jaxprm.testing.oracles import rope_frequencies

SCALINGS = [RopeScaling("linear", 8.0), RopeScaling("llama3", 8.0, 8192), RopeScaling("yarn", 4.0, 32768),
            RopeScaling("yarn", 4.0, 64, attention_factor=1.5), RopeScaling("llama3", 4.0, 64, low_freq_factor=2.0),
            RopeScaling("yarn", 2.0, 64, beta_fast=4.0, beta_slow=0.25)]
run_extend, run_forward, run_prefill = jax.jit(extend), jax.jit(forward), jax.jit(prefill)


@pytest.mark.parametrize("theta, scaling, expected, amplitude", [
    (500_000.0, RopeScaling("llama3", 8.0, 8192),
     [1.0, 0.03760603070259094, 0.0005248460220173001, 6.647869668086059e-06], 1.0),
    (1_000_000.0, RopeScaling("yarn", 4.0, 32768),
     [1.0, 0.03162277862429619, 0.0006250000442378223, 7.905693564680405e-06], 1.138629436111989),
    (10_000.0, RopeScaling("linear", 8.0), [0.125, 0.012500000186264515, 0.0012499999720603228, 0.0001250000059371814], 1.0)])
def test_golden_frequencies(theta, scaling, expected, amplitude):
    np.testing.assert_allclose(inverse_frequencies(8, theta, scaling), expected, rtol=2e-7)
    assert scaling.amplitude == pytest.approx(amplitude, rel=1e-12)


@pytest.mark.parametrize("size, theta", [(8, 1e4), (16, 1e6), (12, 300.0)])
@pytest.mark.parametrize("scaling", [None, *SCALINGS], ids=str)
def test_frequencies_equal_the_oracle(size, theta, scaling):
    expected, amplitude = rope_frequencies(size, theta, scaling, 10)
    np.testing.assert_allclose(inverse_frequencies(size, theta, scaling), expected, rtol=1e-5)
    cos, sin = rotary_angles(jnp.asarray([[0, 3]]), size, theta, scaling)
    np.testing.assert_allclose(cos[0, :, 0], amplitude * np.cos(np.outer([0, 3], expected)), atol=1e-5)
    np.testing.assert_allclose(sin[0, :, 0], amplitude * np.sin(np.outer([0, 3], expected)), atol=1e-5)


def test_every_number_of_a_scaling_is_live():
    changes = {"linear": {"factor": 2.0}, "llama3": {"factor": 2.0, "original_context": 40, "low_freq_factor": 1.5,
                                                     "high_freq_factor": 9.0},
               "yarn": {"factor": 2.0, "original_context": 20, "beta_fast": 9.0, "beta_slow": 0.2, "attention_factor": 2.0}}
    for kind, fields in changes.items():
        for field, value in fields.items():
            base = dict(kind=kind, factor=8.0, original_context=640 if kind == "yarn" else 64)
            first, second = (rotary_angles(jnp.asarray([[1, 30]]), 16, 100.0, RopeScaling(**values))
                             for values in (base, base | {field: value}))
            assert max(float(abs(a - b).max()) for a, b in zip(first, second)) > 1e-3, (kind, field)


def test_rotation_keeps_lengths_and_depends_on_distances():
    rng = np.random.default_rng(0)
    query, key = jnp.asarray(rng.standard_normal((2, 1, 1, 1, 8)), jnp.float32)
    products = []
    for offset in (0, 5, 90):
        turned = [rotate(x, rotary_angles(jnp.asarray([[offset + at]]), 8, 100.0)) for x, at in ((query, 7), (key, 3))]
        np.testing.assert_allclose([float(jnp.linalg.norm(x)) for x in turned],
                                   [float(jnp.linalg.norm(x)) for x in (query, key)], rtol=1e-5)
        products.append(float(jnp.sum(turned[0] * turned[1])))
    np.testing.assert_allclose(products, products[0], atol=1e-4)


def test_text_lengths():
    lengths = text_lengths(jnp.asarray([[0, 1, 2, 0, 1, 0]]), jnp.asarray([[1, 1, 1, 2, 2, 0]]))
    assert lengths.tolist() == [[3, 3, 3, 2, 2, 1]]


def test_dynamic_frequencies_follow_the_text_and_cached_keys_keep_theirs():
    """Up to the original context: as without scaling. Beyond: in one piece as one text; in pieces each key keeps its angle."""
    plain = tiny_language_model(2, tiny_config(layers=1, rope_theta=100.0)).backbone
    model = tiny_language_model(2, tiny_config(layers=1, rope_theta=100.0,
                                               rope_scaling=RopeScaling("dynamic", 4.0, original_context=6))).backbone
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, 20, (1, 10)), jnp.int32)

    def whole(model, count):
        args = tokens[:, :count], jnp.arange(count)[None], jnp.ones((1, count), jnp.int32)
        return np.asarray(run_forward(model, *args))[0]

    def pieces(model, *counts):
        _, prompt = run_prefill(model, tokens[:, : counts[0]], jnp.asarray([counts[0]]))
        assert isinstance(prompt, PromptCache)
        cache, at = empty_cache(model.config, 1, 8, prompt), counts[0]
        for count in counts[1:]:
            hidden, cache = run_extend(model, cache, tokens[:, at : at + count], jnp.asarray([count]))
            at += count
        return np.asarray(hidden)[0, -1]

    np.testing.assert_allclose(whole(model, 6), whole(plain, 6), atol=1e-5)
    np.testing.assert_allclose(pieces(model, 2, 2, 2), whole(model, 6)[-1], atol=1e-5)
    assert np.abs(whole(model, 10) - whole(plain, 10)).max() > 0.05
    assert np.abs(whole(model, 10)[:6] - whole(model, 6)).max() > 0.01  # also tokens before the original context move
    assert np.abs(pieces(model, 6, 2, 2) - whole(model, 10)[-1]).max() > 0.01
    assert np.abs(pieces(model, 6, 4) - pieces(model, 6, 2, 2)).max() > 0.001


@pytest.mark.parametrize("field, values", [
    ("kind", dict(kind="ntk")), ("factor", dict(factor=0.5)), ("original_context", dict(original_context=None)),
    ("original_context", dict(original_context=0)), ("low_freq_factor", dict(low_freq_factor=4.0)),
    ("low_freq_factor", dict(low_freq_factor=0.0)), ("beta_slow", dict(beta_slow=40.0)),
    ("attention_factor", dict(attention_factor=0.0))])
def test_bad_scalings_are_refused(field, values, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        RopeScaling(**dict(kind="yarn", factor=4.0, original_context=64) | values)
    with pytest.raises(InputError, match="field 'head_dim' = 2: must be at least 4"):
        tiny_config(head_dim=2, rope_scaling=RopeScaling("dynamic", 2.0, 8))
