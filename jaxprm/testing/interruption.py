"""A kill at a known step, to test that a run resumes."""

from __future__ import annotations

import contextlib
from typing import Any


class KilledAt:
    """A `jaxprm.progress.Progress` that raises KeyboardInterrupt when a stage reports its ``step``-th step: the step has been
    computed, but nothing of it is logged or saved."""

    def __init__(self, step: int):
        self.step, self.done = step, 0

    def stage(self, name: str, total: int | None = None, unit: str = "steps", completed: int = 0):
        self.done = completed
        return contextlib.nullcontext(self)

    def advance(self, n: int = 1, *, tokens: int = 0, **fields: Any) -> None:
        self.done += n
        if self.done == self.step:
            raise KeyboardInterrupt

    def log(self, message: str) -> None:
        pass
