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
    return statistic_of_rows(statistic, groups).interval(key, resamples=resamples, level=level)


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
    """The interval of a statistic of sums over rows, see `statistic_of_sums` (vectorised)."""
    return statistic_of_sums(columns, statistic, groups).interval(key, resamples=resamples, level=level)


@dataclasses.dataclass(frozen=True, eq=False)
class GroupStatistic:
    """A number as a function of how often each group (problem) counts: all that resampling has to know.

    Attributes:
      groups: `[G]` names of the groups, sorted.
      of: from counts int[R, G] to float[R], nan where it is undefined; such resamples are left out.
    """

    groups: np.ndarray
    of: Callable[[np.ndarray], np.ndarray]
    _known: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def value(self) -> float:
        """The number on all data; nan where it is undefined."""
        return float(self.of(np.ones((1, len(self.groups)), np.int64))[0]) if len(self.groups) else float("nan")

    def samples(self, key: int | Sequence[int], resamples: int) -> Float[np.ndarray, " R"]:
        """The number on every resample; kept, so that a paired test after an interval costs nothing."""
        place = (tuple(key) if np.iterable(key) else int(key), resamples)
        if not len(self.groups):
            return np.full(resamples, np.nan)
        if place not in self._known:
            draws = _multinomial(len(self.groups), *place)
            # In parts: a statistic of sums over many groups would copy all draws as floats.
            parts = [self.of(part) for part in np.array_split(draws, 8) if len(part)]
            self._known[place] = np.concatenate(parts)
        return self._known[place]

    def interval(self, key: int | Sequence[int], *, resamples: int = 1000, level: float = 0.95) -> Interval:
        """The number with its interval."""
        _check(resamples, level)
        return _percentiles(self.value, self.samples(key, resamples), level)


def statistic_of_sums(columns, statistic: Callable[[np.ndarray], np.ndarray], groups) -> GroupStatistic:
    """A statistic of sums over rows: an F1, a correlation, any ratio.

    Args:
      columns: float[N, K] (or `[N]`), what every row adds to the K sums.
      statistic: from sums `[..., K]` to `[...]`, nan where it is undefined.
      groups: `[N]` id of the group (problem) of each row.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    columns = np.asarray(columns, np.float64).reshape(len(index), -1) if len(index) else np.zeros((0, 1))
    sums = np.stack([np.bincount(index.reshape(-1), column, minlength=len(names)) for column in columns.T], axis=-1)
    return GroupStatistic(names, lambda draws: statistic(draws @ sums))


def statistic_of_rows(statistic: Callable[[Int[np.ndarray, " R"]], float | None], groups) -> GroupStatistic:
    """Any statistic of row indices (see `bootstrap_interval`), one resample after another."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    index = index.reshape(-1)
    rows = np.arange(len(index))

    def one(draw) -> float:
        value = statistic(np.repeat(rows, draw[index]))
        return np.nan if value is None else value

    return GroupStatistic(names, lambda draws: np.array([one(draw) for draw in draws], np.float64))


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
    return paired_statistics(statistic_of_sums(first, statistic, groups), statistic_of_sums(second, statistic, groups), key,
                             resamples=resamples, level=level)


def paired_statistics(first: GroupStatistic, second: GroupStatistic, key: int | Sequence[int], *, resamples: int = 10_000,
                      level: float = 0.95) -> PairedTest:
    """`paired_test` for any statistic of the same groups: of two models, say, on the same problems.

    Raises:
      ValueError: groups that differ.
    """
    if not np.array_equal(first.groups, second.groups):
        raise ValueError("the two statistics are not of the same groups")
    _check(resamples, level)
    samples = first.samples(key, resamples) - second.samples(key, resamples)
    known = samples[~np.isnan(samples)]
    tails = [(int(np.sum(side)) + 1) / (len(known) + 1) for side in (known <= 0, known >= 0)]
    p_value = min(1.0, 2 * min(tails)) if len(known) else float("nan")
    return PairedTest(_percentiles(first.value - second.value, samples, level), p_value, len(first.groups))


def bootstrap_auroc(scores, labels, groups, key: int | Sequence[int], *, positions=None, resamples: int = 1000,
                    level: float = 0.95) -> Interval:
    """The interval of `auroc`, or of the mean of `auroc_within_position` where `positions` are given."""
    return auroc_statistic(scores, labels, groups, positions).interval(key, resamples=resamples, level=level)


def auroc_statistic(scores, labels, groups, positions=None) -> GroupStatistic:
    """`auroc`, or the mean of `auroc_within_position` where `positions` are given.

    The rows are sorted once; a resample only changes how often each of them counts.
    """
    names, index, scores, labels = _scored_rows(scores, labels, groups)
    positions = np.zeros(len(index), np.int64) if positions is None else np.asarray(positions)
    if positions.shape != index.shape:
        raise ValueError("scores, labels, positions and groups differ in length")
    order = np.lexsort((scores, positions))
    scores, labels, positions, index = scores[order], labels[order], positions[order], index[order]
    new_position = np.append(True, positions[1:] != positions[:-1])[:len(index)]
    ties = np.flatnonzero(new_position | np.append(True, scores[1:] != scores[:-1])[:len(index)])
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

    return GroupStatistic(names, _in_blocks(area, len(index)))


def average_precision_statistic(scores, labels, groups) -> GroupStatistic:
    """`average_precision`; the rows are sorted once, as in `auroc_statistic`."""
    names, index, scores, labels = _scored_rows(scores, labels, groups)
    order = np.argsort(-scores, kind="stable")
    scores, labels, index = scores[order], labels[order], index[order]
    ties = np.flatnonzero(np.append(True, scores[1:] != scores[:-1])[:len(index)])

    def area(draws: Float[np.ndarray, "R G"]) -> Float[np.ndarray, " R"]:
        times = draws[:, index]
        hits, calls = (np.add.reduceat(values, ties, axis=1) for values in (times * labels, times))
        precision = np.cumsum(hits, axis=1) / np.maximum(np.cumsum(calls, axis=1), 1)
        total = hits.sum(axis=1)
        return np.where(total > 0, np.sum(hits * precision, axis=1) / np.where(total > 0, total, 1), np.nan)

    return GroupStatistic(names, _in_blocks(area, len(index)))


def _scored_rows(scores, labels, groups) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels).astype(bool)
    index = index.reshape(-1)
    if not scores.shape == labels.shape == index.shape:
        raise ValueError("scores, labels, positions and groups differ in length")
    return names, index, scores, labels


def _in_blocks(statistic: Callable[[np.ndarray], np.ndarray], rows: int) -> Callable[[np.ndarray], np.ndarray]:
    """The same for any number of resamples, each block of which holds at most `BLOCK` numbers."""
    if not rows:
        return lambda draws: np.full(len(draws), np.nan)
    step = max(1, BLOCK // rows)
    return lambda draws: np.concatenate([statistic(draws[i:i + step].astype(np.float64)) for i in range(0, len(draws), step)])


def _groups(groups) -> tuple[Int[np.ndarray, " N"], int]:
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index.reshape(-1), len(names)


def _check(resamples: int, level: float) -> None:
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples {resamples} must be at least 1 and level {level} between 0 and 1")


def _draws(count: int, key, resamples: int, level: float) -> Int[np.ndarray, "R G"]:
    _check(resamples, level)
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
