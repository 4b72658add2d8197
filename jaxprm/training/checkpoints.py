"""Checkpoints of a training run (orbax): written asynchronously, complete or absent, restored with the data iterator.

    DIRECTORY/<step>/state       parameters, optimiser state, step
    DIRECTORY/<step>/data        position in the data
    DIRECTORY/<step>/run         what wrote it: format version, the hash of the run's config, fingerprints
    DIRECTORY/<step>/about       what a reader wants to know: config text, step format
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxprm import __version__
from jaxprm.errors import InputError

FORMAT = "jaxprm-train-2"
_BEST = "best"


class Checkpoints:
    """The checkpoints under one directory: the newest ``keep``, and the best.

    Args:
      directory: holds nothing else.
      run: identifies the run (JSON values); a checkpoint of another run is refused.
      keep: how many of the newest stay.
      about: JSON values that are stored beside ``run`` and not compared.
    """

    def __init__(self, directory: str | os.PathLike, run: Mapping[str, Any], keep: int = 2,
                 about: Mapping[str, Any] | None = None):
        self.directory = Path(directory).absolute()
        self._run, self._about = {"format": FORMAT, **run}, {"jaxprm": __version__, **(about or {})}
        policies = ocp.training.preservation_policies
        # Only checkpoints that were the best so far carry a number, so the newest of those is the best.
        best = policies.BestN(get_metric_fn=lambda metrics: metrics["order"], n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            self.directory, preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]))

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def best(self) -> tuple[int, float] | None:
        """Step and value of the checkpoint that was last saved as the best."""
        found = [(checkpoint.step, checkpoint.metrics[_BEST]) for checkpoint in self._checkpointer.checkpoints
                 if checkpoint.metrics]
        return found[-1] if found else None

    def save(self, step: int, state: Any, data: Any = None, best: float | None = None) -> None:
        """Starts writing once the previous write has ended; an error of that one is raised here.

        Args:
          step: optimiser steps done.
          state: arrays.
          data: a grain iterator, if there is one.
          best: the value that makes this the best checkpoint so far.
        """
        position = {} if data is None else {"data": data}
        metrics = None if best is None else {_BEST: best, "order": step}
        # Without `force` orbax leaves a checkpoint out, silently, while the one before is still being written.
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "run": self._run, "about": self._about, **position}, force=True, metrics=metrics)

    def restore(self, state: Any, data: Any = None, step: int | None = None) -> Any:
        """Reads a checkpoint (the newest, or that of ``step``) into the shapes and shardings of ``state``, which may be others
        than those it was written with; ``data`` is set to where it was.

        Raises:
          InputError: the checkpoint is damaged, has another format, or belongs to a run with another config.
        """
        self._checkpointer.wait()
        step = self.latest() if step is None else step
        found = self._load(step, {"run": self._run})["run"]
        if found != self._run:
            theirs, ours = ({key: value for key, value in one.items() if other.get(key) != value}
                            for one, other in ((found, self._run), (self._run, found)))
            raise InputError(f"was written by {theirs}, this run is {ours}", file=self.directory / str(step),
                             hint="start the run in another directory")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        position = {} if data is None else {"data": data}
        return self._load(step, {"state": abstract, **position})["state"]

    def about(self, step: int | None = None) -> dict[str, Any]:
        """``run`` and ``about`` of a checkpoint (default: the newest) as one dictionary."""
        loaded = self._load(self.latest() if step is None else step, {"run": None, "about": None})
        return loaded["run"] | loaded["about"]

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._checkpointer.load_checkpointables(step, wanted)
        except (KeyError, ValueError, OSError) as error:
            raise InputError(f"is not a complete {FORMAT} checkpoint ({type(error).__name__})", file=self.directory / str(step),
                             hint="delete it to go on from the one before, or start the run in another directory") from error

    def close(self) -> None:
        """Waits for the last write and raises its error, if any."""
        self._checkpointer.close()
