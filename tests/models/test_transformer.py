"""The decoder against a float64 oracle, and every field of its config."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.models import (
    LanguageModel,
    RopeScaling,
    TransformerConfig,
    attention,
    forward,
    forward_steps,
    gather_steps,
    logits,
    parameters,
    with_parameters,
)
from jaxprm.models.linear import project
from jaxprm.testing import tiny_config, tiny_language_model
from jaxprm.testing.oracles import decoder_hidden, next_token_logits

run_forward = jax.jit(forward)
TOKENS = np.random.default_rng(0).integers(1, 20, (2, 9)).astype(np.int32)


def whole_rows(tokens):
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return jnp.asarray(tokens), jnp.asarray(positions), jnp.ones_like(tokens)


def abstract(config):
    return jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))


def shapes(config):
    return {name: value.shape for name, value in parameters(abstract(config)).items()}


CHANGES = dict(vocab_size=21, width=32, layers=3, heads=8, kv_heads=1, head_dim=16, mlp_dim=40, context=65, rope_theta=100.0,
               norm_eps=0.1, attention_bias=True, output_bias=True, qk_norm=True, tie_embeddings=False, dtype="bfloat16",
               remat="full", activation="gelu_tanh", mlp_bias=True, norm_plus_one=True, post_norms=True, embed_scale=True,
               query_scale=0.1, attention_softcap=1.0, logit_softcap=2.0, windows=(0, 3),
               rope_scaling=RopeScaling("linear", 4.0), local_rope_theta=100.0, attention="splash")
WITH = {"local_rope_theta": {"windows": (0, 3)}}  # fields that mean something only beside others
# Read by StepScorer and LocalPolicy; chooses a kernel. Their tests show it.
NO_EFFECT_HERE = {"context", "attention"}


def test_every_field_has_a_case():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(TransformerConfig)}


@pytest.mark.parametrize("field", sorted(CHANGES.keys() - NO_EFFECT_HERE))
def test_every_field_is_live(field):
    before, after = (tiny_config(**WITH.get(field, {}), **changes) for changes in ({}, {field: CHANGES[field]}))
    if shapes(before) != shapes(after):
        return
    if field == "remat":
        program = lambda config: str(jax.make_jaxpr(  # noqa: E731
            lambda model: forward(model.backbone, *whole_rows(TOKENS)))(tiny_language_model(0, config)))
        assert program(after).count("remat") > program(before).count("remat")  # attention computes its weights again by itself
        return
    models = [tiny_language_model(0, config) for config in (before, after)]
    hidden = [run_forward(model.backbone, *whole_rows(TOKENS)) for model in models]
    first, second = (np.asarray(logits(*pair), np.float32) for pair in zip(models, hidden))
    assert np.abs(first - second).max() > 1e-3
    # What a step head reads has no cap.
    assert (np.abs(np.asarray(hidden[0] - hidden[1], np.float32)).max() > 1e-3) == (field != "logit_softcap")


GEMMA = dict(activation="gelu_tanh", norm_plus_one=True, post_norms=True, embed_scale=True, query_scale=0.2,
             attention_softcap=2.0, logit_softcap=3.0, windows=(3, 0))


EVERY_KIND = pytest.mark.parametrize("changes", [
    {},
    GEMMA,
    dict(layers=6, windows=(2, 4, 1, 0, 4, 9), qk_norm=True, rope_scaling=RopeScaling("linear", 4.0), local_rope_theta=50.0),
    dict(mlp_bias=True, activation="gelu_tanh", kv_heads=1, attention_softcap=1.0),
    dict(rope_scaling=RopeScaling("dynamic", 3.0, original_context=5), rope_theta=100.0),
    dict(rope_scaling=RopeScaling("llama3", 4.0, original_context=30), rope_theta=20.0),
    dict(rope_scaling=RopeScaling("yarn", 4.0, original_context=30, beta_fast=2.0, beta_slow=0.5), rope_theta=20.0),
    dict(attention_bias=True, output_bias=True, qk_norm=True, tie_embeddings=False),
    dict(layers=9, kv_heads=1, rope_theta=500.0),  # deep: the scan stays rolled
    dict(heads=2, kv_heads=2, head_dim=6, norm_eps=1e-2, attention_bias=True),
], ids=["plain", "gemma", "windows", "biases", "dynamic", "llama3", "yarn", "all_parts", "deep", "full_heads"])


@EVERY_KIND
def test_forward_equals_the_float64_oracle(changes):
    config = tiny_config(**changes)
    model = tiny_language_model(3, config)
    hidden = run_forward(model.backbone, *whole_rows(TOKENS))
    values = parameters(model)
    for row, tokens in enumerate(TOKENS):
        np.testing.assert_allclose(hidden[row], decoder_hidden(config, values, tokens), atol=1e-4, rtol=1e-4)
    expected = next_token_logits(config, values, TOKENS[0])
    np.testing.assert_allclose(logits(model, hidden)[0], expected, atol=3e-4, rtol=3e-4)


@EVERY_KIND
def test_reading_step_ends_equals_reading_all(changes):
    """In a packed row with padding, unsorted and repeated ends; the first row's last place is padding itself."""
    model = tiny_language_model(5, tiny_config(**changes)).backbone
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 2, 0], [1] * 9], np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 4, 0], range(9)], np.int32)
    arrays = jnp.asarray(TOKENS), jnp.asarray(positions), jnp.asarray(segments)
    ends = jnp.array([[2, 5, 7, 0], [8, 1, 1, 4]], jnp.int32)
    expected = gather_steps(run_forward(model, *arrays), ends)
    np.testing.assert_allclose(jax.jit(forward_steps)(model, *arrays, ends), expected, atol=1e-5)


