"""Meshes of 8 simulated devices give what one device gives; the table of parameters is complete."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from jaxprm.errors import InputError
from jaxprm.models import (
    HeadConfig,
    LanguageModel,
    PolicyRewardModel,
    RewardModel,
    RopeScaling,
    ShardingRules,
    batch_sharding,
    make_mesh,
    parameter_shardings,
    parameters,
    with_parameters,
)
from jaxprm.models.sharding import MESH_AXES, PARAMETER_AXES, parameter_axes
from jaxprm.objectives import binary_cross_entropy
from jaxprm.scoring import score_steps
from jaxprm.testing import pack_solutions, random_solutions, tiny_config, tiny_language_model, tiny_reward_model
from jaxprm.testing.models import random_model
from jaxprm.training import OptimizerConfig, initial_state, language_model_loss, make_train_step, mesh_scope, step_loss
from jaxprm.training.loop import place_batch

CONFIG = tiny_config(vocab_size=24, heads=8, kv_heads=8, head_dim=4, attention_bias=True, output_bias=True, qk_norm=True,
                     tie_embeddings=False)
MESHES = [(2, 4, 1), (2, 2, 2), (1, 1, 8)]


def auto_mesh(*shape):
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.fixture(scope="module")
def batch():
    return pack_solutions(random_solutions(0, 15, vocab_size=24), 2, 48, 8)


@pytest.fixture(scope="module")
def scores(batch):
    return np.asarray(jax.jit(score_steps)(tiny_reward_model(0, config=CONFIG), batch))


@pytest.mark.parametrize("mesh", [*MESHES, (8, 1, 1), "auto"], ids=str)
def test_scores(mesh, batch, scores):
    mesh = auto_mesh(2, 2, 2) if mesh == "auto" else make_mesh(*mesh)
    model = tiny_reward_model(0, config=CONFIG)
    places = parameter_shardings(parameters(model), mesh)
    model = with_parameters(model, {name: jax.device_put(value, places[name]) for name, value in parameters(model).items()})
    with jax.set_mesh(mesh):
        found = jax.jit(score_steps)(model, jax.device_put(batch, batch_sharding(mesh)))
    assert found.sharding.spec[0] == ("data", "fsdp") or mesh.axis_types[0] == AxisType.Auto
    np.testing.assert_allclose(found, scores, atol=1e-6)


@pytest.mark.parametrize("mesh, changes", [
    ((2, 4, 1), dict(kv_heads=1)), ((2, 4, 1), dict(kv_heads=1, attention_softcap=2.0)),
    ((2, 2, 2), dict(kv_heads=4, attention_softcap=2.0, windows=(3, 0), local_rope_theta=50.0, mlp_bias=True, post_norms=True,
                     embed_scale=True, norm_plus_one=True, query_scale=0.3)),
    ((2, 2, 2), dict(rope_scaling=RopeScaling("dynamic", 3.0, original_context=4)))], ids=str)
def test_scores_of_other_architectures(mesh, changes, batch):
    config = dataclasses.replace(CONFIG, **changes)
    model, mesh = tiny_reward_model(0, HeadConfig("mlp", hidden=8), config), make_mesh(*mesh)
    expected = jax.jit(score_steps)(model, batch)
    values = parameters(model)
    places = parameter_shardings(values, mesh)
    model = with_parameters(model, {name: jax.device_put(value, places[name]) for name, value in values.items()})
    with jax.set_mesh(mesh):
        found = jax.jit(score_steps)(model, jax.device_put(batch, batch_sharding(mesh)))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("mesh, changes, parameter, size", [
    ((2, 2, 2), dict(kv_heads=1), r"attention.key' = \(2, 16, 1, 4\)", "tensor of size 2 does not divide its kv_heads axis of"
     " size 1"),
    ((1, 1, 8), dict(mlp_dim=20), r"mlp.down' = \(2, 20, 16\)", "tensor of size 8 does not divide its mlp axis of size 20"),
    ((1, 8, 1), dict(width=12), r"attention.key' = \(2, 12, 8, 4\)", "fsdp of size 8 does not divide its embed axis of size"
     " 12")])
def test_sizes_that_a_mesh_does_not_divide_are_one_line(mesh, changes, parameter, size):
    model = jax.eval_shape(lambda: LanguageModel(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=rf"^field 'backbone\..*{parameter}: mesh axis {size}; choose another mesh$"):
        parameter_shardings(parameters(model), make_mesh(*mesh))


def trained(kind, mesh, batch):
    """(metrics of step 1, parameters after step 1, first moments): the moments are the gradient, times 0.1."""
    if kind == "step":
        model, loss = tiny_reward_model(0, config=CONFIG), step_loss(binary_cross_entropy)
        batch = batch.arrays()
    else:
        model = tiny_language_model(0, dataclasses.replace(CONFIG, tie_embeddings=True, remat="dots"))
        batch = dict(tokens=batch.tokens, positions=batch.positions, segment_ids=batch.segment_ids,
                     loss_mask=(batch.segment_ids > 0) & (batch.positions > 0))
        loss = language_model_loss
    optimizer = OptimizerConfig(warmup=0.0, clip=0.0, beta1=0.9).build(10)
    state = initial_state(model, optimizer, mesh)
    for name, value in state.parameters.items():
        if mesh is not None:
            assert value.sharding == parameter_shardings([name], mesh)[name]
    with mesh_scope(mesh):
        state, metrics = make_train_step(model, loss, optimizer)(state, place_batch(batch, mesh))
    moments = next(part.mu for part in jax.tree.leaves(state.optimizer_state, is_leaf=lambda x: hasattr(x, "mu"))
                   if hasattr(part, "mu"))
    return jax.device_get((metrics, state.parameters, moments))


@pytest.fixture(scope="module")
def unsharded(batch):
    return {kind: trained(kind, None, batch) for kind in ("step", "tokens")}


@pytest.mark.parametrize("kind, mesh", [
    ("step", (2, 2, 2)), ("step", (1, 1, 8)), ("step", (1, 8, 1)), ("step", (8, 1, 1)), ("step", (4, 1, 2)),
    ("tokens", (2, 4, 1)), ("tokens", (4, 2, 1)), ("tokens", (1, 2, 4))], ids=str)
def test_loss_gradient_and_train_step(kind, mesh, batch, unsharded):
    metrics, values, moments = trained(kind, make_mesh(*mesh), batch)
    expected_metrics, expected, expected_moments = unsharded[kind]
    assert metrics.keys() == expected_metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5, err_msg=name)
    for name in expected:
        scale = np.abs(expected_moments[name]).max()
        np.testing.assert_allclose(moments[name], expected_moments[name], atol=1e-5 * scale + 1e-8, err_msg=name)
        # Adam's first step is the sign of the gradient, so values agree where the gradient is not rounding noise.
        clear = np.abs(expected_moments[name]) > 1e-3 * scale
        np.testing.assert_allclose(values[name][clear], expected[name][clear], atol=1e-5, err_msg=name)


def test_every_parameter_matches_exactly_one_row_and_every_row_is_used():
    used = set()
    flags = ("attention_bias", "output_bias", "qk_norm", "tie_embeddings", "mlp_bias", "post_norms")
    heads = (HeadConfig("binary"), HeadConfig("mlp", hidden=4), HeadConfig("ensemble", hidden=4, members=3),
             HeadConfig("quantile", direction="gate"))
    for value, head in itertools.product([False, True], heads):
        config = tiny_config(**dict.fromkeys(flags, value))
        for model in (jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0))),  # noqa: B023
                      jax.eval_shape(lambda: PolicyRewardModel(config, head, rngs=nnx.Rngs(0))),  # noqa: B023
                      jax.eval_shape(lambda: RewardModel(config, head, rngs=nnx.Rngs(0)))):  # noqa: B023
            for name, array in parameters(model).items():
                axes = parameter_axes(name)  # raises unless exactly one row matches
                assert len(axes) == array.ndim, name
                used.add(next(pattern for pattern, _ in PARAMETER_AXES if re.fullmatch(pattern, name)))
    assert used == {pattern for pattern, _ in PARAMETER_AXES}
    with pytest.raises(InputError, match="field 'backbone.other': matches 0 rows"):
        parameter_axes("backbone.other")


@pytest.mark.parametrize("head", [HeadConfig("lm_rows", rows=(5, 11)), HeadConfig("binary", direction="gate")],
                         ids=["lm_rows", "gate"])
def test_scores_of_a_policy_and_of_two_directions(head, batch):
    model = random_model(lambda: PolicyRewardModel(CONFIG, head, rngs=nnx.Rngs(0)), 3)
    if head.direction != "forward":  # any pairing of places is a pairing for this test
        batch = dataclasses.replace(batch, partners=np.broadcast_to(np.arange(8, dtype=np.int32)[::-1], batch.step_ends.shape))
    expected = np.asarray(jax.jit(score_steps)(model, batch))
    mesh = make_mesh(2, 2, 2)
    places = parameter_shardings(parameters(model), mesh)
    spread = with_parameters(model, {name: jax.device_put(value, places[name]) for name, value in parameters(model).items()})
    with jax.set_mesh(mesh):
        found = jax.jit(score_steps)(spread, jax.device_put(batch, batch_sharding(mesh)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected[batch.step_mask]) > 0.1


def test_rules_refuse_two_axes_on_one_mesh_axis():
    assert ShardingRules().spec(("vocab", "embed")) == PartitionSpec("tensor", "fsdp")
    assert ShardingRules(embed=None).spec(("batch", None, "embed")) == PartitionSpec(("data", "fsdp"), None, None)
    with pytest.raises(InputError, match="puts two axes of"):
        ShardingRules(vocab="fsdp").spec(("vocab", "embed"))
    with pytest.raises(InputError, match="puts two axes of"):
        ShardingRules().spec(("batch", "embed"))


@pytest.mark.parametrize("sizes, message", [
    ((3, 1, 1), "does not cover the 8 devices"), ((-1, -1, 1), "at most one size may be -1"), ((0, 1, 1), "at most one size"),
    ((-1, 16, 1), "does not cover the 8 devices")])
def test_meshes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(*sizes)


def test_one_size_of_a_mesh_may_be_the_rest():
    mesh = make_mesh(-1, 2, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2} and set(mesh.axis_types) == {AxisType.Explicit}
    assert make_mesh(devices=jax.devices()[:1]).size == 1


def test_a_mesh_of_one_device_trains(batch):
    metrics, values, _ = trained("step", make_mesh(devices=jax.devices()[:1]), batch)
    assert jnp.isfinite(metrics["loss"]) and all(np.isfinite(value).all() for value in values.values())
