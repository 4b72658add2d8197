"""Checkpoints of a training run (orbax): written asynchronously, complete or absent, restored with the data iterator.

    DIRECTORY/<step>/state       parameters, optimiser state, step
    DIRECTORY/<step>/data        position in the data
    DIRECTORY/<step>/run         what wrote it: format version and the hash of the run's config
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxprm.errors import InputError

FORMAT = "jaxprm-train-1"


class Checkpoints:
    """The checkpoints under one directory; keeps the newest ``keep``."""

    def __init__(self, directory: str | os.PathLike, run: dict[str, Any], keep: int = 2):
        self.directory = Path(directory).absolute()
        self._run = {"format": FORMAT, **run}
        self._checkpointer = ocp.training.Checkpointer(
            self.directory, preservation_policy=ocp.training.preservation_policies.LatestN(keep))

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any, data: Any = None) -> None:
        """Starts writing once the previous write has ended; an error of that one is raised here. ``data``: a grain iterator, if
        there is one."""
        position = {} if data is None else {"data": data}
        # Without `force` orbax leaves a checkpoint out, silently, while the one before is still being written.
        self._checkpointer.save_checkpointables_async(step, {"state": state, "run": self._run, **position}, force=True)

    def restore(self, state: Any, data: Any = None) -> Any:
        """Reads the newest checkpoint into the shapes (and shardings) of ``state``; ``data`` is set to where it was.

        Raises:
          InputError: the checkpoint is damaged, has another format, or belongs to a run with another config.
        """
        step = self.latest()
        place = self.directory / str(step)
        found = self._load(step, {"run": self._run})["run"]
        if found != self._run:
            raise InputError(f"was written by {found}, this run is {self._run}", file=place,
                             hint="start the run in another directory")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        position = {} if data is None else {"data": data}
        return self._load(step, {"state": abstract, **position})["state"]

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._checkpointer.load_checkpointables(step, wanted)
        except (KeyError, ValueError, OSError) as error:
            raise InputError(f"is not a complete {FORMAT} checkpoint ({type(error).__name__})", file=self.directory / str(step),
                             hint="delete it to go on from the one before, or start the run in another directory") from error

    def close(self) -> None:
        """Waits for the last write and raises its error, if any."""
        self._checkpointer.close()
