"""The training loop of every stage: one compiled step, data from a resumable iterator, checkpoints, metrics.

A loss function maps (model, batch) to a `Loss`; what is optimised is its mean over the whole batch, so the split into
devices and rows does not matter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxprm.errors import InputError
from jaxprm.models.parameters import batch_sharding, parameter_shardings, parameters, with_parameters
from jaxprm.objectives.loss import Loss
from jaxprm.progress import Progress, SilentProgress
from jaxprm.training.checkpoints import Checkpoints
from jaxprm.training.metrics_log import MetricsLog, SilentMetricsLog
from jaxprm.training.optimizer import OptimizerConfig

Model = TypeVar("Model", bound=nnx.Module)
LossFunction = Callable[[Any, Any], Loss]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and with what a model is trained.

    Attributes:
      steps: optimiser steps.
      optimizer: the optimiser and its schedule.
      log_every: steps between lines of ``metrics.jsonl``.
      checkpoint_every: steps between checkpoints (one is always written at the end).
    """

    steps: int = 1000
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 20
    checkpoint_every: int = 500

    def __post_init__(self):
        for field in ("steps", "log_every", "checkpoint_every"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes from step to step. Types are open: orbax rebuilds the tree with other leaves.

    Attributes:
      step: int32[], optimiser steps done.
      parameters: dotted name -> array.
      optimizer_state: of the optax transformation.
    """

    step: Any
    parameters: dict[str, Any]
    optimizer_state: Any


def make_train_step(model: nnx.Module, loss_function: LossFunction, optimizer: optax.GradientTransformation) -> Callable:
    """``(state, batch) -> (state, metrics)``, compiled; the old state's buffers are reused.

    ``model`` gives the architecture; its parameters are taken from the state. Metrics: ``loss``, ``gradient_norm`` and the
    means of the loss's own metrics, float32 scalars on device.
    """
    architecture = jax.eval_shape(lambda: model)

    def step(state: TrainState, batch):
        def total(values):
            loss = loss_function(with_parameters(architecture, values), batch)
            return loss.mean(), loss

        gradient, loss = jax.grad(total, has_aux=True)(state.parameters)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.parameters)
        metrics = {"loss": loss.mean(), "gradient_norm": optax.tree.norm(gradient), **loss.metric_means()}
        new = TrainState(state.step + 1, optax.apply_updates(state.parameters, updates), optimizer_state)
        return new, metrics

    return jax.jit(step, donate_argnums=0)


def initial_state(model: nnx.Module, optimizer: optax.GradientTransformation,
                  mesh: jax.sharding.Mesh | None = None) -> TrainState:
    """Step 0 of a run, placed on the mesh; optimiser moments lie where their parameters lie."""
    values = {name: jnp.array(value) for name, value in parameters(model).items()}  # a copy: steps donate their state
    step = jnp.zeros((), jnp.int32)
    if mesh is not None:
        shardings = parameter_shardings(values, mesh)
        values = {name: jax.device_put(value, shardings[name]) for name, value in values.items()}
        step = jax.device_put(step, NamedSharding(mesh, PartitionSpec()))
    with mesh_scope(mesh):
        state = jax.jit(optimizer.init)(values)
    return TrainState(step, values, state)


def mesh_scope(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Sets the mesh for tracing and execution, if there is one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def place_batch(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh | None) -> dict[str, jax.Array]:
    """Rows of this process's batch, split over the mesh's batch axes."""
    if mesh is None:
        return {name: jnp.asarray(value) for name, value in batch.items()}
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def fit(model: Model, loss_function: LossFunction, batches: Iterable[Mapping[str, np.ndarray]], config: TrainConfig,
        directory: Path, *, run: dict[str, Any], name: str = "train", mesh: jax.sharding.Mesh | None = None,
        progress: Progress | None = None) -> Model:
    """Trains, or goes on where a killed run left off, and returns the trained model.

    Args:
      model: initial parameters and architecture.
      loss_function: (model, batch) -> Loss; a batch is a dict of arrays as ``batches`` yields them.
      batches: endless, e.g. `jaxprm.data.StepDataset`; its iterator is checkpointed with the state.
      directory: gets ``metrics.jsonl`` (written by process 0) and ``checkpoints/``.
      run: what identifies the run (config hash, tokenizer fingerprint, ...); a checkpoint of another run is refused.
      name: of the stage, for the progress bar.
      mesh: where to train; ``None`` = one device.

    Raises:
      InputError: a checkpoint of another run, or data that end before ``config.steps``.
      FloatingPointError: the loss is not finite.
    """
    progress = progress or SilentProgress()
    optimizer = config.optimizer.build(config.steps)
    schedule = config.optimizer.schedule(config.steps)
    state = initial_state(model, optimizer, mesh)
    iterator = iter(batches)
    checkpoints = Checkpoints(directory / "checkpoints", run)
    if checkpoints.latest() is not None:
        state = checkpoints.restore(state, iterator)
    done = int(state.step)
    log = MetricsLog(directory / "metrics.jsonl", done) if jax.process_index() == 0 else SilentMetricsLog()
    train_step = make_train_step(model, loss_function, optimizer)

    try:
        with mesh_scope(mesh), progress.stage(name, config.steps, "steps", done) as stage:
            tokens, since = 0, time.monotonic()
            for index in range(done, config.steps):
                batch = next(iterator, None)
                if batch is None:
                    raise InputError(f"the data end after {index} of {config.steps} steps", field="steps",
                                     value=config.steps, hint="use epochs = None (endless) or fewer steps")
                state, metrics = train_step(state, place_batch(batch, mesh))
                count = int(np.count_nonzero(batch["segment_ids"]))
                tokens += count
                stage.advance(1, tokens=count, loss=metrics["loss"])
                step = index + 1
                logged = step % config.log_every == 0 or step == config.steps
                saved = step % config.checkpoint_every == 0 or step == config.steps
                if (logged or saved) and not np.isfinite(loss := float(metrics["loss"])):
                    raise FloatingPointError(f"{name}: loss is {loss} at step {step}; lower the learning rate")
                if logged:
                    elapsed = time.monotonic() - since
                    log.write(step, {**{key: float(value) for key, value in metrics.items()},
                                     "learning_rate": float(schedule(index)),
                                     "tokens_per_second": tokens / max(elapsed, 1e-9),
                                     "padding_share": 1 - count / batch["segment_ids"].size})
                    tokens, since = 0, time.monotonic()
                if saved:
                    checkpoints.save(step, state, iterator)
    finally:
        log.close()
        checkpoints.close()
    return with_parameters(jax.eval_shape(lambda: model), state.parameters)
