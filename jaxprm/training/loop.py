"""The training loop of every stage: one compiled step, data from a resumable iterator, checkpoints, metrics, evaluations.

A run that is killed at any moment goes on from its last checkpoint and ends with the same parameters, bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from jaxprm.errors import InputError, Stopped
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.models.sharding import mesh_scope
from jaxprm.models.transformer import LanguageModel
from jaxprm.progress import Progress, SilentProgress
from jaxprm.training import lora
from jaxprm.training.checkpoints import Checkpoints
from jaxprm.training.config import TrainConfig
from jaxprm.training.guard import Guard
from jaxprm.training.metrics_log import ManyLogs, MetricsLog, SilentMetricsLog
from jaxprm.training.optimizer import is_head
from jaxprm.training.placement import place_batch, place_parameters
from jaxprm.training.profiling import Profiler, ProfileWindow
from jaxprm.training.step import LossFunction, TrainState, initial_state, make_train_step
from jaxprm.training.stopping import StopSignal
from jaxprm.training.throughput import CompileClock, Throughput, peak_flops, training_flops
from jaxprm.training.writers import open_writers

__all__ = ["TrainConfig", "TrainState", "fit", "initial_state", "make_train_step", "mesh_scope", "place_batch"]

Model = TypeVar("Model", bound=nnx.Module)


def fit(model: Model, loss_function: LossFunction, batches: Iterable[Mapping[str, np.ndarray]], config: TrainConfig,
        directory: Path, *, run: dict[str, Any], name: str = "train", mesh: jax.sharding.Mesh | None = None,
        progress: Progress | None = None, evaluate: Callable[[Model], Mapping[str, float]] | None = None,
        about: Mapping[str, Any] | None = None, profile: ProfileWindow | None = None) -> Model:
    """Trains, or goes on where a killed run left off, and returns the trained model.

    Args:
      model: initial parameters and architecture.
      loss_function: (model, batch) -> Loss; a batch is a dict of arrays as ``batches`` yields them.
      batches: endless, e.g. `jaxprm.data.StepDataset`; its iterator is checkpointed with the state.
      directory: gets ``metrics.jsonl`` (written by process 0) and ``checkpoints/``.
      run: what identifies the run (config hash, tokenizer fingerprint, ...); a checkpoint of another run is refused.
      name: of the stage, for the progress bar.
      mesh: where to train; ``None`` = one device. Another one than before may go on with a run's checkpoints.
      evaluate: numbers of a model, called every ``config.evaluate_every`` steps in every process, outside of the mesh; the
        model's parameters lie on the mesh. They are logged as ``evaluation/<name>``; NaN stands for undefined.
      about: stored in every checkpoint for its readers: config text, step format.
      profile: steps to trace.

    Returns:
      The model after the last step, or the best one (``config.best_by``); with ``config.ema`` its average, with
      ``config.lora`` with merged weights. On a mesh, its parameters lie there.

    Raises:
      InputError: a checkpoint of another run, data that end before ``config.steps``, or options that do not fit.
      Diverged: the loss or gradient is not finite; the batch is kept.
      Stopped: SIGTERM came; a checkpoint is complete.
    """
    progress = progress or SilentProgress()
    if config.evaluate_every and evaluate is None:
        raise InputError("there is nothing to evaluate on", field="evaluate_every", value=config.evaluate_every,
                         hint="hold problems out, or set it to 0")
    architecture = jax.eval_shape(lambda: model)
    trained, frozen = lora.split(config.lora, parameters(model))
    frozen = place_parameters(frozen, mesh)
    if config.lora is not None:
        run = run | {"frozen_weights": lora.fingerprint(frozen)}
    optimizer = config.optimizer.build(config.steps)
    schedules = {"learning_rate": config.optimizer.schedule(config.steps)}
    if config.optimizer.head_learning_rate is not None or config.optimizer.freeze_backbone_steps:
        schedules["head_learning_rate"] = config.optimizer.schedule(config.steps, head=True)

    def make(only: Callable[[str], bool] | None = None) -> Callable:
        return make_train_step(model, loss_function, optimizer, accumulate=config.accumulate, ema=config.ema,
                               lora=config.lora, only=only)

    def built(state: TrainState) -> Model:
        with mesh_scope(mesh):
            return with_parameters(architecture, lora.merged(config.lora, state.result, frozen))

    train_head, train_all = make(is_head), make()
    with contextlib.ExitStack() as stack:
        compiled, stop = stack.enter_context(CompileClock()), stack.enter_context(StopSignal())
        state = initial_state(trained, optimizer, mesh, average=config.ema > 0)
        del trained
        iterator = iter(batches)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(directory / "checkpoints", run, config.keep, about)))
        if checkpoints.latest() is not None:
            state = checkpoints.restore(state, iterator)
        done = int(state.step)
        log = stack.enter_context(contextlib.closing(_open_log(config, directory, name, done)))
        profiler = stack.enter_context(contextlib.closing(Profiler(profile, directory)))
        guard, best = Guard(directory, name), _Best(config, checkpoints)
        speed = Throughput(compiled, _peak(config, mesh), _flops_of_batch(model, config), jax.process_count())
        stage = stack.enter_context(progress.stage(name, config.steps, "steps", done))
        shown: dict[str, Any] = {}

        for index in range(done, config.steps):
            batch = next(iterator, None)
            if batch is None:
                raise InputError(f"the data end after {index} of {config.steps} steps", field="steps",
                                 value=config.steps, hint="use epochs = None (endless) or fewer steps")
            train_step = train_head if index < config.optimizer.freeze_backbone_steps else train_all
            profiler.before_step(index - done)
            with mesh_scope(mesh):
                state, metrics = train_step(state, place_batch(batch, mesh), frozen)
            profiler.after_step(index - done, metrics)
            step = index + 1
            guard.watch(step, batch, metrics)
            tokens = speed.add(batch)
            padding = 1 - tokens / batch["segment_ids"].size
            stage.advance(1, tokens=tokens, loss=metrics["loss"], padding=padding, **shown)

            stopping, last = stop.requested(step), step == config.steps
            evaluated = config.evaluate_every and (step % config.evaluate_every == 0 or last)
            logged = step % config.log_every == 0 or last or evaluated
            saved = step % config.checkpoint_every == 0 or last or stopping
            if logged or saved:
                guard.check()
            better = None
            if logged:
                line = {key: float(value) for key, value in metrics.items()}
                line |= {key: float(schedule(index)) for key, schedule in schedules.items()} | {"padding_share": padding}
                line |= (speeds := speed.report())
                shown = {"MFU": f"{100 * speeds['mfu']:.1f} %"} if "mfu" in speeds else {}
                if speeds["compile_seconds"] >= 0.1:
                    shown["compiled"] = f"{compiled.seconds:.1f} s"
            if evaluated:
                with speed.pause():
                    numbers = {key: float(value) for key, value in evaluate(built(state)).items()}
                line |= {f"evaluation/{key}": value for key, value in numbers.items() if math.isfinite(value)}
                better = best.improved_by(numbers)
            if logged:
                log.write(step, line)
            if saved or better is not None:
                checkpoints.save(step, state, iterator, best=better)
            if stopping:
                raise Stopped(f"{name}: stopped by SIGTERM after step {step:,} of {config.steps:,}, which is saved; "
                              "the same command goes on from there")
        if config.best_by is not None:
            state = best.restored(state, progress)
        return built(state)


class _Best:
    """Which evaluated step is the best so far; what is known after a resume is what the checkpoints say."""

    def __init__(self, config: TrainConfig, checkpoints: Checkpoints):
        self._config, self._checkpoints = config, checkpoints
        self._value = found[1] if (found := checkpoints.best()) is not None else None

    def improved_by(self, numbers: Mapping[str, float]) -> float | None:
        """The value of these numbers if it is better than all before, and finite."""
        name = self._config.best_by
        if name is None:
            return None
        if name not in numbers:
            raise InputError(f"is not a number of the evaluation ({', '.join(numbers)})", field="best_by", value=name)
        value, sign = numbers[name], 1 if self._config.best_is == "highest" else -1
        if not math.isfinite(value) or (self._value is not None and sign * value <= sign * self._value):
            return None
        self._value = value
        return value

    def restored(self, state: TrainState, progress: Progress) -> TrainState:
        """The best state; the last one if no evaluation had the number."""
        found, name = self._checkpoints.best(), self._config.best_by
        if found is None:
            progress.log(f"{name} was undefined in every evaluation: the model of the last step is kept")
            return state
        progress.log(f"best {name} {found[1]:.4g} at step {found[0]:,}")
        return self._checkpoints.restore(state, step=found[0])


def _open_log(config: TrainConfig, directory: Path, name: str, done: int) -> ManyLogs | SilentMetricsLog:
    if jax.process_index():
        return SilentMetricsLog()
    writers = open_writers(config.writers, directory, name, done)
    return ManyLogs([MetricsLog(directory / "metrics.jsonl", done), *writers])


def _peak(config: TrainConfig, mesh: jax.sharding.Mesh | None) -> float | None:
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    peak = config.peak_flops or peak_flops(device.device_kind)
    return None if peak is None else peak * (1 if mesh is None else mesh.size)


def _flops_of_batch(model: nnx.Module, config: TrainConfig) -> Callable[[Mapping[str, np.ndarray]], float] | None:
    architecture = getattr(model, "config", None)
    if not isinstance(architecture, TransformerConfig):
        return None
    vocabulary, frozen = isinstance(model, LanguageModel), config.lora is not None
    return lambda batch: training_flops(architecture, batch["segment_ids"], vocabulary=vocabulary, frozen_weights=frozen)
