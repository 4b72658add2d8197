"""Where metrics go besides ``metrics.jsonl``: TensorBoard and Weights & Biases, each an extra that is imported when used."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

from jaxprm.errors import InputError


@runtime_checkable
class Writer(Protocol):
    """Takes numbers by step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step; steps rise."""

    def close(self) -> None:
        """Everything written is kept."""


class TensorBoardWriter:
    """Event files in ``DIRECTORY/tensorboard``; after a resume, points behind the resumed step are hidden."""

    def __init__(self, directory: Path, name: str, resume_step: int):
        package = _import("tensorboardX", "tensorboard")
        purged = resume_step + 1 if resume_step else None
        # Names hold the second: a run that goes on within the same one would write over the file of the first call.
        self._writer = package.SummaryWriter(str(directory / "tensorboard"), purge_step=purged,
                                             filename_suffix=f".{resume_step}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A run of Weights & Biases that a resumed run goes on with; WANDB_PROJECT, WANDB_MODE and the like apply."""

    def __init__(self, directory: Path, name: str, resume_step: int):
        package = _import("wandb", "wandb")
        identity = hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16]
        self._run = package.init(dir=str(directory), id=identity, name=f"{directory.name}: {name}", resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


WRITERS = {"tensorboard": TensorBoardWriter, "wandb": WandbWriter}


def open_writers(names: Sequence[str], directory: Path, name: str, resume_step: int) -> list[Writer]:
    """The writers of a run.

    Raises:
      InputError: the package of one is not installed.
    """
    return [WRITERS[writer](directory, name, resume_step) for writer in names]


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(f"needs the package {package}", field="writers", value=extra,
                         hint=f"pip install 'jaxprm[{extra}]'") from None
