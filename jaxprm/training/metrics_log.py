"""``metrics.jsonl``: one JSON object per logged step, exact under kill and resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TIMING = ("tokens_per_second", "mfu", "compile_seconds")
"""What a line says about the machine: all else is the same in a run that was killed and resumed."""


class MetricsLog:
    """Appends ``{"step": .., "loss": .., ..}`` lines; on resume, lines after the resumed step are cut off first."""

    def __init__(self, path: str | os.PathLike, resume_step: int = 0):
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(self._path) if line["step"] <= resume_step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self._path)
        self._file = open(self._path, "a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **{name: float(value) for name, value in values.items()}}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class ManyLogs:
    """Writes to each of several."""

    def __init__(self, logs: Sequence):
        self._logs = logs

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for log in self._logs:
            log.write(step, values)

    def close(self) -> None:
        for log in self._logs:
            log.close()


class SilentMetricsLog:
    """Writes nothing: for every process but the first."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """All complete lines of a metrics file; a last line that a kill cut short is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the text behind the last newline is incomplete
    return [json.loads(line) for line in lines]


def without_timing(lines: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """The lines without `TIMING`: what two runs of one config have in common."""
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]
