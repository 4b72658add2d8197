"""One optimiser step: the state that it changes, and the compiled function that changes it.

A loss function maps (model, batch) to a `Loss`; what is optimised is its mean over the whole batch, so the split into
devices, rows and micro-batches does not matter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxprm.errors import InputError
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.models.sharding import ShardingRules, mesh_scope
from jaxprm.objectives.loss import Loss, ratio
from jaxprm.training.lora import LoraConfig, combined
from jaxprm.training.placement import place_parameters

LossFunction = Callable[[Any, Any], Loss]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes from step to step. Types are open: orbax rebuilds the tree with other leaves.

    Attributes:
      step: int32[], optimiser steps done.
      parameters: dotted name -> array of what is trained.
      optimizer_state: of the optax transformation.
      average: moving average of ``parameters``, or None.
    """

    step: Any
    parameters: dict[str, Any]
    optimizer_state: Any
    average: Any = None

    @property
    def result(self) -> dict[str, Any]:
        """What is evaluated and returned: the average if there is one."""
        return self.parameters if self.average is None else self.average


def initial_state(model: nnx.Module | dict[str, jax.Array], optimizer: optax.GradientTransformation,
                  mesh: jax.sharding.Mesh | None = None, *, average: bool = False) -> TrainState:
    """Step 0 of a run, placed on the mesh; optimiser moments lie where their parameters lie.

    ``model``: a model whose parameters are all trained, or the trained parameters themselves; ``average``: keep a moving one.
    """
    given = model if isinstance(model, dict) else parameters(model)
    values = place_parameters({name: jnp.array(value) for name, value in given.items()}, mesh)  # copies: steps donate
    step = jnp.zeros((), jnp.int32)
    if mesh is not None:
        step = jax.device_put(step, NamedSharding(mesh, PartitionSpec()))
    with mesh_scope(mesh):
        state = jax.jit(optimizer.init)(values)
    return TrainState(step, values, state, jax.tree.map(jnp.copy, values) if average else None)


def make_train_step(model: nnx.Module, loss_function: LossFunction, optimizer: optax.GradientTransformation, *,
                    accumulate: int = 1, ema: float = 0.0, lora: LoraConfig | None = None,
                    only: Callable[[str], bool] | None = None) -> Callable:
    """``(state, batch, frozen) -> (state, metrics)``, compiled; the old state's buffers are reused.

    ``model`` gives the architecture; its parameters are taken from the state and from ``frozen`` (those that ``lora`` leaves
    as they are; none without it). Metrics: ``loss``, ``gradient_norm`` and the means of the loss's own metrics, float32
    scalars on device.

    Args:
      model, loss_function, optimizer: what is optimised, and how.
      accumulate: micro-batches; each holds every ``accumulate``-th row. Totals and weights are summed and divided once, so
        the gradient is that of the whole batch even if labels are spread unevenly.
      ema: decay of the moving average, for a state that has one.
      lora: how ``state.parameters`` and ``frozen`` make up the model.
      only: names for which a gradient is computed; it is zero for the others, which saves their backward pass.
    """
    architecture = jax.eval_shape(lambda: model)

    def gradient_of(trained, frozen, batch, value: Callable[[Loss], jax.Array]):
        moving = {name: array for name, array in trained.items() if only is None or only(name)}

        def objective(moving):
            loss = loss_function(with_parameters(architecture, combined(lora, trained | moving, frozen)), batch)
            return value(loss), loss

        gradient, loss = jax.grad(objective, has_aux=True)(moving)
        return jax.tree.map(jnp.zeros_like, trained) | gradient, loss

    def accumulated(trained, frozen, batch):
        if accumulate == 1:
            return gradient_of(trained, frozen, batch, Loss.mean)

        def body(total, rows):
            gradient, loss = gradient_of(trained, frozen, rows, lambda loss: loss.total)
            return jax.tree.map(jnp.add, total, gradient), (loss.total, loss.weight, loss.metrics)

        total, sums = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, trained), micro_batches(batch, accumulate))
        loss = Loss(*jax.tree.map(lambda values: values.sum(axis=0), sums))
        return jax.tree.map(lambda value: ratio(value, loss.weight.astype(value.dtype)), total), loss

    def step(state: TrainState, batch, frozen=None):
        frozen = frozen or {}
        gradient, loss = accumulated(state.parameters, frozen, batch)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.parameters)
        metrics = {"loss": loss.mean(), "gradient_norm": optax.tree.norm(gradient), **loss.metric_means()}
        values = optax.apply_updates(state.parameters, updates)
        average = state.average
        if average is not None:
            keep = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, average, values)
        return TrainState(state.step + 1, values, optimizer_state, average), metrics

    return jax.jit(step, donate_argnums=0)


def micro_batches(batch: dict[str, jax.Array], count: int) -> dict[str, jax.Array]:
    """[B, ...] -> [count, B / count, ...]: micro-batch i is rows i, i + count, ..., so that every device keeps its own rows.

      In:   rows 0 1 2 3 | 4 5 6 7 on two devices, count 2
      Out:  [[0 2 | 4 6], [1 3 | 5 7]]

    Raises:
      InputError: ``count`` does not divide the rows of a device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(size for axis, size in mesh.shape.items() if axis in ShardingRules().batch)

    def cut(rows: jax.Array) -> jax.Array:
        if rows.shape[0] % (devices * count):
            raise InputError(f"does not divide the {rows.shape[0] // devices} rows that a device has of a batch",
                             field="accumulate", value=count)
        return jnp.moveaxis(rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]), 1, 0)

    return {name: cut(rows) for name, rows in batch.items()}
