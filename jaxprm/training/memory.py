"""Bytes per device and floating-point operations of a training step, from shapes and shardings alone.

Nothing is compiled or allocated: the step is traced with abstract arrays on an abstract mesh. What lies in memory from step to
step (parameters, optimiser state, batch) is exact. What the backward pass keeps is read from the traced derivative, so it
follows the model's remat policy and its shardings; what a layer needs while it is computed is an estimate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Literal
from jax.sharding import AbstractMesh, NamedSharding

from jaxprm.errors import InputError
from jaxprm.models.attention import QUERY_BLOCK
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import batch_sharding, parameters, with_parameters
from jaxprm.objectives.language_model import DIRECT_LOGITS
from jaxprm.training import lora
from jaxprm.training.config import TrainConfig
from jaxprm.training.lora import LoraConfig
from jaxprm.training.placement import placements
from jaxprm.training.step import LossFunction

_LOGITS_ALIVE = 3  # arrays of the size of a block's attention logits at once: the logits, the weights, their gradient
_WORDS_ALIVE = 4  # arrays of the size of a chunk's next-token logits at once (as XLA has it on a CPU)


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes per device of one training step.

    Attributes:
      weights: parameters, of which adapters train few.
      optimizer: the optimiser's state.
      average: the moving average of what is trained.
      batch: rows of one step.
      gradients: one per trained parameter; two where those of micro-batches are summed.
      activations: what the forward pass keeps for the backward pass.
      working: what the largest part of the model needs besides while it is computed (estimate).
    """

    weights: int
    optimizer: int
    average: int
    batch: int
    gradients: int
    activations: int
    working: int

    @property
    def arguments(self) -> int:
        """What the compiled step takes as input, but for its step counter."""
        return self.weights + self.optimizer + self.average + self.batch

    @property
    def temporary(self) -> int:
        """What the compiled step allocates besides."""
        return self.gradients + self.activations + self.working

    @property
    def total(self) -> int:
        return self.arguments + self.temporary


def step_memory(build: Callable[[TransformerConfig], nnx.Module], config: TransformerConfig, loss_function: LossFunction,
                training: TrainConfig, batch: Mapping[str, Any], mesh: AbstractMesh | None = None, *,
                vocabulary: bool = False, only: Callable[[str], bool] | None = None) -> StepMemory:
    """Memory of the step that `fit` compiles from the same arguments.

    Args:
      build: the model of an architecture; it is traced, not run.
      config: the architecture.
      loss_function: (model, batch) -> Loss.
      training: optimiser, micro-batches, moving average and adapters.
      batch: name -> array with a leading axis of rows, or its shape and dtype; ``tokens`` is int32[B, T].
      mesh: `jaxprm.models.sharding.abstract_mesh`; None = one device.
      vocabulary: whether the loss reads next-token logits.
      only: names of the parameters that have a gradient, as for `make_train_step`.

    Raises:
      InputError: the mesh does not divide a parameter, or the batch's rows; micro-batches do not divide the rows of a device.
    """
    config = dataclasses.replace(config, attention="blocked")  # other kernels keep the same and cannot be traced everywhere
    model, sizes = jax.eval_shape(lambda: build(config)), {} if mesh is None else dict(mesh.shape)
    rows, tokens = batch["tokens"].shape
    split, tensor = sizes.get("data", 1) * sizes.get("fsdp", 1), sizes.get("tensor", 1)
    if rows % split:
        raise InputError(f"is not a multiple of the mesh's data * fsdp = {split}", field="batch_rows", value=rows,
                         hint="every device holds the same number of rows")
    if rows // split % training.accumulate:
        raise InputError(f"does not divide the {rows // split} rows that a device has of a batch", field="accumulate",
                         value=training.accumulate)
    whole, frozen = jax.eval_shape(lambda values: lora.split(training.lora, values), parameters(model))
    trained, frozen = (_placed(values, mesh and placements(values, mesh)) for values in (whole, frozen))
    inputs = _placed(batch, mesh and dict.fromkeys(batch, batch_sharding(mesh)))
    rows //= training.accumulate
    part = _placed({name: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype) for name, value in batch.items()},
                   mesh and dict.fromkeys(batch, batch_sharding(mesh)))

    def kept(model: nnx.Module) -> int:
        return _kept(model, loss_function, training.lora, trained, frozen, part, only)

    layer = 0
    with contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh):
        state = jax.eval_shape(training.optimizer.build(training.steps).init, trained)
        activations = kept(model)
        if config.remat != "none" and only is None:  # a layer is computed again, and keeps all until its gradient is known
            layer = kept(jax.eval_shape(lambda: build(dataclasses.replace(config, remat="none")))) // config.layers
    heads = config.heads if config.kv_heads == 1 else config.heads // tensor
    logits = rows // split * heads * min(QUERY_BLOCK, tokens) * tokens * 4
    mlp = rows // split * tokens * config.mlp_dim // tensor * config.compute_dtype.itemsize
    # Stored weights are gathered before use (in float32): a layer's, with their gradient before it is split, and the table.
    directions = 1 if only is not None else 2
    gathered = directions * 4 * config.matmul_parameters // config.layers // tensor if sizes.get("fsdp", 1) > 1 else 0
    table = 0 if mesh is None else config.vocab_size * config.width * 4
    working = max(layer + _LOGITS_ALIVE * logits + 2 * mlp + gathered, table)
    if vocabulary:  # in chunks; the table is read as input and as output, and has a gradient
        words = min(DIRECT_LOGITS, rows * tokens * config.vocab_size) * 4 // (split * tensor)
        working = max(working, _WORDS_ALIVE * words + 3 * table)
    moving = _bytes(value for name, value in trained.items() if only is None or only(name))
    return StepMemory(weights=_bytes((*trained.values(), *frozen.values())), optimizer=_bytes(jax.tree.leaves(state)),
                      average=_bytes(trained.values()) if training.ema else 0, batch=_bytes(inputs.values()),
                      gradients=moving * (1 if training.accumulate == 1 else 2), activations=activations, working=working)


