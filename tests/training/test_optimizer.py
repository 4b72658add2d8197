"""Schedule, decay mask and clipping, in numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprm.errors import InputError
from jaxprm.models import make_mesh, parameters
from jaxprm.testing import tiny_config, tiny_reward_model
from jaxprm.training import OptimizerConfig, initial_state, mesh_scope
from jaxprm.training.placement import place_parameters


def test_schedule_by_hand():
    """100 steps: 10 of warm-up to 0.2, then half a cosine down to a tenth of it; half-way it is the mean of both."""
    schedule = OptimizerConfig(learning_rate=0.2, warmup=0.1, final_rate=0.1).schedule(100)
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10, 55, 100, 200)], [0, 0.1, 0.2, 0.11, 0.02, 0.02], atol=1e-7)
    constant = OptimizerConfig(learning_rate=0.2, warmup=0.0, final_rate=1.0).schedule(100)
    np.testing.assert_allclose([constant(i) for i in (0, 50, 100)], 0.2, rtol=1e-6)
    rising = OptimizerConfig(learning_rate=0.2, warmup=1.0).schedule(4)
    np.testing.assert_allclose([rising(i) for i in range(4)], [0, 0.05, 0.1, 0.15], atol=1e-7)


def test_decay_leaves_norms_and_biases_alone():
    """With no gradient AdamW only decays: p * (1 - rate * decay), and 1 for norms and biases."""
    config = tiny_config(layers=1, attention_bias=True, output_bias=True, qk_norm=True)
    values = parameters(tiny_reward_model(0, config=config))
    optimizer = OptimizerConfig(learning_rate=0.5, warmup=0.0, final_rate=1.0, weight_decay=0.2).build(10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, values), optimizer.init(values), values)
    kept = {name for name, update in updates.items() if not np.asarray(update).any()}
    assert kept == {name for name in values if "norm" in name or "bias" in name} and len(kept) == 10
    for name in values.keys() - kept:
        np.testing.assert_allclose(updates[name], -0.1 * values[name], rtol=1e-5)


def test_first_step_is_adam_after_clipping():
    """Adam's first update is -rate * g / (|g| + eps); the moments show the clipped gradient."""
    gradient = {"w": jnp.asarray([3.0, -4.0])}  # norm 5
    for clip, factor in ((1.0, 0.2), (0.0, 1.0), (10.0, 1.0)):
        config = OptimizerConfig(learning_rate=0.1, warmup=0.0, weight_decay=0.0, clip=clip, beta1=0.9, beta2=0.99)
        optimizer = config.build(10)
        updates, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
        np.testing.assert_allclose(updates["w"], [-0.1, 0.1], rtol=1e-4)
        moments = next(part for part in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
                       if isinstance(part, optax.ScaleByAdamState))
        np.testing.assert_allclose(moments.mu["w"], 0.1 * factor * gradient["w"], rtol=1e-5)
        np.testing.assert_allclose(moments.nu["w"], 0.01 * (factor * gradient["w"]) ** 2, rtol=1e-5)


@pytest.mark.parametrize("decay, expected", [
    ("cosine", [0, 0.1, 0.2, 0.11, 0.02, 0.02]), ("linear", [0, 0.1, 0.2, 0.11, 0.02, 0.02]),
    ("constant", [0, 0.1, 0.2, 0.2, 0.2, 0.2]), ("wsd", [0, 0.1, 0.2, 0.2, 0.02, 0.02])])
def test_schedules_by_name(decay, expected):
    schedule = OptimizerConfig(learning_rate=0.2, warmup=0.1, final_rate=0.1, decay=decay).schedule(100)
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10, 55, 100, 200)], expected, atol=1e-7)
    # a third of the way: a line has gone further down than half a cosine, the stable part has not begun to fall
    np.testing.assert_allclose(schedule(40), {"cosine": 0.155, "linear": 0.14}.get(decay, 0.2), atol=1e-7)
    last = [float(schedule(i)) for i in (79, 80, 90)]
    if decay == "wsd":
        np.testing.assert_allclose(last, [0.2, 0.2, 0.11], atol=1e-6)
    half = OptimizerConfig(learning_rate=0.2, warmup=0.0, final_rate=0.0, decay="wsd", decay_share=0.5).schedule(8)
    np.testing.assert_allclose([half(i) for i in (3, 4, 6, 8)], [0.2, 0.2, 0.1, 0.0], atol=1e-7)


