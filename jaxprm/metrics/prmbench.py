"""PRMBench (Song et al. 2025, arXiv:2501.03124): every step of nine classes of planted errors."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxprm.metrics.bootstrap import Interval, bootstrap_of_sums
from jaxprm.metrics.thresholds import Confusion, ratio

DIMENSIONS = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
"""The classes of each dimension, in the data set's own spelling."""

CLASSES = tuple(name for classes in DIMENSIONS.values() for name in classes)
ORIGINAL = "correct"
"""The class of the unchanged twins: evaluated, but no part of the total."""


@dataclasses.dataclass(frozen=True)
class PrmbenchRow:
    """One solution.

    Attributes:
      kind: one of `CLASSES`, or "correct".
      wrong: per step, whether it is wrong (the data's `error_steps` are 1-based).
      called_right: per step, the model's decision (usually score > 0.5); None where the model gave none.
      problem: names the problem, to find the unchanged twin and for intervals.
    """

    kind: str
    wrong: Sequence[bool]
    called_right: Sequence[bool] | None
    problem: str = ""

    def __post_init__(self):
        if self.kind not in (*CLASSES, ORIGINAL):
            raise ValueError(f"unknown class {self.kind!r}; PRMBench has {', '.join((*CLASSES, ORIGINAL))}")
        if self.called_right is not None and len(self.called_right) != len(self.wrong):
            raise ValueError(f"{len(self.called_right)} decisions for {len(self.wrong)} steps ({self.kind} {self.problem})")


@dataclasses.dataclass(frozen=True)
class PrmbenchScores:
    """The numbers of one class, or of all; None where a denominator is empty (the reference writes -1).

    Attributes:
      counts: pooled over the steps; the right step is the positive class.
      first_error: share of the solutions with a wrong step whose first wrong step is called wrong.
      similarity: mean distance between the share of steps called right in a solution and in its unchanged twin; low
        means that the model does not see the difference. Twins without any step called right are left out.
    """

    counts: Confusion
    first_error: float | None
    similarity: float | None

    @property
    def f1(self) -> float | None:
        return self.counts.f1

    @property
    def negative_f1(self) -> float | None:
        return self.counts.negative.f1


@dataclasses.dataclass(frozen=True)
class Prmbench:
    """The benchmark's numbers.

    Attributes:
      prmscore: mean of F1 and negative F1 of the pooled counts of all nine classes (not a mean of class scores).
      by_class: PRMScore per class; multi_solutions has no wrong step, its score is the F1.
      by_dimension: mean of the PRMScores of the classes that have one.
      total: of the nine classes; classes: of each of them and of the unchanged twins.
      answered: share of the rows of the nine classes for which the model gave decisions.
    """

    prmscore: float | None
    by_class: dict[str, float | None]
    by_dimension: dict[str, float | None]
    total: PrmbenchScores
    classes: dict[str, PrmbenchScores]
    answered: float | None


def prmbench(rows: Sequence[PrmbenchRow]) -> Prmbench:
    """Every number of the benchmark. Rows without decisions are left out and lower `answered`."""
    by_kind: dict[str, list[PrmbenchRow]] = collections.defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    twins = {row.problem: _share_right(row) for row in by_kind[ORIGINAL] if row.called_right}
    present = [kind for kind in (*CLASSES, ORIGINAL) if by_kind[kind]]
    classes = {kind: _scores(by_kind[kind], twins) for kind in present}
    planted = [row for kind in CLASSES for row in by_kind[kind]]
    total = _scores(planted, twins)
    by_class = {kind: _class_score(kind, classes[kind].counts) for kind in present if kind != ORIGINAL}
    by_dimension = {}
    for dimension, kinds in DIMENSIONS.items():
        values = [by_class[kind] for kind in kinds if by_class.get(kind) is not None]
        if any(kind in by_class for kind in kinds):
            by_dimension[dimension] = float(np.mean(values)) if values else None
    answered = ratio(sum(row.called_right is not None for row in planted), len(planted))
    return Prmbench(_prmscore(total.counts), by_class, by_dimension, total, classes, answered)


