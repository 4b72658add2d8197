"""The memory of a training step, part by part. (`tests/pipelines/test_plan.py` compares it with XLA's own analysis.)"""

import dataclasses

import jax
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.models import HeadConfig, RewardModel, TransformerConfig, parameters
from jaxprm.models.sharding import abstract_mesh
from jaxprm.objectives import binary_cross_entropy
from jaxprm.testing import pack_solutions
from jaxprm.training import LoraConfig, OptimizerConfig, TrainConfig, step_loss
from jaxprm.training.memory import step_flops, step_memory
from jaxprm.training.optimizer import is_head

# More layers than are unrolled, and enough tokens that activations outweigh parameters, as they do in large models.
CONFIG = TransformerConfig(128, width=64, layers=9, heads=4, kv_heads=2, head_dim=16, mlp_dim=192)
LOSS, TRAINING = step_loss(binary_cross_entropy), TrainConfig(steps=10)
BATCH = pack_solutions([], 1, 256, 16, rows=8).arrays()


def build(config):
    return RewardModel(config, HeadConfig(), rngs=nnx.Rngs(0))


def test_parts_by_hand():
    found = step_memory(build, CONFIG, LOSS, TRAINING, BATCH)
    size = sum(value.size for value in parameters(jax.eval_shape(lambda: build(CONFIG))).values())
    assert found.weights == found.gradients == 4 * size
    assert found.optimizer == 2 * 4 * size + 4 + 4  # two moments, AdamW's counter and the schedule's
    assert found.batch == 8 * (256 * 3 * 4 + 16 * (4 + 1 + 4 + 1 + 4))
    # What a layer must keep at least: its input, three heads' projections, attention's result, two products of the MLP.
    least = 4 * 8 * 256 * CONFIG.layers * (64 + (4 + 2 + 2) * 16 + 4 * 16 + 2 * 192)
    assert least < found.activations < 4 * least


def test_what_is_trained_and_what_stays_by_hand():
    values = parameters(jax.eval_shape(lambda: build(CONFIG)))
    head = 4 * sum(value.size for name, value in values.items() if name.startswith("head."))
    plain = step_memory(build, CONFIG, LOSS, TRAINING, BATCH)
    query_and_up = 3 * CONFIG.layers * ((64 + 4 * 16) + (64 + 192))  # rank * layers * (rows + columns), of two weights
    config = dataclasses.replace(TRAINING, lora=LoraConfig(3, targets=("query", "up")), ema=0.9)
    adapted = step_memory(build, CONFIG, LOSS, config, BATCH)
    assert adapted.gradients == adapted.average == 4 * query_and_up + head
    assert adapted.weights == plain.weights + 4 * query_and_up
    assert adapted.optimizer == 2 * adapted.gradients + 4 + 4
    assert adapted.arguments == adapted.weights + adapted.optimizer + adapted.average + adapted.batch
    parts = step_memory(build, CONFIG, LOSS, dataclasses.replace(TRAINING, accumulate=4), BATCH)
    assert parts.gradients == 2 * plain.gradients and parts.arguments == plain.arguments and plain.average == 0
    assert 0.24 * plain.activations < parts.activations < 0.26 * plain.activations
    two_stages = dataclasses.replace(TRAINING, optimizer=OptimizerConfig(freeze_backbone_steps=5))
    first = step_memory(build, CONFIG, LOSS, two_stages, BATCH, only=is_head)
    assert first.gradients == head and first.activations < 0.01 * plain.activations
    assert first.optimizer == plain.optimizer + 12  # counters of two groups instead of one, and of the stages
    words = step_memory(build, dataclasses.replace(CONFIG, vocab_size=2**14), LOSS, TRAINING, BATCH, vocabulary=True)
    assert words.working == 4 * 2**24 * 4  # four chunks of logits of 64 MiB


def test_a_mesh_divides_everything():
    whole = step_memory(build, CONFIG, LOSS, TRAINING, BATCH)
    data = step_memory(build, CONFIG, LOSS, TRAINING, BATCH, abstract_mesh((8, 1, 1), 8))
    split = step_memory(build, CONFIG, LOSS, TRAINING, BATCH, abstract_mesh((1, 8, 1), 8))
    assert data.weights == whole.weights and data.optimizer == whole.optimizer
    assert 8 * data.batch == 8 * split.batch == whole.batch
    assert whole.weights / 8 <= split.weights < 1.1 * whole.weights / 8  # norms stay whole
    assert 0.95 * whole.activations < 8 * data.activations < 1.05 * whole.activations
    assert split.activations == data.activations  # rows are split alike


def test_rows_that_the_mesh_does_not_divide():
    with pytest.raises(InputError, match="field 'batch_rows' = 8: is not a multiple of the mesh's data \\* fsdp = 3"):
        step_memory(build, CONFIG, LOSS, TRAINING, BATCH, abstract_mesh((3, 1, 1), 3))
    with pytest.raises(InputError, match="does not divide its vocab axis of size 127"):
        step_memory(build, dataclasses.replace(CONFIG, vocab_size=127), LOSS, TRAINING, BATCH, abstract_mesh((1, 4, 2), 8))


def test_micro_batches_that_do_not_divide_the_rows_of_a_device():
    with pytest.raises(InputError, match="field 'accumulate' = 2: does not divide the 1 rows that a device has of a batch"):
        step_memory(build, CONFIG, LOSS, dataclasses.replace(TRAINING, accumulate=2), BATCH, abstract_mesh((8, 1, 1), 8))


def test_flops_by_hand():
    config = dataclasses.replace(CONFIG, layers=2)
    parameters_of_a_layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 192
    flops = step_flops(config, 3, 10)
    assert flops["matmul"] == 6 * 2 * parameters_of_a_layer * 30
    assert flops["attention"] == 3 * 2 * 2 * 3 * 2 * 64 * 55  # forward x 3; two products; 55 pairs in a row
    assert flops["recomputed"] == 0
    again = step_flops(dataclasses.replace(config, remat="full"), 3, 10)["recomputed"]
    assert again == (flops["matmul"] + flops["attention"]) / 3
    frozen, alone = step_flops(config, 3, 10, frozen_weights=True), step_flops(config, 3, 10, head_alone=True)
    assert frozen == flops | {"matmul": flops["matmul"] * 2 / 3}
    assert alone == {"matmul": flops["matmul"] / 3, "attention": flops["attention"] / 3, "recomputed": 0}
    words = step_flops(config, 3, 10, vocabulary=True)
    assert words["matmul"] - flops["matmul"] == 3 * words["recomputed"] == 3 * 2 * 64 * 128 * 30