@pytest.mark.parametrize("changes", [dict(GEMMA, remat="dots"), dict(layers=9, attention_bias=True)], ids=["shallow", "deep"])
def test_the_derivative_of_reading_step_ends_is_that_of_reading_all(changes):
    config = tiny_config(**changes)
    values = parameters(tiny_language_model(5, config))
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2, 0], [1] * 9], jnp.int32)
    positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 0], range(9)], jnp.int32)
    ends, real = jnp.array([[2, 5, 7, 0], [8, 1, 1, 4]], jnp.int32), jnp.array([[1, 1, 1, 0], [1, 1, 1, 1]])

    def gradient(read):
        def loss(values):
            hidden = read(with_parameters(abstract(config), values).backbone, jnp.asarray(TOKENS), positions, segments)
            return jnp.sum(jnp.sin(hidden) * real[:, :, None])

        return jax.jit(jax.grad(loss))(values)

    expected = gradient(lambda model, *arrays: gather_steps(forward(model, *arrays), ends))
    for name, value in gradient(lambda *arrays: forward_steps(*arrays, ends, derivative=True)).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-5, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("tokens", [130, 256, 300])
def test_blocks_of_queries_equal_one_matrix(tokens, monkeypatch):
    """Rows of several blocks, of a length that is and is not a multiple of one; and spans of several blocks each."""
    rng = np.random.default_rng(tokens)
    query, key, value = (rng.normal(size=(2, tokens, heads, 4)).astype(np.float32) for heads in (4, 2, 2))
    segments = np.sort(rng.integers(1, 4, (2, tokens)).astype(np.int32), axis=1) % 3
    positions = np.tile(np.arange(tokens, dtype=np.int32), (2, 1))
    index = np.arange(tokens)
    seen = (segments[:, :, None] == segments[:, None]) & (segments[:, :, None] > 0) & (index[:, None] >= index)
    seen &= index[:, None] - index < 40
    logits = np.einsum("btkgh,bskh->bkgts", query.reshape(2, tokens, 2, 2, 4).astype(float), key) * 0.5
    weights = np.exp(np.where(seen[:, None, None], logits, -np.inf) - 20) + 1e-300
    expected = np.einsum("bkgts,bskh->btkgh", weights / weights.sum(-1, keepdims=True), value).reshape(query.shape)
    real = segments > 0
    for spans in (16, 1):
        monkeypatch.setattr(attention, "_SPANS", spans)
        found = np.asarray(jax.jit(attention.attend, static_argnums=(5, 6))(query, key, value, segments, positions, 0.5, None,
                                                                           jnp.int32(40)))
        np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
        jax.clear_caches()


