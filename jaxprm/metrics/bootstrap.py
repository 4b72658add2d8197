"""Confidence intervals by resampling whole problems.

Steps of a solution, and solutions of a problem, are not independent: resampling rows would give intervals that are too
narrow. Here the groups (problems) are drawn with replacement, and every row follows its group. Intervals are percentile
intervals.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

BLOCK = 2**22
"""Numbers held at once in the vectorised statistics (32 MiB)."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number with its confidence interval; nan where the statistic is not defined on the data.

    Attributes:
      mean: the statistic on all data (not the mean of the resamples).
      low, high: ends of the interval.
    """

    mean: float
    low: float
    high: float


def bootstrap_interval(statistic: Callable[[Int[np.ndarray, " R"]], float | None], groups, key: int | Sequence[int], *,
                       resamples: int = 1000, level: float = 0.95) -> Interval:
    """The interval of any statistic of rows.

    Args:
      statistic: takes row indices (some of them repeated, some absent) and returns a number, or None / nan where it is
        undefined on these rows; such resamples are left out. For a difference of two methods compute both on the same
        rows.
      groups: `[N]` id of the group (problem) of each row; any sortable values.
      key: seed of the resampling.
      resamples: how often the groups are drawn.
      level: probability that the interval is to cover.
    """
    index, count = _groups(groups)
    draws = _draws(count, key, resamples, level)
    order = np.argsort(index, kind="stable")
    samples = [statistic(np.repeat(order, draw[index[order]])) for draw in draws]
    return _percentiles(statistic(np.arange(len(index))), samples, level)


def bootstrap_mean(values, groups, key: int | Sequence[int], *, resamples: int = 1000, level: float = 0.95) -> Interval:
    """The interval of the mean over rows, ``sum values / number of rows`` (vectorised)."""
    index, count = _groups(groups)
    values = np.asarray(values, np.float64)
    if values.shape != index.shape:
        raise ValueError(f"values {values.shape} and groups {index.shape} differ in shape")
    draws = _draws(count, key, resamples, level)
    sums, sizes = np.bincount(index, values, minlength=count), np.bincount(index, minlength=count)
    if not len(values):
        return _percentiles(None, [], level)
    return _percentiles(values.mean(), (draws @ sums) / (draws @ sizes), level)


def paired_difference(first, second, groups, key: int | Sequence[int], *, resamples: int = 1000,
                      level: float = 0.95) -> Interval:
    """The interval of ``mean(first) - mean(second)``, two methods measured on the same rows.

    Both are resampled together: what makes a problem hard for both cancels, so the interval is narrower than that of
    two independent samples. The difference is significant at ``1 - level`` where the interval excludes zero.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values must have one shape, not {first.shape} and {second.shape}")
    return bootstrap_mean(first - second, groups, key, resamples=resamples, level=level)


def bootstrap_of_sums(columns, statistic: Callable[[np.ndarray], np.ndarray], groups, key: int | Sequence[int], *,
                      resamples: int = 1000, level: float = 0.95) -> Interval:
    """The interval of a statistic of sums over rows: an F1, a correlation, any ratio (vectorised).

    Args:
      columns: float[N, K], what every row adds to the K sums.
      statistic: from sums `[..., K]` to `[...]`, nan where it is undefined; such resamples are left out.
      groups: `[N]` id of the group (problem) of each row.
    """
    index, count, columns = _grouped_columns(columns, groups)
    draws = _draws(count, key, resamples, level)
    estimate = float(statistic(columns.sum(axis=0))) if len(index) else None
    return _percentiles(estimate, statistic(draws @ columns) if len(index) else [], level)


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """Two methods on the same problems.

    Attributes:
      difference: statistic of the first minus that of the second, with its interval.
      p_value: two-sided: twice the share of resamples on the other side of zero, both counts one up so that it is
        never 0, at most 1. It is below ``1 - level`` where the interval leaves zero out (up to that one count).
      groups: number of problems.
    """

    difference: Interval
    p_value: float
    groups: int


