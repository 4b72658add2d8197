"""Which models ``jaxprm bench`` measures, and how they compute."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax

from jaxprm.hub.directory import LoadedModel
from jaxprm.hub.families import Settings
from jaxprm.hub.load import load_prm


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """A model to measure.

    Attributes:
      directory, family, reference, base, settings: as in `jaxprm.hub.load.load_prm`.
      label: its name in tables [default: the directory].
    """

    directory: str | os.PathLike
    family: str | None = None
    reference: str | os.PathLike | None = None
    base: str | os.PathLike | None = None
    settings: Settings = Settings()
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or os.fspath(self.directory)

    def load(self, computing: Computing) -> LoadedModel:
        """Raises InputError as `load_prm` does."""
        return load_prm(self.directory, self.family, self.reference, dtype=computing.dtype, settings=self.settings,
                        base=self.base, mesh=computing.mesh)


@dataclasses.dataclass(frozen=True)
class Computing:
    """How models compute: the same for all of them.

    Attributes:
      dtype: of weights and activations, "float32" or "bfloat16".
      mesh: devices to score on; ``None`` = one.
      batch_tokens: tokens (padding included) that are scored at a time.
    """

    dtype: str = "float32"
    mesh: jax.sharding.Mesh | None = None
    batch_tokens: int = 16_384

    def as_json(self) -> dict[str, Any]:
        """Without the batch, on which no score depends."""
        return {"dtype": self.dtype, "mesh": None if self.mesh is None else dict(self.mesh.shape)}