def first_update(config, gradient, values, steps=10):
    optimizer = config.build(steps)
    return jax.jit(optimizer.update)(gradient, optimizer.init(values), values)


def random_like(values, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(values))
    return {name: jax.random.normal(key, value.shape) for key, (name, value) in zip(keys, values.items())}


PLAIN = dict(learning_rate=0.1, warmup=0.0, clip=0.0)


@pytest.mark.parametrize("rule", ["adamw", "adafactor", "lion", "muon"])
def test_every_rule_decays_matrices_times_the_rate(rule):
    """With a gradient of zero only the decay is left."""
    values = parameters(tiny_reward_model(0, config=tiny_config(layers=2)))
    values = random_like(values)
    config = OptimizerConfig(**PLAIN, weight_decay=0.5, rule=rule)
    updates, _ = first_update(config, jax.tree.map(jnp.zeros_like, values), values)
    for name, value in values.items():
        factor = 0.0 if name.endswith(("scale", "bias")) else -0.05
        np.testing.assert_allclose(updates[name], factor * value, rtol=1e-4, atol=1e-7, err_msg=name)


def test_lion_moves_by_the_sign_and_adafactor_by_a_root_mean_square_of_one():
    gradient = {"w": jnp.asarray([[3.0, -4.0, 0.5]])}
    updates, _ = first_update(OptimizerConfig(**PLAIN, weight_decay=0.0, rule="lion"), gradient, gradient)
    np.testing.assert_allclose(updates["w"], [[-0.1, 0.1, -0.1]], rtol=1e-6)
    large = {"w": jax.random.normal(jax.random.key(0), (128, 160)) * 7}
    updates, state = first_update(OptimizerConfig(**PLAIN, weight_decay=0.0, rule="adafactor"), large, large)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(updates["w"]))), 0.1, rtol=0.02)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes[-1] == 160 and 128 in sizes  # rows and columns, not 128 * 160 second moments


def orthogonal(matrix, steps=5):
    """NumPy Newton-Schulz of Jordan et al. (2024) after one step of Nesterov momentum 0.95, which only scales."""
    matrix = np.asarray(matrix, np.float64)
    flipped = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if flipped else matrix
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if flipped else x


def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adamw():
    config = tiny_config(layers=3, attention_bias=True)
    values = random_like(parameters(tiny_reward_model(0, config=config)))
    gradient = random_like(values, 1)
    updates, state = first_update(OptimizerConfig(**PLAIN, weight_decay=0.0, beta1=0.95, rule="muon"), gradient, values)
    adam, _ = first_update(OptimizerConfig(**PLAIN, weight_decay=0.0, beta1=0.95), gradient, values)
    width, inner = config.width, config.heads * config.head_dim
    shapes = {"attention.query": (width, inner), "attention.key": (width, config.kv_heads * config.head_dim),
              "attention.value": (width, config.kv_heads * config.head_dim), "attention.output": (inner, width),
              "mlp.gate": (width, config.mlp_dim), "mlp.up": (width, config.mlp_dim), "mlp.down": (config.mlp_dim, width)}
    for name, update in updates.items():
        shape = shapes.get(name.removeprefix("backbone.blocks."))
        if shape is None:
            np.testing.assert_allclose(update, adam[name], rtol=1e-5, err_msg=name)
            continue
        for layer in range(config.layers):
            expected = -0.1 * 0.2 * max(shape) ** 0.5 * orthogonal(gradient[name][layer].reshape(shape))
            np.testing.assert_allclose(update[layer].reshape(shape), expected, atol=2e-4 * np.abs(expected).max(), err_msg=name)


