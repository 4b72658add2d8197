"""SIGTERM, as schedulers send it before they take a machine away: finish the step, save, end."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """``with StopSignal() as stop: ... if stop.requested(step): save and end``.

    One process notes the signal by a handler of its own, as long as the block runs (in a main thread; elsewhere Python allows
    none). Several must stop at the same step: jax's coordination service, which then has the handler, tells them which.
    """

    def __init__(self):
        self._noted = False
        self._before = None

    def __enter__(self) -> StopSignal:
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_) -> None:
        self._noted = True

    def requested(self, step: int) -> bool:
        """Whether to stop after ``step``; every process must ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted
