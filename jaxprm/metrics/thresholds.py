"""Scores against a threshold: counts, accuracy, precision, recall, F1, and the threshold with the best F1."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxprm.metrics.classification import _pair


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of a decision between right (positive) and wrong steps. A ratio with an empty denominator is None.

    Attributes:
      tp: right, called right.
      fp: wrong, called right.
      tn: wrong, called wrong.
      fn: right, called wrong.
    """

    tp: int
    fp: int
    tn: int
    fn: int

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn)

    @property
    def accuracy(self) -> float | None:
        """Share of all decisions that are right."""
        return ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)

    @property
    def precision(self) -> float | None:
        """Share of right steps among those called right."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the right steps that are called right."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """2 tp / (2 tp + fp + fn): 0 where precision and recall are 0, None where there is nothing to find or to call."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def negative(self) -> Confusion:
        """The same counts with the wrong steps as the positive class."""
        return Confusion(self.tn, self.fn, self.tp, self.fp)


def confusion_at(scores, labels, threshold: float) -> Confusion:
    """The counts of "score > threshold means right"; labels are 0/1 and are never compared with the threshold."""
    scores, labels = _pair(scores, labels)
    called = scores > threshold
    return Confusion(*(int(np.sum(mask)) for mask in (called & labels, called & ~labels, ~called & ~labels, ~called & labels)))


def best_f1_threshold(scores, labels) -> float:
    """The lowest of the scores that has the best F1 as threshold of "score > threshold"; 0.0 without a positive found.

    The candidates are the scores themselves (as in FoVer's evaluation), so that a threshold below all of them is not
    tried. Chosen on the data that it is reported on, it flatters.
    """
    scores, labels = _pair(scores, labels)
    if not len(scores):
        raise ValueError("a threshold cannot be chosen without scores")
    order = np.argsort(scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(scores[1:] != scores[:-1], True)
    called_right = labels.sum() - np.cumsum(labels)[last]
    called = len(scores) - (np.flatnonzero(last) + 1)
    f1 = 2 * called_right / np.maximum(called + labels.sum(), 1)
    best = int(np.argmax(f1))
    return float(scores[last][best]) if f1[best] > 0 else 0.0


def ratio(numerator: float, denominator: float) -> float | None:
    """The quotient, None where the denominator is 0."""
    return numerator / denominator if denominator else None