@pytest.mark.parametrize("changes", [{}, GEMMA, dict(rope_scaling=RopeScaling("dynamic", 3.0, original_context=2))],
                         ids=["plain", "gemma", "dynamic"])
def test_packed_rows_equal_the_oracle_of_each_part(changes):
    """In: a | b behind each other in one row, then padding. Each part is as if it stood alone."""
    config = tiny_config(**changes)
    model = tiny_language_model(4, config)
    parts = [TOKENS[0, :3], TOKENS[1, :5]]
    tokens = np.concatenate([*parts, [7]])[None]
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 4, 0]], np.int32)
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 2, 0]], np.int32)
    hidden = np.asarray(run_forward(model.backbone, jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments)))[0]
    for part, at in zip(parts, (slice(0, 3), slice(3, 8))):
        np.testing.assert_allclose(hidden[at], decoder_hidden(config, parameters(model), part), atol=1e-4, rtol=1e-4)
    assert np.isfinite(hidden).all()  # padding has no key to read


def test_bfloat16_stays_close():
    model = tiny_language_model(5)
    lower = with_parameters(abstract(tiny_config(dtype="bfloat16")), parameters(model))
    full = np.asarray(run_forward(model.backbone, *whole_rows(TOKENS)))
    half = run_forward(lower.backbone, *whole_rows(TOKENS))
    assert half.dtype == jnp.bfloat16 and logits(lower, half).dtype == jnp.float32
    error = np.asarray(half, np.float32) - full
    assert 1e-3 < np.sqrt(np.mean(error**2) / np.mean(full**2)) < 0.02


def test_remat_policies_and_depth_give_one_gradient():
    """Layers beyond the first two of the deep model are silent, so rolled and unrolled loops must agree too."""

    def gradient(config, values):
        def loss(values):
            model = with_parameters(abstract(config), values)
            return jnp.sum(jnp.sin(forward(model.backbone, *whole_rows(TOKENS)).astype(jnp.float32)))

        return jax.jit(jax.grad(loss))(values)

    values = parameters(tiny_language_model(6))
    reference = gradient(tiny_config(), values)
    for remat in ("dots", "full"):
        for name, value in gradient(tiny_config(remat=remat), values).items():
            np.testing.assert_allclose(value, reference[name], atol=2e-5, rtol=1e-4, err_msg=f"{remat} {name}")

    deep = parameters(tiny_language_model(0, tiny_config(layers=9)))
    for name, value in deep.items():
        if ".blocks." in name:
            value = value.at[:2].set(values[name])
            deep[name] = value.at[2:].set(0) if name.endswith(("attention.output", "mlp.down")) else value
        else:
            deep[name] = values[name]
    for name, value in gradient(tiny_config(layers=9, remat="full"), deep).items():
        value = value[:2] if ".blocks." in name else value
        np.testing.assert_allclose(value, reference[name], atol=2e-5, rtol=1e-4, err_msg=f"deep {name}")


@pytest.mark.parametrize("shape, inputs", [((12, 7), 1), ((12, 3, 5), 1), ((3, 4, 7), 2)])
def test_project_and_its_gradient_equal_autodiff(shape, inputs):
    rng = np.random.default_rng(1)
    lead = (2, 5)
    x = jnp.asarray(rng.standard_normal((*lead, *shape[:inputs])), jnp.float32)
    weight = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    plain = lambda x, w: jnp.tensordot(x, w, inputs)  # noqa: E731
    ours = lambda x, w: project(x, w, (None,) * w.ndim, inputs=inputs)  # noqa: E731
    (expected, expected_pull), (found, pull) = jax.vjp(plain, x, weight), jax.vjp(ours, x, weight)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    signal = jnp.asarray(rng.standard_normal(expected.shape), jnp.float32)
    for one, other in zip(pull(signal), expected_pull(signal)):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_project_rounds_once_in_bfloat16():
    """Forward and gradient are the float64 products of the rounded inputs, rounded once; the weight's keeps its own dtype."""
    rng = np.random.default_rng(2)
    x, weight, signal = (jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in ((2, 3, 64), (64, 5), (2, 3, 5)))
    master = weight.astype(jnp.float32)
    found, pull = jax.vjp(lambda x, w: project(x, w, (None, None)), x, master)
    of_x, of_weight = pull(signal)
    wide = [np.asarray(value, np.float64) for value in (x, weight, signal)]
    expected = (wide[0] @ wide[1], wide[2] @ wide[1].T, np.einsum("bti,bto->io", wide[0], wide[2]))
    for value, dtype, right in zip((found, of_x, of_weight), (jnp.bfloat16, jnp.bfloat16, jnp.float32), expected):
        assert value.dtype == dtype
        np.testing.assert_allclose(np.asarray(value, np.float64), right, rtol=2**-8, atol=1e-6)