def prmscore_interval(rows: Sequence[PrmbenchRow], key, **options) -> Interval:
    """The overall PRMScore with its bootstrap interval over problems."""
    rows = [row for row in rows if row.kind != ORIGINAL and row.called_right is not None]
    return bootstrap_of_sums(count_columns(rows), prmscore_of_sums, [row.problem for row in rows], key, **options)


def count_columns(rows: Sequence[PrmbenchRow]) -> np.ndarray:
    """float[N, 4] for `prmscore_of_sums`: tp, fp, tn, fn of every row."""
    return np.array([dataclasses.astuple(_counts(row)) for row in rows], np.float64).reshape(-1, 4)


def prmscore_of_sums(sums: np.ndarray) -> np.ndarray:
    """PRMScore from summed counts, `[..., 4]` -> `[...]`; nan where an F1 is not defined."""
    tp, fp, tn, fn = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    denominators = 2 * tp + fp + fn, 2 * tn + fp + fn
    f1s = [np.where(under > 0, 2 * over / np.where(under > 0, under, 1), np.nan) for over, under in zip((tp, tn), denominators)]
    return np.asarray((f1s[0] + f1s[1]) / 2)


def _prmscore(counts: Confusion) -> float | None:
    parts = counts.f1, counts.negative.f1
    return None if None in parts else sum(parts) / 2


def _class_score(kind: str, counts: Confusion) -> float | None:
    return counts.f1 if kind == "multi_solutions" else _prmscore(counts)


def _scores(rows: Sequence[PrmbenchRow], twins: dict[str, float]) -> PrmbenchScores:
    rows = [row for row in rows if row.called_right is not None]
    firsts = [not row.called_right[list(row.wrong).index(True)] for row in rows if any(row.wrong)]
    distances = [abs(_share_right(row) - twins[row.problem]) for row in rows
                 if row.kind != ORIGINAL and row.called_right and twins.get(row.problem, 0) > 0]
    return PrmbenchScores(sum(map(_counts, rows), Confusion(0, 0, 0, 0)), ratio(sum(firsts), len(firsts)),
                          ratio(sum(distances), len(distances)))


def _counts(row: PrmbenchRow) -> Confusion:
    wrong, called = np.asarray(row.wrong, bool), np.asarray(row.called_right, bool)
    return Confusion(*(int(np.sum(mask)) for mask in (called & ~wrong, called & wrong, ~called & wrong, ~called & ~wrong)))


def _share_right(row: PrmbenchRow) -> float:
    return float(np.mean(np.asarray(row.called_right, bool)))


def best_prmscore_threshold(scores: Sequence[np.ndarray | Sequence], wrong: Sequence[np.ndarray | Sequence[bool]]) -> float:
    """The threshold of "score > threshold means right" with the best PRMScore of the pooled steps; it flatters these steps.

    The candidates are the midpoints between neighbouring scores and one value at either end, of equally good ones the middle.

    Raises:
      ValueError: the PRMScore is not defined at any threshold (no steps).
    """
    values = np.concatenate([*(np.asarray(row, np.float64) for row in scores), np.zeros(0)])
    bad = np.concatenate([*(np.asarray(row, bool) for row in wrong), np.zeros(0, bool)])
    if not len(values):
        raise ValueError("a threshold cannot be chosen without scores")
    known = np.unique(values)
    candidates = np.concatenate([[np.nextafter(known[0], -np.inf)], (known[:-1] + known[1:]) / 2, known[-1:]])
    called_wrong = [np.searchsorted(np.sort(values[side]), candidates, side="right") for side in (~bad, bad)]
    fn, tn = called_wrong
    score = prmscore_of_sums(np.stack([(~bad).sum() - fn, bad.sum() - tn, tn, fn], axis=-1))
    best = np.flatnonzero(score == np.nanmax(score))
    return float(candidates[best[(len(best) - 1) // 2]])