def paired_test(first, second, statistic: Callable[[np.ndarray], np.ndarray], groups, key: int | Sequence[int], *,
                resamples: int = 10_000, level: float = 0.95) -> PairedTest:
    """The paired bootstrap test of two methods by problem, for any statistic of sums (see `bootstrap_of_sums`).

    Both methods are resampled together, so that what makes a problem hard for both cancels.

    Args:
      first, second: float[N, K] (or `[N]`), what every row adds to the sums of the two methods.
      statistic: from sums `[..., K]` to `[...]`.

    Raises:
      ValueError: shapes that differ.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"paired values must have one shape, not {np.shape(first)} and {np.shape(second)}")
    index, count, first = _grouped_columns(first, groups)
    _, _, second = _grouped_columns(second, groups)
    draws = _draws(count, key, resamples, level)
    if not len(index):
        return PairedTest(_percentiles(None, [], level), float("nan"), 0)
    samples = np.concatenate([statistic(draw @ first) - statistic(draw @ second) for draw in np.array_split(draws, 8)])
    estimate = float(statistic(first.sum(axis=0)) - statistic(second.sum(axis=0)))
    known = samples[~np.isnan(samples)]
    tails = [(int(np.sum(side)) + 1) / (len(known) + 1) for side in (known <= 0, known >= 0)]
    p_value = min(1.0, 2 * min(tails)) if len(known) else float("nan")
    return PairedTest(_percentiles(estimate, samples, level), p_value, count)


def _grouped_columns(columns, groups) -> tuple[np.ndarray, int, np.ndarray]:
    """Index of every row's group, number of groups, and the columns summed inside each group: float[G, K]."""
    index, count = _groups(groups)
    columns = np.asarray(columns, np.float64).reshape(len(index), -1) if len(index) else np.zeros((0, 1))
    return index, count, np.stack([np.bincount(index, column, minlength=count) for column in columns.T], axis=-1)


def bootstrap_auroc(scores, labels, groups, key: int | Sequence[int], *, positions=None, resamples: int = 1000,
                    level: float = 0.95) -> Interval:
    """The interval of `auroc`, or of the mean of `auroc_within_position` where `positions` are given.

    The rows are sorted once; a resample only changes how often each of them counts.
    """
    index, count = _groups(groups)
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels).astype(bool)
    positions = np.zeros(len(index), np.int64) if positions is None else np.asarray(positions)
    if not scores.shape == labels.shape == positions.shape == index.shape:
        raise ValueError("scores, labels, positions and groups differ in length")
    draws = _draws(count, key, resamples, level)
    if not len(scores):
        return _percentiles(None, [], level)
    order = np.lexsort((scores, positions))
    scores, labels, positions, index = scores[order], labels[order], positions[order], index[order]
    new_position = np.append(True, positions[1:] != positions[:-1])
    ties = np.flatnonzero(new_position | np.append(True, scores[1:] != scores[:-1]))
    strata = np.flatnonzero(new_position[ties])
    stratum_of_tie = np.cumsum(new_position[ties]) - 1

    def area(draws: Float[np.ndarray, "R G"]) -> Float[np.ndarray, " R"]:
        times = draws[:, index]
        right = np.add.reduceat(times * labels, ties, axis=1)
        wrong = np.add.reduceat(times * ~labels, ties, axis=1)
        below = np.cumsum(wrong, axis=1) - wrong
        below -= below[:, strata][:, stratum_of_tie]
        ordered = np.sum(right * (below + wrong / 2), axis=1)
        pairs = np.sum(np.add.reduceat(right, strata, axis=1) * np.add.reduceat(wrong, strata, axis=1), axis=1)
        return np.where(pairs > 0, ordered / np.where(pairs > 0, pairs, 1), np.nan)

    rows = max(1, BLOCK // len(index))
    samples = [area(draws[i : i + rows].astype(np.float64)) for i in range(0, len(draws), rows)]
    return _percentiles(area(np.ones((1, count)))[0], np.concatenate(samples), level)


def _groups(groups) -> tuple[Int[np.ndarray, " N"], int]:
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index.reshape(-1), len(names)


def _draws(count: int, key, resamples: int, level: float) -> Int[np.ndarray, "R G"]:
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples {resamples} must be at least 1 and level {level} between 0 and 1")
    return _multinomial(count, tuple(key) if np.iterable(key) else int(key), resamples)


@functools.lru_cache(maxsize=4)
def _multinomial(count: int, key: int | tuple[int, ...], resamples: int) -> Int[np.ndarray, "R G"]:
    """Kept for the next statistic of the same problems: drawing takes longer than most statistics."""
    rng = np.random.default_rng(key)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples) if count else np.zeros((resamples, 0), np.int64)
    draws.flags.writeable = False
    return draws


def _percentiles(estimate, samples, level: float) -> Interval:
    samples = np.array([np.nan if sample is None else sample for sample in samples], np.float64)
    samples = samples[~np.isnan(samples)]
    if estimate is None or not len(samples):
        estimate = float("nan") if estimate is None else float(estimate)
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high))