def test_the_dots_policy_keeps_bfloat16_products():
    """They hide in a function with a derivative of its own; computed again, they would cost a third of a step."""
    def residuals(remat):
        model = abstract(tiny_config(dtype="bfloat16", remat=remat, layers=6))
        pull = jax.eval_shape(lambda model: jax.vjp(lambda one: forward(one.backbone, *whole_rows(TOKENS)), model)[1], model)
        return sum(value.size * value.dtype.itemsize for value in jax.tree.leaves(pull))

    everything, products, nothing = map(residuals, ("none", "dots", "full"))
    config = tiny_config()
    widths = config.head_dim * (2 * config.heads + 2 * config.kv_heads) + config.width + 3 * config.mlp_dim
    assert products - nothing >= 6 * TOKENS.size * (widths - config.mlp_dim - config.heads * config.head_dim) * 2
    assert everything > products


def test_parameters_round_trip_and_misfits_are_listed():
    model = tiny_language_model(7)
    values = parameters(model)
    again = parameters(with_parameters(jax.eval_shape(lambda: model), values))
    assert list(again) == list(values) and all((again[name] == values[name]).all() for name in values)
    wrong = {**values, "extra": values["backbone.embedding"], "backbone.embedding": jnp.zeros((3, 3))}
    del wrong["backbone.final_norm.scale"]
    with pytest.raises(InputError) as error:
        with_parameters(model, wrong, source="weights")
    assert str(error.value) == ("weights: parameters do not fit the architecture: missing backbone.final_norm.scale, unknown "
                                "extra, backbone.embedding has shape (3, 3), expected (20, 16)")


@pytest.mark.parametrize("field, value", [
    ("kv_heads", 3), ("head_dim", 7), ("layers", 0), ("rope_theta", 0.0), ("norm_eps", -1.0), ("dtype", "float16"),
    ("remat", "some"), ("activation", "gelu"), ("query_scale", 0.0), ("attention_softcap", -1.0), ("logit_softcap", 0.0),
    ("windows", (1, 2, 3)), ("windows", (1, -1)), ("local_rope_theta", -5.0), ("local_rope_theta", 100.0)])
def test_bad_configs_are_refused(field, value, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        tiny_config(**{field: value})


SCRIPT = """
import jax
from jaxprm.models import parameters
from jaxprm.objectives import binary_cross_entropy
from jaxprm.testing import pack_solutions, random_solutions, tiny_config, tiny_reward_model
from jaxprm.training import OptimizerConfig, initial_state, make_train_step, step_loss
model = tiny_reward_model(0, config=tiny_config(layers=1, qk_norm=True))
optimizer = OptimizerConfig().build(2)
batch = pack_solutions(random_solutions(0, 4), 2, 48, 8).arrays()
state, metrics = make_train_step(model, step_loss(binary_cross_entropy), optimizer)(initial_state(model, optimizer), batch)
print(float(metrics["loss"]))
"""


def test_trains_without_graph_mode():
    """Modules are plain pytrees here, so the coming default of Flax (tree mode) changes nothing."""
    losses = []
    for mode in ("true", "false"):
        done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=False,
                              env={**os.environ, "NNX_GRAPH_MODE": mode, "NNX_GRAPH_UPDATES": mode, "JAX_NUM_CPU_DEVICES": "1"})
        assert done.returncode == 0, done.stderr
        losses.append(float(done.stdout))
    assert losses[0] == losses[1] and np.isfinite(losses[0])
