"""How long solutions are, which rows hold them, and how much of a row is padding: pure functions of lengths."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxprm.errors import InputError

PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)

PACKING_WINDOW = 64
"""Rows filled at the same time, at least: more leave less padding, and a resumed run packs one window again."""


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Of whole numbers: ``percentiles`` maps `PERCENTILES` ("5" .. "100") to the smallest number that so many do not exceed."""

    total: int
    mean: float
    percentiles: dict[str, int]


@dataclasses.dataclass(frozen=True)
class RowFit:
    """A row size and the shares of solutions, and of their tokens, that fit into one row of it."""

    row_tokens: int
    row_steps: int
    solutions: float
    tokens: float


@dataclasses.dataclass(frozen=True)
class LengthStatistics:
    """Lengths of solutions (prompt and steps) and what rows make of them.

    Attributes:
      solutions: how many.
      tokens, steps: per solution.
      fits: for each row size that was asked for.
    """

    solutions: int
    tokens: Distribution
    steps: Distribution
    fits: tuple[RowFit, ...]


def length_statistics(tokens: Sequence[int] | np.ndarray, steps: Sequence[int] | np.ndarray,
                      rows: Sequence[tuple[int, int]] = ()) -> LengthStatistics:
    """Statistics of solutions with these numbers of tokens and steps.

    Args:
      tokens, steps: int[N], one entry per solution.
      rows: sizes (tokens, steps) to judge.

    Raises:
      InputError: no solutions, or lengths that differ.
    """
    tokens, steps = np.asarray(tokens, np.int64), np.asarray(steps, np.int64)
    if not len(tokens) or len(tokens) != len(steps):
        raise InputError(f"has {len(steps)} entries for {len(tokens)} solutions", field="steps")
    fits = []
    for row_tokens, row_steps in rows:
        inside = (tokens <= row_tokens) & (steps <= row_steps)
        fits.append(RowFit(row_tokens, row_steps, float(inside.mean()), float(tokens[inside].sum() / max(tokens.sum(), 1))))
    return LengthStatistics(len(tokens), _distribution(tokens), _distribution(steps), tuple(fits))


def row_sizes(row_tokens: int, row_steps: int, longest_tokens: int, longest_steps: int) -> list[tuple[int, int]]:
    """Row sizes to compare with one: its halves and doubles, from an eighth up to what holds everything (8 at most)."""
    sizes = {(row_tokens, row_steps)}
    for shift in range(-3, 5):
        tokens = max(1, int(row_tokens * 2.0**shift))
        sizes.add((tokens, max(1, int(row_steps * 2.0**shift))))
        if shift >= 0 and tokens >= longest_tokens and row_steps * 2**shift >= longest_steps:
            break
    return sorted(sizes)


def packing_window(batch_rows: int) -> int:
    """Rows filled at the same time: whole batches."""
    return batch_rows * math.ceil(PACKING_WINDOW / batch_rows)


def packed_padding(tokens: Sequence[int] | np.ndarray, steps: Sequence[int] | np.ndarray, row_tokens: int, row_steps: int,
                   window: int) -> float:
    """Share of padding in the rows that best-fit packing makes of solutions in this order.

    A solution goes into the fullest of ``window`` rows that has room for its tokens and steps (the order is by used tokens
    and steps together, as in grain); where none has, all of them are given out. Equal to what the pipeline gives out in one
    pass; the unfilled rows of the last window, which an endless stream does not have, are not counted.

    Raises:
      InputError: a solution longer than a row.
    """
    sizes = np.stack([np.asarray(tokens, np.int64), np.asarray(steps, np.int64)], axis=1)
    room = np.array([row_tokens, row_steps])
    if len(sizes) and (sizes > room).any():
        raise InputError("is longer than a row", field="tokens", value=sizes[(sizes > room).any(axis=1)][0].tolist())
    used, rows, filled = np.zeros((window, 2), np.int64), 0, 0
    for size in sizes:
        fitting = ((used + size) <= room).all(axis=1)
        if not fitting.any():
            rows, filled = rows + window, filled + int(used[:, 0].sum())
            used[:] = 0
            fitting[:] = True
        used[np.argmax(np.where(fitting, used.sum(axis=1), -1))] += size
    if not rows:  # fewer solutions than one window holds
        rows, filled = int(np.count_nonzero(used.any(axis=1))), int(used[:, 0].sum())
    return 1 - filled / (rows * row_tokens) if rows else 0.0


def longest_padding(tokens: Sequence[int] | np.ndarray, batch_rows: int) -> float:
    """Share of padding where every solution has a row of its own and a batch is as long as its longest solution."""
    tokens = np.asarray(tokens, np.int64)
    batches = [tokens[start:start + batch_rows] for start in range(0, len(tokens), batch_rows)]
    cells = sum(len(batch) * int(batch.max()) for batch in batches)
    return 1 - int(tokens.sum()) / cells if cells else 0.0


def expected_padding(tokens: np.ndarray, steps: np.ndarray, row_tokens: int, row_steps: int,
                     batch_rows: int) -> dict[str, float]:
    """Padding shares of the three ways to batch solutions of these lengths, in this order.

    Returns:
      ``packed`` (what training does), ``longest`` (one solution per row, batches as long as their longest one),
      ``full_rows`` (one solution per row of ``row_tokens``).
    """
    return {"packed": packed_padding(tokens, steps, row_tokens, row_steps, packing_window(batch_rows)),
            "longest": longest_padding(tokens, batch_rows), "full_rows": 1 - float(np.mean(tokens)) / row_tokens}


def _distribution(values: np.ndarray) -> Distribution:
    found = np.percentile(values, PERCENTILES, method="inverted_cdf")
    return Distribution(int(values.sum()), float(values.mean()),
                        {str(share): int(value) for share, value in zip(PERCENTILES, found)})
