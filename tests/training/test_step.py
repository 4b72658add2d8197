"""One step: micro-batches, moving average, compute type, a backbone that stands still."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprm.errors import InputError
from jaxprm.models import make_mesh, parameters
from jaxprm.objectives import binary_cross_entropy
from jaxprm.testing import pack_solutions, random_solutions, tiny_config, tiny_reward_model
from jaxprm.training import initial_state, make_train_step, mesh_scope, step_loss
from jaxprm.training.optimizer import is_head
from jaxprm.training.placement import place_batch
from jaxprm.training.step import micro_batches

CONFIG = tiny_config(layers=1)
LOSS = step_loss(binary_cross_entropy)
SGD = optax.sgd(1.0)  # the change of a parameter is its gradient


@pytest.fixture(scope="module")
def batch():
    """8 rows; all labels of the odd ones are gone but one, so micro-batches of even and odd rows have unequal weights."""
    packed = pack_solutions(random_solutions(0, 16), per_row=2, tokens=56, steps=8).arrays()
    mask = np.array(packed["label_mask"])
    mask[1::2] = False
    mask[3, 0] = packed["step_mask"][3, 0]
    assert mask[::2].sum() > 5 * mask[1::2].sum() > 0
    return {name: np.asarray(value) for name, value in packed.items()} | {"label_mask": mask}


def one_step(batch, optimizer=SGD, mesh=None, config=CONFIG, average=False, steps=1, **options):
    model = tiny_reward_model(0, config=config)
    state = initial_state(model, optimizer, mesh, average=average)
    train_step = make_train_step(model, LOSS, optimizer, **options)
    with mesh_scope(mesh):
        for _ in range(steps):
            state, metrics = train_step(state, place_batch(batch, mesh))
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def whole(batch):
    return one_step(batch)


@pytest.mark.parametrize("accumulate, mesh", [(2, None), (8, None), (2, (2, 2, 2))], ids=str)
def test_micro_batches_have_the_gradient_of_the_whole_batch(accumulate, mesh, batch, whole):
    """The mean of the micro-batches' means would weigh a row with one label as much as a row with many."""
    state, metrics = one_step(batch, mesh=mesh and make_mesh(*mesh), accumulate=accumulate)
    start = parameters(tiny_reward_model(0, config=CONFIG))
    for name, value in metrics.items():
        np.testing.assert_allclose(value, whole[1][name], rtol=1e-5, err_msg=name)
    for name, value in state.parameters.items():
        gradient = start[name] - whole[0].parameters[name]
        np.testing.assert_allclose(start[name] - value, gradient, atol=1e-5 * np.abs(gradient).max() + 1e-7, err_msg=name)


def test_micro_batches_take_every_nth_row():
    rows = micro_batches({"x": jnp.arange(8)[:, None]}, 2)["x"]
    np.testing.assert_array_equal(rows[..., 0], [[0, 2, 4, 6], [1, 3, 5, 7]])
    with pytest.raises(InputError, match="field 'accumulate' = 3: does not divide the 8 rows that a device has"):
        micro_batches({"x": jnp.arange(8)}, 3)
    mesh = make_mesh(4, 1, 2)
    with mesh_scope(mesh), pytest.raises(InputError, match="= 4: does not divide the 2 rows"):
        micro_batches(place_batch({"x": np.arange(8)}, mesh), 4)


def test_a_step_without_labels_changes_nothing(batch):
    state, metrics = one_step(batch | {"label_mask": np.zeros_like(batch["label_mask"])}, accumulate=2)
    assert metrics["loss"] == metrics["gradient_norm"] == 0
    for name, value in parameters(tiny_reward_model(0, config=CONFIG)).items():
        np.testing.assert_array_equal(state.parameters[name], value)


def test_bfloat16_is_for_activations_only(batch, whole):
    """Parameters, moments, gradients and the average stay float32: an update smaller than bfloat16 can hold is not lost."""
    adam = optax.adam(1e-6)
    state, metrics = one_step(batch, adam, config=dataclasses.replace(CONFIG, dtype="bfloat16"), average=True, ema=0.9)
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {np.dtype(np.float32)} and len(floats) == 4 * len(state.parameters)
    np.testing.assert_allclose(metrics["loss"], whole[1]["loss"], rtol=0.02)
    assert metrics["loss"] != whole[1]["loss"]
    start = np.asarray(parameters(tiny_reward_model(0, config=CONFIG))["backbone.final_norm.scale"])
    moved = state.parameters["backbone.final_norm.scale"]
    assert (moved != start).any() and (moved.astype(jnp.bfloat16) == start.astype(jnp.bfloat16)).all()


def test_moving_average_by_hand(batch):
    """Decays of the first steps: min(0.15, 1/10), min(0.15, 2/11): the ramp first, then the limit."""
    one, two = (one_step(batch, average=True, ema=0.15, steps=steps)[0] for steps in (1, 2))
    start = parameters(tiny_reward_model(0, config=CONFIG))
    for name, value in start.items():
        first = 0.1 * value + 0.9 * one.parameters[name]
        np.testing.assert_allclose(one.average[name], first, rtol=1e-5, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(two.average[name], 0.15 * first + 0.85 * two.parameters[name], rtol=1e-5, atol=1e-7)
    assert one.result is one.average


def test_a_step_of_the_head_alone(batch, whole):
    state, _ = one_step(batch, only=is_head)
    for name, value in parameters(tiny_reward_model(0, config=CONFIG)).items():
        expected = whole[0].parameters[name] if is_head(name) else value
        np.testing.assert_allclose(state.parameters[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)
