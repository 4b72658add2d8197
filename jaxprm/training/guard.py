"""Stops a run whose loss or gradient is not finite, and keeps the batch that it happened on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprm.errors import Diverged


class Guard:
    """Looks at every step, one step late: by then the next one is running, so reading the numbers does not hold it up.

    Args:
      directory: of the run; gets ``nonfinite_step_<step>.npz`` with the arrays of the offending batch (of each process), and
        ``step``, ``loss`` and ``gradient_norm``.
      name: of the stage, for the message.
    """

    def __init__(self, directory: Path, name: str):
        self._directory, self._name = directory, name
        self._seen: tuple[int, Mapping[str, np.ndarray], Mapping[str, Any]] | None = None

    def watch(self, step: int, batch: Mapping[str, np.ndarray], metrics: Mapping[str, Any]) -> None:
        """Checks the step before and remembers this one.

        Raises:
          Diverged: the loss or the gradient of the step before is not finite.
        """
        self.check()
        self._seen = step, batch, metrics

    def check(self) -> None:
        """Checks the last step at once: before anything of it is logged or saved.

        Raises:
          Diverged: its loss or gradient is not finite.
        """
        if self._seen is None:
            return
        step, batch, metrics = self._seen
        self._seen = None
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        if np.isfinite(loss) and np.isfinite(norm):
            return
        process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._directory / f"nonfinite_step_{step}{process}.npz"
        self._directory.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{f"batch_{name}": array for name, array in batch.items()}, step=step, loss=loss, gradient_norm=norm)
        what = f"loss is {loss}" if not np.isfinite(loss) else f"gradient norm is {norm} (loss {loss:.4g})"
        raise Diverged(f"{self._name}: {what} at step {step}; its batch is in {path}; look for bad labels or weights there, "
                       "or lower the learning rate, warm up longer or clip smaller")