def test_muon_on_a_mesh_is_that_of_one_device():
    values = random_like(parameters(tiny_reward_model(0, config=tiny_config(layers=2))))
    gradient = random_like(values, 1)
    config = OptimizerConfig(**PLAIN, rule="muon")
    expected, _ = first_update(config, gradient, values)
    mesh = make_mesh(2, 2, 2)
    place = lambda tree: place_parameters(tree, mesh)
    state = initial_state(values, config.build(10), mesh)
    with mesh_scope(mesh):
        updates, _ = jax.jit(config.build(10).update)(place(gradient), state.optimizer_state, state.parameters)
    for name, update in updates.items():
        assert update.sharding == state.parameters[name].sharding, name
        np.testing.assert_allclose(update, expected[name], atol=1e-4 * np.abs(expected[name]).max(), err_msg=name)


def test_a_rate_for_the_head():
    values = {"backbone.w": jnp.ones(2), "head.kernel": jnp.ones(2)}
    config = OptimizerConfig(**PLAIN, weight_decay=0.0, head_learning_rate=0.3)
    updates, _ = first_update(config, values, values)
    np.testing.assert_allclose(updates["backbone.w"], -0.1, rtol=1e-4)
    np.testing.assert_allclose(updates["head.kernel"], -0.3, rtol=1e-4)
    with pytest.raises(InputError, match="this model has no head"):
        config.build(10).init({"backbone.w": jnp.ones(2)})


def test_a_frozen_backbone_starts_afresh_when_it_thaws():
    """Stage 1 of 4 steps: the head at 0.2, down to 0.02. Stage 2 of 6: both at 0.05, the backbone's moments fresh, so that
    its first update has the full rate."""
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0, clip=0.0, weight_decay=0.1, head_learning_rate=0.2,
                             freeze_backbone_steps=4, unfrozen_learning_rate=0.05, decay="linear")
    values = {"backbone.w": jnp.ones(2), "head.kernel": jnp.ones(2)}
    optimizer = config.build(10)
    state, moved = optimizer.init(values), []
    for index in range(10):
        gradient = {"backbone.w": jnp.zeros(2) if index < 4 else jnp.ones(2), "head.kernel": jnp.ones(2)}
        updates, state = optimizer.update(gradient, state, jax.tree.map(jnp.zeros_like, values))
        moved.append([float(updates["backbone.w"][0]), float(updates["head.kernel"][0])])
    backbone, head = -np.array(moved).T
    line = [0.05 * (1 - 0.9 * i / 6) for i in range(6)]
    np.testing.assert_allclose(backbone, [0, 0, 0, 0, *line], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(head, [*(0.2 * (1 - 0.9 * i / 4) for i in range(4)), *line], rtol=1e-4)
    for schedule, expected in ((config.schedule(10), backbone), (config.schedule(10, head=True), head)):
        np.testing.assert_allclose([schedule(i) for i in range(10)], expected, rtol=1e-4, atol=1e-9)
    same = OptimizerConfig(learning_rate=0.1, warmup=0.0, head_learning_rate=0.2, freeze_backbone_steps=4)
    np.testing.assert_allclose([same.schedule(10)(4), same.schedule(10, head=True)(4)], [0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize("changes, field", [(dict(rule="sgd"), "rule"), (dict(decay="step"), "decay"),
                                            (dict(decay_share=2.0), "decay_share"),
                                            (dict(head_learning_rate=0.0), "head_learning_rate"),
                                            (dict(freeze_backbone_steps=-1), "freeze_backbone_steps"),
                                            (dict(unfrozen_learning_rate=0.1), "unfrozen_learning_rate"),
                                            (dict(freeze_backbone_steps=1, unfrozen_learning_rate=-1.0),
                                             "unfrozen_learning_rate")])
def test_bad_new_options_are_refused(changes, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        OptimizerConfig(**changes)


@pytest.mark.parametrize("changes, field", [(dict(learning_rate=0.0), "learning_rate"), (dict(warmup=1.5), "warmup"),
                                            (dict(final_rate=-0.1), "final_rate"), (dict(beta1=1.2), "beta1"),
                                            (dict(beta2=-1.0), "beta2"), (dict(weight_decay=-1.0), "weight_decay"),
                                            (dict(clip=-1.0), "clip")])
def test_bad_configs_are_refused(changes, field):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        OptimizerConfig(**changes)
