"""Files of one format, read in order, with the rows that could not be read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.data import tfds
from jaxprm.data.formats import FORMATS, Format, ReadSettings, read_raw
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, dump_row


class Errors:
    """Counts rows that could not be read, and keeps the first messages; ``strict`` raises the first one instead."""

    SHOWN = 20

    def __init__(self, strict: bool = True):
        self.strict, self.count, self.messages = strict, 0, []

    def __call__(self, error: InputError) -> None:
        if self.strict:
            raise error
        self.count += 1
        if len(self.messages) < self.SHOWN:
            self.messages.append(str(error))


@dataclasses.dataclass(frozen=True)
class Source:
    """Files, their format, and how it is read.

    Attributes:
      advance: called with the number of rows read since the last call.
    """

    paths: tuple[Path, ...]
    format: Format = FORMATS["jaxprm"]
    settings: ReadSettings = ReadSettings()
    advance: Callable[[int], None] = lambda rows: None

    def __post_init__(self):
        if not self.paths:
            raise InputError("needs at least one file", field="paths", value=())
        for path in self.paths:  # all of them first: a wrong second path should not cost a read
            if tfds.parse(path) is None and not Path(path).is_file():
                raise InputError("is not a file" if Path(path).exists() else "no such file", file=path, hint="check the path")
        self.format.resolve(self.settings)

    def rows(self, errors: Errors | None = None, start: tuple[int, int] = (0, 1)) -> Iterator[
            tuple[tuple[int, int], dict[str, Any], list[LabeledSolution]]]:
        """Yields ((index of the file, row number), raw row, its solutions), from ``start`` on."""
        errors = errors or Errors()
        unseen = 0
        try:
            for index, path in enumerate(self.paths):
                if index < start[0]:
                    continue
                first = start[1] if index == start[0] else 1
                for number, raw, items in read_raw(path, self.format, self.settings, on_error=errors, first=first):
                    unseen += 1
                    yield (index, number), raw, items
                    if unseen == 1000:
                        self.advance(unseen)
                        unseen = 0
        finally:  # also where the reader has seen enough
            self.advance(unseen)


class HashSet:
    """A set of 64-bit keys that takes 8 bytes for each (plus a small Python set of the latest ones)."""

    def __init__(self, buffer: int = 1 << 17):
        self._sorted, self._recent, self._buffer = np.empty(0, np.uint64), set(), buffer

    def add(self, key: int) -> bool:
        """Adds a key; returns whether it is new."""
        if key in self._recent:
            return False
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        if place < len(self._sorted) and self._sorted[place] == key:
            return False
        self._recent.add(key)
        if len(self._recent) >= self._buffer:
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._recent, np.uint64, len(self._recent))]))
            self._recent.clear()
        return True

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)


def write_line(out, row: dict[str, Any]) -> None:
    """One JSON line."""
    out.write(dump_row(row) + "\n")


def refuse_same(output: str | os.PathLike, paths) -> None:
    """Refuses to write over a file that is read: several tools read it twice."""
    if any(Path(output).resolve() == Path(path).resolve() for path in paths):
        raise InputError("is also read", file=output, hint="choose another output")