def _placed(arrays: Mapping[str, Any], shardings: Mapping[str, NamedSharding] | None) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=None if shardings is None else shardings[name])
            for name, array in arrays.items()}


def _kept(model: nnx.Module, loss_function: LossFunction, adapters: LoraConfig | None, trained: Mapping, frozen: Mapping,
          batch: Mapping, only: Callable[[str], bool] | None) -> int:
    """Bytes that the forward pass hands to the backward pass, without the parameters and the batch themselves."""
    architecture = jax.eval_shape(lambda: model)

    def derivative(trained, frozen, batch):
        def total(moving):
            values = lora.combined(adapters, trained | moving, frozen)
            return loss_function(with_parameters(architecture, values), batch).mean()

        moving = {name: value for name, value in trained.items() if only is None or only(name)}
        return jax.tree.leaves(jax.vjp(total, moving)[1])

    jaxpr = jax.make_jaxpr(derivative)(trained, frozen, batch).jaxpr
    given = set(map(id, (*jaxpr.invars, *jaxpr.constvars)))
    kept = {id(out): out.aval for out in jaxpr.outvars if not isinstance(out, Literal) and id(out) not in given}
    return _bytes(kept.values())


def _bytes(arrays: Iterable[Any]) -> int:
    """Per device; what has no sharding lies on every device."""
    total = 0
    for array in arrays:
        sharding = getattr(array, "sharding", None)
        placed = isinstance(sharding, NamedSharding) and not sharding.mesh.empty
        shape = sharding.shard_shape(array.shape) if placed else array.shape
        total += math.prod(shape) * jnp.dtype(array.dtype).itemsize
    return total


def step_flops(config: TransformerConfig, rows: int, tokens: int, *, vocabulary: bool = False, frozen_weights: bool = False,
               head_alone: bool = False) -> dict[str, float]:
    """Floating-point operations of one training step over all devices, by what they are spent on.

    ``matmul`` is ``6 N`` per token with N parameters in matrix products (2 forward, 4 backward); ``attention`` is
    ``12 * heads * head_dim`` per layer and pair of a query and a key, with every row one solution that fills it (packed rows
    and windows need less); ``recomputed`` is what the remat policy adds: a forward pass for "full", attention is kept by
    "dots". Norms, activations, the head and adapters are left out.

    Args:
      config: of the model.
      rows, tokens: of a batch.
      vocabulary: count the products with a language model's output matrix; in chunks, their forward pass is computed twice.
      frozen_weights: weights have no gradient of their own (LoRA): 4 instead of 6.
      head_alone: there is no backward pass.
    """
    passes = 1 if head_alone else 2 if frozen_weights else 3
    matmul = 2.0 * passes * config.matmul_parameters * rows * tokens
    pairs = rows * tokens * (tokens + 1) / 2
    attention = 4.0 * (1 if head_alone else 3) * config.heads * config.head_dim * config.layers * pairs
    again = 0.0 if head_alone or config.remat != "full" else matmul / passes + attention / 3
    if vocabulary:
        words = 2.0 * config.width * config.vocab_size * rows * tokens
        matmul, again = matmul + 3 * words, again + words
    return {"matmul": matmul, "attention": attention, "recomputed": again}
