"""The memory plan against what XLA's compiled training step takes and allocates."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxprm.errors import InputError
from jaxprm.models import (
    HeadConfig,
    RewardModel,
    TransformerConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
    parameters,
)
from jaxprm.models.sharding import abstract_mesh
from jaxprm.objectives import binary_cross_entropy
from jaxprm.testing import pack_solutions
from jaxprm.training import OptimizerConfig, TrainState, make_train_step, mesh_scope, step_loss
from jaxprm.training.memory import step_flops, step_memory

# More layers than are unrolled, and enough tokens that activations outweigh parameters, as they do in large models.
CONFIG = TransformerConfig(128, width=64, layers=9, heads=4, kv_heads=2, head_dim=16, mlp_dim=192)
LOSS, OPTIMIZER = step_loss(binary_cross_entropy), OptimizerConfig().build(10)
BATCH = pack_solutions([], 1, 256, 16, rows=8).arrays()


def build(config):
    return RewardModel(config, HeadConfig(), rngs=nnx.Rngs(0))


def compiled(config, mesh):
    """XLA's memory analysis of the training step, per device."""
    model = jax.eval_shape(lambda: build(config))

    def place(array, sharding):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    values, whole = parameters(model), None if mesh is None else NamedSharding(mesh, PartitionSpec())
    places = dict.fromkeys(values) if mesh is None else parameter_shardings(values, mesh)
    values = {name: place(value, places[name]) for name, value in values.items()}
    batch = {name: place(value, mesh and batch_sharding(mesh)) for name, value in BATCH.items()}
    with mesh_scope(mesh):
        state = jax.jit(OPTIMIZER.init).lower(values).compile()
        shapes, shardings = jax.eval_shape(OPTIMIZER.init, values), state.output_shardings
        state = TrainState(place(jnp.zeros((), jnp.int32), whole), values,
                           jax.tree.map(place, shapes, shardings) if mesh else shapes)
        return make_train_step(model, LOSS, OPTIMIZER).lower(state, batch).compile().memory_analysis()


@pytest.mark.parametrize("remat, mesh", [("none", None), ("dots", None), ("full", None), ("dots", (2, 2, 2))], ids=str)
def test_the_plan_is_what_xla_allocates(remat, mesh):
    config = dataclasses.replace(CONFIG, remat=remat)
    found = step_memory(build, config, LOSS, OPTIMIZER, BATCH, None if mesh is None else abstract_mesh(mesh, 8))
    expected = compiled(config, None if mesh is None else make_mesh(*mesh))
    assert found.arguments + 4 == expected.argument_size_in_bytes  # the step counter is an int32
    # Measured with float32 on CPU: from 0.92 to 1.16.
    assert 0.85 < found.temporary / expected.temp_size_in_bytes < 1.25


def test_parts_by_hand():
    found = step_memory(build, CONFIG, LOSS, OPTIMIZER, BATCH)
    size = sum(value.size for value in parameters(jax.eval_shape(lambda: build(CONFIG))).values())
    assert found.weights == found.gradients == 4 * size
    assert found.optimizer == 2 * 4 * size + 4 + 4  # two moments, AdamW's counter and the schedule's
    assert found.batch == 8 * (256 * 3 * 4 + 16 * (4 + 1 + 4 + 1 + 4))
    # What a layer must keep at least: its input, three heads' projections, attention's result, two products of the MLP.
    least = 4 * 8 * 256 * CONFIG.layers * (64 + (4 + 2 + 2) * 16 + 4 * 16 + 2 * 192)
    assert least < found.activations < 4 * least


def test_a_mesh_divides_everything():
    whole = step_memory(build, CONFIG, LOSS, OPTIMIZER, BATCH)
    data = step_memory(build, CONFIG, LOSS, OPTIMIZER, BATCH, abstract_mesh((8, 1, 1), 8))
    split = step_memory(build, CONFIG, LOSS, OPTIMIZER, BATCH, abstract_mesh((1, 8, 1), 8))
    assert data.weights == whole.weights and data.optimizer == whole.optimizer
    assert 8 * data.batch == 8 * split.batch == whole.batch
    assert whole.weights / 8 <= split.weights < 1.1 * whole.weights / 8  # norms stay whole
    assert 0.95 * whole.activations < 8 * data.activations < 1.05 * whole.activations
    assert split.activations == data.activations  # rows are split alike


def test_rows_that_the_mesh_does_not_divide():
    with pytest.raises(InputError, match="field 'batch_rows' = 8: is not a multiple of the mesh's data \\* fsdp = 3"):
        step_memory(build, CONFIG, LOSS, OPTIMIZER, BATCH, abstract_mesh((3, 1, 1), 3))
    with pytest.raises(InputError, match="does not divide its vocab axis of size 127"):
        step_memory(build, dataclasses.replace(CONFIG, vocab_size=127), LOSS, OPTIMIZER, BATCH, abstract_mesh((1, 4, 2), 8))


def test_flops_by_hand():
    config = dataclasses.replace(CONFIG, layers=2)
    parameters_of_a_layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 192
    flops = step_flops(config, 3, 10)
    assert flops["matmul"] == 6 * 2 * parameters_of_a_layer * 30
    assert flops["attention"] == 3 * 2 * 2 * 3 * 2 * 64 * 55  # forward x 3; two products; 55 pairs in a row
    assert flops["recomputed"] == 0
    again = step_flops(dataclasses.replace(config, remat="full"), 3, 10)["recomputed"]
    assert again == (flops["matmul"] + flops["attention"]) / 3
