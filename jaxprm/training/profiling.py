"""A window of steps under JAX's profiler."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from jaxprm.errors import InputError


@dataclasses.dataclass(frozen=True)
class ProfileWindow:
    """Steps ``start + 1`` to ``start + count`` of a call are traced into ``profile/`` of the run directory, for xprof.

    Steps are counted from where the call began, since that is where compilation is; it lies before a ``start`` of 1 or more.
    """

    start: int
    count: int

    def __post_init__(self):
        if self.start < 0:
            raise InputError("must not be negative", field="start", value=self.start)
        if self.count < 1:
            raise InputError("must be at least 1", field="count", value=self.count)

    @classmethod
    def parse(cls, text: str) -> ProfileWindow:
        """From ``START:COUNT``.

        Raises:
          InputError: it is something else.
        """
        start, colon, count = text.partition(":")
        if not (colon and start.isdecimal() and count.isdecimal()):
            raise InputError("must be START:COUNT", field="profile", value=text, hint="such as 10:5")
        return cls(int(start), int(count))


class Profiler:
    """Switches the trace on and off; ``window`` None never does."""

    def __init__(self, window: ProfileWindow | None, directory: Path):
        self._window, self._directory, self._running = window, directory, False

    def before_step(self, index: int) -> None:
        """``index``: steps of this call that have been started."""
        if self._window is not None and index == self._window.start:
            jax.profiler.start_trace(str(self._directory / "profile"))
            self._running = True

    def after_step(self, index: int, result) -> None:
        """``index`` as before; the trace ends when the device has finished the window's last step."""
        if self._running and index + 1 == self._window.start + self._window.count:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
