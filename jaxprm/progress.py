"""How a long run tells where it is: a bar with ETA and tokens/s in a terminal, a log line now and then elsewhere.

    with progress.stage("train the PRM", total=1200, unit="steps") as stage:
        for batch in batches:
            stage.advance(tokens=batch_tokens, loss=loss)   # `loss` may be a device array: it is read only when shown
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stage(Protocol):
    """One stage under way."""

    def advance(self, n: int = 1, *, tokens: int = 0, **fields: Any) -> None:
        """``n`` more units are done, which took ``tokens`` tokens; ``fields`` (numbers, arrays of one number, or texts)
        are shown beside the bar."""


@runtime_checkable
class Progress(Protocol):
    """Where pipelines and training report to."""

    def stage(self, name: str, total: int | None = None, unit: str = "steps",
              completed: int = 0) -> contextlib.AbstractContextManager[Stage]:
        """Opens a stage of ``total`` units (None = unknown); an earlier, killed run has done ``completed`` of them."""

    def log(self, message: str) -> None:
        """One line that stays."""


class Meter:
    """Counts of one stage, and what follows from them. Rates and ETA do not count what an earlier run has done."""

    def __init__(self, name: str, total: int | None, unit: str, completed: int, clock: Callable[[], float]):
        self.name, self.total, self.unit, self.completed, self.tokens = name, total, unit, completed, 0
        self.fields: dict[str, Any] = {}
        self._first, self._clock, self._start = completed, clock, clock()

    def count(self, n: int, tokens: int, fields: dict[str, Any]) -> None:
        self.completed += n
        self.tokens += tokens
        self.fields.update(fields)

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def eta(self) -> float | None:
        """Seconds left at the mean speed so far; None where that is not known."""
        done = self.completed - self._first
        if self.total is None or not done:
            return None
        return max(self.total - self.completed, 0) * self.seconds / done

    def details(self) -> str:
        """``31.4k tokens/s, loss 0.312``; reads device arrays, so call it only to show it."""
        parts = [f"{_short(self.tokens_per_second)} tokens/s"] if self.tokens else []
        parts += [f"{name} {value if isinstance(value, str) else format(float(value), '.4g')}"
                  for name, value in self.fields.items()]
        return ", ".join(parts)

    def summary(self) -> str:
        """The line that stays when the stage has ended."""
        details = self.details()
        done = f"{self.name}: {self.completed:,} {self.unit} in {duration(self.seconds)}"
        return f"{done}, {details}" if details else done


def duration(seconds: float) -> str:
    """``8.4 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _short(number: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{suffix}"
    return f"{number:.0f}"


class SilentProgress:
    """Shows nothing: for libraries, tests, and every process but the first."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "steps", completed: int = 0) -> Iterator[Stage]:
        yield _SilentStage()

    def log(self, message: str) -> None:
        pass


class _SilentStage:
    def advance(self, n: int = 1, *, tokens: int = 0, **fields: Any) -> None:
        pass


class LogProgress:
    """Plain lines: when a stage begins, every ``every`` seconds, and when it ends."""

    def __init__(self, stream: io.TextIOBase | None = None, every: float = 15.0,
                 clock: Callable[[], float] = time.monotonic):
        self._stream, self._every, self._clock = stream or sys.stderr, every, clock

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "steps", completed: int = 0) -> Iterator[Stage]:
        meter = Meter(name, total, unit, completed, self._clock)
        self.log(f"{name}: {completed:,} of {total:,} {unit}" if total is not None else f"{name} ...")
        yield _LogStage(meter, self.log, self._every)
        self.log(meter.summary())

    def log(self, message: str) -> None:
        print(message, file=self._stream, flush=True)


class _LogStage:
    def __init__(self, meter: Meter, log: Callable[[str], None], every: float):
        self._meter, self._log, self._every, self._next = meter, log, every, every

    def advance(self, n: int = 1, *, tokens: int = 0, **fields: Any) -> None:
        meter = self._meter
        meter.count(n, tokens, fields)
        if meter.seconds < self._next:
            return
        self._next = meter.seconds + self._every
        of = f" of {meter.total:,}" if meter.total is not None else ""
        left = f"{duration(meter.eta)} left" if meter.eta is not None else ""
        self._log(", ".join(part for part in (f"{meter.name}: {meter.completed:,}{of} {meter.unit}", left,
                                              meter.details()) if part))


class BarProgress:
    """A bar per stage (rich), replaced by its summary line when the stage has ended."""

    def __init__(self, stream: io.TextIOBase | None = None, clock: Callable[[], float] = time.monotonic):
        from rich.console import Console

        self._console, self._clock = Console(file=stream or sys.stderr), clock

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "steps", completed: int = 0) -> Iterator[Stage]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        meter = Meter(name, total, unit, completed, self._clock)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
                   TextColumn("{task.fields[details]}", markup=False))
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(name, total=total, completed=completed, details="")
            yield _BarStage(meter, bars, task)
        self.log(meter.summary())

    def log(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)


class _BarStage:
    REFRESH_SECONDS = 0.5  # reading a device array waits for the device, so not at every step

    def __init__(self, meter: Meter, bars, task):
        self._meter, self._bars, self._task, self._next = meter, bars, task, 0.0

    def advance(self, n: int = 1, *, tokens: int = 0, **fields: Any) -> None:
        meter = self._meter
        meter.count(n, tokens, fields)
        if meter.seconds < self._next and meter.completed != meter.total:
            return
        self._next = meter.seconds + self.REFRESH_SECONDS
        left = f"{meter.unit}, {duration(meter.eta)} left" if meter.eta is not None else meter.unit
        details = meter.details()
        self._bars.update(self._task, completed=meter.completed, details=f"{left}, {details}" if details else left)


def terminal_progress(stream: io.TextIOBase | None = None) -> Progress:
    """Bars if ``stream`` (default: standard error) is a terminal, else lines."""
    stream = stream or sys.stderr
    return BarProgress(stream) if stream.isatty() else LogProgress(stream)
