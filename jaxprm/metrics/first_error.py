"""Finding the first wrong step: the task of ProcessBench (Zheng et al. 2024, arXiv:2412.06559)."""

from __future__ import annotations

import dataclasses

import numpy as np

NO_ERROR = -1
"""The index that stands for "no step is wrong"."""


@dataclasses.dataclass(frozen=True)
class FirstErrorF1:
    """The harmonic mean of two accuracies, which is not an F1 of precision and recall.

    Attributes:
      f1: harmonic mean of the two accuracies; 0.0 where either is 0.
      accuracy_erroneous: share of the solutions with an error whose first error is found exactly; 0.0 for none.
      accuracy_clean: share of the solutions without an error that are called clean; 0.0 for none.
      erroneous, clean: number of solutions in the two groups.
    """

    f1: float
    accuracy_erroneous: float
    accuracy_clean: float
    erroneous: int
    clean: int


def first_error_f1(predicted, true) -> FirstErrorF1:
    """ProcessBench's metric, as fractions (its code prints percent, and nan where this returns 0.0).

    Args:
      predicted: `[N]`, 0-based index of the first wrong step, -1 for "no error", None for "no verdict" (always counted
        wrong).
      true: `[N]`, 0-based index of the first wrong step, -1 for none.
    """
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} solutions")
    gold = np.asarray(true, np.int64)
    guess = np.array([np.iinfo(np.int64).min if index is None else int(index) for index in predicted], np.int64)
    match, clean = guess == gold, gold == NO_ERROR
    accuracy_erroneous, accuracy_clean = _share(match[~clean]), _share(match[clean])
    both = accuracy_erroneous + accuracy_clean
    f1 = 2 * accuracy_erroneous * accuracy_clean / both if both else 0.0
    return FirstErrorF1(f1, accuracy_erroneous, accuracy_clean, int((~clean).sum()), int(clean.sum()))


def first_below(scores, threshold: float) -> int:
    """0-based index of the first step that scores strictly below `threshold`; -1 where none does.

      In:   [.9, .8, .3, .1], threshold .5
      Out:  2
    """
    below = np.flatnonzero(np.asarray(scores, np.float64) < threshold)
    return int(below[0]) if len(below) else NO_ERROR


def best_threshold(scores, true) -> float:
    """The threshold of `first_below` that has the best `first_error_f1` on these solutions.

    Choose it on a calibration split and report the F1 of another: chosen on the test set it flatters. Only the order of
    the scores matters, so the candidates are the midpoints between neighbouring distinct step scores and one value at
    either end; of equally good candidates the middle one is returned.

    Args:
      scores: per solution, one score per step.
      true: per solution, the 0-based index of its first wrong step, -1 for none.
    """
    if len(scores) != len(true):
        raise ValueError(f"{len(scores)} score lists for {len(true)} solutions")
    values = np.unique(np.concatenate([np.asarray(row, np.float64) for row in scores])) if len(scores) else np.zeros(0)
    if not len(values):
        raise ValueError("a threshold cannot be chosen without scores")
    candidates = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2, [np.nextafter(values[-1], np.inf)]])
    gold = np.asarray(true, np.int64)
    clean = gold == NO_ERROR

    # first_below is the true step exactly while  score[true] < threshold <= min(scores before it);  a clean solution is
    # called clean while  threshold <= min(scores).  So every solution is right on one interval: count interval ends.
    low, high = np.empty(len(gold)), np.empty(len(gold))
    for row, (steps, first) in enumerate(zip(scores, gold)):
        steps = np.asarray(steps, np.float64)
        if first >= len(steps):
            raise ValueError(f"solution {row} has {len(steps)} steps, its first error cannot be step {first}")
        low[row] = -np.inf if first == NO_ERROR else steps[first]
        high[row] = np.min(steps if first == NO_ERROR else steps[:first], initial=np.inf)

    def share(group):
        ends = np.maximum(low[group], high[group])  # an empty interval where an earlier step scores lower
        right = np.searchsorted(np.sort(low[group]), candidates) - np.searchsorted(np.sort(ends), candidates)
        return right / max(1, int(group.sum()))

    erroneous_share, clean_share = share(~clean), share(clean)
    both = erroneous_share + clean_share
    f1 = np.where(both > 0, 2 * erroneous_share * clean_share / np.where(both > 0, both, 1), 0)
    best = np.flatnonzero(f1 == f1.max())
    return float(candidates[best[(len(best) - 1) // 2]])


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else 0.0
