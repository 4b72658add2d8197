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
import optax
from flax import nnx
from jax.extend.core import Literal
from jax.sharding import AbstractMesh, NamedSharding

from jaxprm.errors import InputError
from jaxprm.models.attention import QUERY_BLOCK
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import batch_sharding, parameter_shardings, parameters, with_parameters
from jaxprm.training.loop import LossFunction

_LOGITS_ALIVE = 3  # arrays of the size of a block's attention logits at once: the logits, the weights, their gradient


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes per device of one training step.

    Attributes:
      weights: parameters.
      optimizer: the optimiser's state.
      batch: rows of one step.
      gradients: one per parameter.
      activations: what the forward pass keeps for the backward pass.
      working: what the largest part of the model needs besides while it is computed (estimate).
    """

    weights: int
    optimizer: int
    batch: int
    gradients: int
    activations: int
    working: int

    @property
    def arguments(self) -> int:
        """What the compiled step takes as input, but for its step counter."""
        return self.weights + self.optimizer + self.batch

    @property
    def temporary(self) -> int:
        """What the compiled step allocates besides."""
        return self.gradients + self.activations + self.working

    @property
    def total(self) -> int:
        return self.arguments + self.temporary


def step_memory(build: Callable[[TransformerConfig], nnx.Module], config: TransformerConfig, loss_function: LossFunction,
                optimizer: optax.GradientTransformation, batch: Mapping[str, Any],
                mesh: AbstractMesh | None = None) -> StepMemory:
    """Memory of the step that `make_train_step` compiles from the same arguments.

    Args:
      build: the model of an architecture; it is traced, not run.
      config: the architecture.
      loss_function: (model, batch) -> Loss.
      optimizer: as `OptimizerConfig.build` gives it.
      batch: name -> array with a leading axis of rows, or its shape and dtype; ``tokens`` is int32[B, T].
      mesh: `jaxprm.models.sharding.abstract_mesh`; None = one device.

    Raises:
      InputError: the mesh does not divide a parameter, or the batch's rows.
    """
    config = dataclasses.replace(config, attention="blocked")  # other kernels keep the same and cannot be traced everywhere
    model, sizes = jax.eval_shape(lambda: build(config)), {} if mesh is None else dict(mesh.shape)
    rows, tokens = batch["tokens"].shape
    split, tensor = sizes.get("data", 1) * sizes.get("fsdp", 1), sizes.get("tensor", 1)
    if rows % split:
        raise InputError(f"is not a multiple of the mesh's data * fsdp = {split}", field="batch_rows", value=rows,
                         hint="every device holds the same number of rows")
    values = _placed(parameters(model), mesh and parameter_shardings(parameters(model), mesh))
    inputs = _placed(batch, mesh and dict.fromkeys(batch, batch_sharding(mesh)))
    layer = 0
    with contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh):
        state = jax.eval_shape(optimizer.init, values)
        activations = _kept(model, loss_function, values, inputs)
        if config.remat != "none":  # a layer is computed again, and keeps everything until its gradient is known
            plain = jax.eval_shape(lambda: build(dataclasses.replace(config, remat="none")))
            layer = _kept(plain, loss_function, values, inputs) // config.layers
    heads = config.heads if config.kv_heads == 1 else config.heads // tensor
    logits = rows // split * heads * min(QUERY_BLOCK, tokens) * tokens * 4
    mlp = rows // split * tokens * config.mlp_dim // tensor * config.compute_dtype.itemsize
    # The embedding table is gathered to be read, and so is its gradient before it is split.
    table = 0 if mesh is None else config.vocab_size * config.width * 4
    weights = _bytes(values.values())
    return StepMemory(weights, _bytes(jax.tree.leaves(state)), _bytes(inputs.values()), weights, activations,
                      max(layer + _LOGITS_ALIVE * logits + 2 * mlp, table))


def _placed(arrays: Mapping[str, Any], shardings: Mapping[str, NamedSharding] | None) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=None if shardings is None else shardings[name])
            for name, array in arrays.items()}


def _kept(model: nnx.Module, loss_function: LossFunction, values: Mapping, batch: Mapping) -> int:
    """Bytes that the forward pass hands to the backward pass, without the parameters and the batch themselves."""
    architecture = jax.eval_shape(lambda: model)

    def derivative(values, batch):
        def total(values):
            return loss_function(with_parameters(architecture, values), batch).mean()

        return jax.tree.leaves(jax.vjp(total, values)[1])

    jaxpr = jax.make_jaxpr(derivative)(values, batch).jaxpr
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


def step_flops(config: TransformerConfig, rows: int, tokens: int) -> dict[str, float]:
    """Floating-point operations of one training step over all devices, by what they are spent on.

    ``matmul`` is ``6 N`` per token with N parameters in matrix products (2 forward, 4 backward); ``attention`` is
    ``12 * heads * head_dim`` per layer and pair of a query and a key, with every row one solution that fills it (packed rows
    and windows need less); ``recomputed`` is what the remat policy adds: a forward pass for "full", attention is kept by
    "dots". Norms, activations and the head are left out.
    """
    matmul = 6.0 * config.matmul_parameters * rows * tokens
    attention = 12.0 * config.heads * config.head_dim * config.layers * rows * tokens * (tokens + 1) / 2
    again = (matmul + attention) / 3 if config.remat == "full" else 0.0
    return {"matmul": matmul, "attention": attention, "recomputed": again}
