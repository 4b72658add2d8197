"""Adapters: the numbers of a dense change of the weights, on one device and on a mesh; what is trained, saved and returned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.data.examples import step_example
from jaxprm.data.pipeline import StepDataset
from jaxprm.errors import InputError
from jaxprm.models import LanguageModel, make_mesh, parameters, with_parameters
from jaxprm.objectives import binary_cross_entropy
from jaxprm.testing import KilledAt, random_solutions, tiny_config, tiny_reward_model
from jaxprm.training import Checkpoints, LoraConfig, OptimizerConfig, TrainConfig, fit, mesh_scope, step_loss
from jaxprm.training.lora import combined, fingerprint, merged, split
from jaxprm.training.placement import place_batch, place_parameters

LORA = LoraConfig(rank=2, alpha=6.0)
ARCHITECTURE = tiny_config(layers=2)
LOSS = step_loss(binary_cross_entropy)


@pytest.fixture(scope="module")
def model():
    return tiny_reward_model(0, config=ARCHITECTURE)


def dataset():
    examples = [step_example(s.ids, s.step_ends, s.labels) for s in random_solutions(0, 40)]
    return StepDataset(examples, row_tokens=32, row_steps=8, batch_rows=8, seed=2)


def disturbed(trained):
    """The zero halves made random, as they are in the middle of a training."""
    keys = jax.random.split(jax.random.key(1), len(trained))
    return {name: value + 0.1 * jax.random.normal(key, value.shape) for key, (name, value) in zip(keys, trained.items())}


def test_what_is_trained_and_where_it_starts(model):
    values = parameters(model)
    trained, frozen = split(LORA, values)
    sides = {"attention.query": 1, "attention.key": 1, "attention.value": 1, "attention.output": 2, "mlp.gate": 1, "mlp.up": 1,
             "mlp.down": 1}
    expected = {"head.kernel": values["head.kernel"].shape, "head.bias": values["head.bias"].shape}
    for name, inputs in sides.items():
        layers, *shape = values[f"backbone.blocks.{name}"].shape
        expected[f"backbone.blocks.{name}.lora_down"] = (layers, *shape[:inputs], 2)
        expected[f"backbone.blocks.{name}.lora_up"] = (layers, 2, *shape[inputs:])
    assert {name: value.shape for name, value in trained.items()} == expected
    assert trained.keys() & frozen.keys() == set() and frozen.keys() == values.keys() - {"head.kernel", "head.bias"}
    for name, value in merged(LORA, trained, frozen).items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)
    down = trained["backbone.blocks.mlp.down.lora_down"]
    np.testing.assert_allclose(np.std(down), ARCHITECTURE.mlp_dim ** -0.5, rtol=0.25)
    assert not np.array_equal(down, split(dataclasses.replace(LORA, seed=1), values)[0]["backbone.blocks.mlp.down.lora_down"])
    assert len(split(LoraConfig(targets=("up",)), values)[0]) == 4


def test_merged_weights_by_hand(model):
    trained, frozen = split(LORA, parameters(model))
    trained = disturbed(trained)
    whole = merged(LORA, trained, frozen)
    for name, product in (("mlp.up", "lir,lro->lio"), ("attention.query", "lir,lrnh->linh"),
                          ("attention.output", "lnhr,lro->lnho")):
        name = f"backbone.blocks.{name}"
        change = 3.0 * np.einsum(product, *(np.asarray(trained[f"{name}.lora_{half}"], np.float64) for half in ("down", "up")))
        np.testing.assert_allclose(whole[name], np.asarray(frozen[name]) + change, rtol=1e-5, atol=1e-6)
    assert whole.keys() == parameters(model).keys()


@pytest.mark.parametrize("mesh", [None, (2, 2, 2)], ids=str)
def test_loss_and_gradient_are_those_of_the_merged_model(mesh, model):
    """By the chain rule d/d down = dW up^T * scale and d/d up = down^T dW * scale, with dW that of the merged model."""
    batch = next(iter(dataset()))
    mesh = mesh and make_mesh(*mesh)
    trained, frozen = split(LORA, parameters(model))
    trained = disturbed(trained)
    whole = merged(LORA, trained, frozen)
    dense = jax.jit(jax.value_and_grad(lambda values, batch: LOSS(with_parameters(model, values), batch).mean()))(
        whole, place_batch(batch, None))
    placed = place_parameters(trained, mesh), place_parameters(frozen, mesh)
    architecture = jax.eval_shape(lambda: model)
    with mesh_scope(mesh):
        low = jax.jit(jax.value_and_grad(lambda trained, frozen, batch: LOSS(
            with_parameters(architecture, combined(LORA, trained, frozen)), batch).mean()))(*placed, place_batch(batch, mesh))
    np.testing.assert_allclose(low[0], dense[0], rtol=1e-5)
    for name in ("attention.query", "attention.output", "mlp.down"):
        name = f"backbone.blocks.{name}"
        layers, rank = frozen[name].shape[0], LORA.rank
        flat = lambda value, first, layers=layers: np.asarray(value).reshape(layers, *first)
        down, up = flat(trained[f"{name}.lora_down"], (-1, rank)), flat(trained[f"{name}.lora_up"], (rank, -1))
        change = flat(dense[1][name], (down.shape[1], up.shape[2]))
        for half, expected in (("down", 3 * change @ up.swapaxes(1, 2)), ("up", 3 * down.swapaxes(1, 2) @ change)):
            found = flat(low[1][f"{name}.lora_{half}"], expected.shape[1:])
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), err_msg=f"{name} {half}")
    np.testing.assert_allclose(low[1]["head.kernel"], dense[1]["head.kernel"], atol=1e-6)


CONFIG = TrainConfig(steps=4, optimizer=OptimizerConfig(learning_rate=0.02), log_every=1, checkpoint_every=2, lora=LORA)


def train(directory, model, mesh=None, progress=None, config=CONFIG):
    return fit(model, LOSS, dataset(), config, directory, run={}, mesh=mesh and make_mesh(*mesh), progress=progress)


def test_a_run_saves_adapters_and_returns_merged_weights(model, tmp_path):
    result = parameters(train(tmp_path / "one", model))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "two", model, (2, 2, 2), KilledAt(3))
    sharded = parameters(train(tmp_path / "two", model, (2, 2, 2)))  # goes on from step 2
    before = parameters(model)
    for name, value in result.items():
        moved = name.startswith("head.") or name.split(".")[-1] in LORA.targets
        assert (np.asarray(value) != np.asarray(before[name])).any() == moved, name
        np.testing.assert_allclose(jax.device_get(sharded[name]), value, atol=2e-3, err_msg=name)
    saved = (tmp_path / "one" / "checkpoints" / "4" / "state" / "_METADATA").read_text()
    assert "backbone.blocks.mlp.up.lora_down" in saved and "head.kernel" in saved and "backbone.embedding" not in saved
    other = with_parameters(model, before | {"backbone.embedding": before["backbone.embedding"] + 1e-3})
    with pytest.raises(InputError, match="was written by {'frozen_weights': .*start the run in another directory"):
        train(tmp_path / "one", other)
    assert "frozen_weights" in Checkpoints(tmp_path / "one" / "checkpoints", {}).about()


def test_fingerprints_see_every_bit_and_no_mesh(model):
    frozen = split(LORA, parameters(model))[1]
    before = fingerprint(frozen)
    assert fingerprint(place_parameters(frozen, make_mesh(2, 2, 2))) == before == fingerprint(dict(reversed(frozen.items())))
    name = "backbone.blocks.mlp.up"
    swapped = frozen[name].at[0, 0, 0].set(frozen[name][0, 0, 1]).at[0, 0, 1].set(frozen[name][0, 0, 0])
    assert fingerprint(frozen | {name: swapped}) != before
    assert fingerprint(frozen | {name: frozen[name].at[1, 2, 3].add(1e-6)}) != before
    half = {key: value.astype(jnp.bfloat16) for key, value in frozen.items()}
    assert fingerprint(half) != before and fingerprint(half) == fingerprint(dict(half))


@pytest.mark.parametrize("changes, field", [(dict(rank=0), "rank"), (dict(alpha=0.0), "alpha"), (dict(targets=()), "targets"),
                                            (dict(targets=("up", "up")), "targets"), (dict(targets=("norm",)), "targets"),
                                            (dict(seed=-1), "seed")])
def test_bad_configs_are_refused(changes, field):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        LoraConfig(**changes)


def test_a_language_model_has_no_head_to_train():
    values = parameters(LanguageModel(tiny_config(layers=1, tie_embeddings=False), rngs=nnx.Rngs(0)))
    trained, frozen = split(LoraConfig(rank=1, targets=("down",)), values)
    assert trained.keys() == {"backbone.blocks.mlp.down.lora_down", "backbone.blocks.mlp.down.lora_up"}
    assert "unembedding" in frozen
    with pytest.raises(InputError, match="this model has none of these projections"):
        split(LORA, {"table": jnp.zeros(3)})
