"""One file from several, with given shares, in bounded memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxprm.data.tools.source import Errors, Source, refuse_same, write_line
from jaxprm.errors import InputError
from jaxprm.records import atomic_write


@dataclasses.dataclass(frozen=True)
class MixCounts:
    """Per source: rows that it has, rows written from it, and how often its rows were used in the mean."""

    available: tuple[int, ...]
    written: tuple[int, ...]

    @property
    def passes(self) -> tuple[float, ...]:
        return tuple(written / available if available else 0.0 for written, available in zip(self.written, self.available))


def mix(sources: Sequence[Source], weights: Sequence[float], output: str | os.PathLike, *, rows: int | None = None,
        seed: int = 0, repeat: bool = False, errors: Errors | None = None) -> MixCounts:
    """Writes raw rows of all sources in a random interleaving; rows of one source keep their order (training shuffles anyway).

    Args:
      weights: positive; shares of the output's rows are proportional to them.
      rows: rows of the output [default: the most that needs no row twice].
      seed: decides which rows are drawn, and how sources alternate.
      repeat: allow rows to be used more than once where a source is too small.

    Raises:
      InputError: weights that are not positive, a source that is empty or (without ``repeat``) too small, a bad row.
    """
    if len(weights) != len(sources) or not sources:
        raise InputError(f"has {len(weights)} values for {len(sources)} sources", field="weights")
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise InputError("must be positive", field="weights", value=weight)
    for source in sources:
        refuse_same(output, source.paths)
    errors = errors or Errors()
    available = [sum(1 for _ in source.rows(errors)) for source in sources]
    for source, count in zip(sources, available):
        if not count:
            raise InputError("has no rows", file=", ".join(map(str, source.paths)))
    share = np.asarray(weights, float) / np.sum(weights)
    if rows is None:
        rows = int(min(count / part for count, part in zip(available, share)) + 1e-9)
    if rows < 1:
        raise InputError("must be at least 1", field="rows", value=rows)
    wanted = _apportion(rows, share)
    for source, count, want in zip(sources, available, wanted):
        if want > count and not repeat:
            raise InputError(f"has {count} rows, and its share of {rows} rows is {want}",
                             file=", ".join(map(str, source.paths)),
                             hint="ask for fewer rows (--rows), or allow repeats (--repeat)")
    random = np.random.default_rng(seed)
    streams = [_draw(source, count, want, np.random.default_rng([seed, index]))
               for index, (source, count, want) in enumerate(zip(sources, available, wanted))]
    left = np.array(wanted)
    with atomic_write(output) as out:
        while left.sum():
            index = int(np.searchsorted(np.cumsum(left), random.integers(left.sum()), side="right"))
            write_line(out, next(streams[index]))
            left[index] -= 1
    return MixCounts(tuple(available), tuple(wanted))


def _apportion(rows: int, share: np.ndarray) -> list[int]:
    """Whole numbers that sum to ``rows`` and are nearest to ``rows * share`` (largest remainders first)."""
    exact = rows * share
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[:rows - counts.sum()]] += 1
    return counts.tolist()


def _draw(source: Source, available: int, wanted: int, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Whole passes over the source, then a random subset of it in file order (selection sampling, Knuth 3.4.2 S)."""
    quiet = dataclasses.replace(source, advance=lambda rows: None)
    for _ in range(wanted // available):
        for _, raw, _ in quiet.rows(Errors(strict=False)):
            yield raw
    needed, left = wanted % available, available
    if not needed:
        return
    for _, raw, _ in quiet.rows(Errors(strict=False)):
        if random.integers(left) < needed:
            yield raw
            needed -= 1
            if not needed:
                return
        left -= 1
