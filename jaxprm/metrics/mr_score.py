"""MR-Score of MR-GSM8K and Mr-Ben (Zeng et al. 2023, arXiv:2312.17080): judge a solution, find its error, explain it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxprm.metrics.thresholds import Confusion


@dataclasses.dataclass(frozen=True)
class MrRow:
    """One solution and what a model said about it.

    Attributes:
      correct: whether the solution is right.
      first_error: number of its first wrong step; None where it is right.
      called_correct: the model's verdict; None where it gave none, which counts as wrong.
      predicted_error: the first wrong step the model names (same base), None without one.
      reason_right: whether the model's reason was judged right.
    """

    correct: bool
    first_error: int | None
    called_correct: bool | None
    predicted_error: int | None
    reason_right: bool = False

    def __post_init__(self):
        if self.correct != (self.first_error is None):
            raise ValueError(f"a solution is right exactly if it has no wrong step: {self.correct}, {self.first_error}")


@dataclasses.dataclass(frozen=True)
class MrScore:
    """The three tasks and their weighted sum.

    Attributes:
      mcc: Matthews correlation of the verdicts; 0.0 where it is not defined.
      step_accuracy: share of the wrong solutions that are called wrong with their first wrong step named.
      reason_accuracy: share of the wrong solutions where the reason is right as well; both are 0.0 without any.
      score: 0.2 max(0, mcc) + 0.3 step_accuracy + 0.5 reason_accuracy.
    """

    mcc: float
    step_accuracy: float
    reason_accuracy: float
    score: float


def mr_score(rows: Sequence[MrRow]) -> MrScore:
    """The score; every accuracy has all wrong solutions as its denominator."""
    wrong = [row for row in rows if not row.correct]
    found = [row for row in wrong if row.called_correct is False and row.predicted_error == row.first_error]
    tp = sum(row.correct and row.called_correct is True for row in rows)
    tn = sum(not row.correct and row.called_correct is False for row in rows)
    counts = Confusion(tp, len(wrong) - tn, tn, len(rows) - len(wrong) - tp)
    mcc = matthews(counts)
    step, reason = (len(part) / len(wrong) if wrong else 0.0 for part in (found, [row for row in found if row.reason_right]))
    return MrScore(mcc, step, reason, 0.2 * max(0.0, mcc) + 0.3 * step + 0.5 * reason)


def matthews(counts: Confusion) -> float:
    """Matthews correlation coefficient, in [-1, 1]; 0.0 where a row or a column of the table is empty."""
    tp, fp, tn, fn = dataclasses.astuple(counts)
    under = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(under) if under else 0.0


def mr_columns(rows: Sequence[MrRow]) -> np.ndarray:
    """float[N, 6] for `mr_score_of_sums`: right called right, right not, wrong called wrong, wrong not, located, explained."""
    table = []
    for row in rows:
        agrees = row.called_correct is not None and bool(row.called_correct) == row.correct
        found = not row.correct and agrees and row.predicted_error == row.first_error
        table.append((row.correct and agrees, row.correct and not agrees, not row.correct and agrees,
                      not row.correct and not agrees, found, found and row.reason_right))
    return np.array(table, np.float64).reshape(-1, 6)


def mr_parts_of_sums(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matthews correlation, step accuracy and reason accuracy from summed `mr_columns`, `[..., 6]` -> `[...]` each."""
    tp, fn, tn, fp, found, explained = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    under = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    wrong = np.maximum(tn + fp, 1)
    return np.where(under > 0, (tp * tn - fp * fn) / np.where(under > 0, under, 1), 0.0), found / wrong, explained / wrong


def mr_score_of_sums(sums: np.ndarray) -> np.ndarray:
    """The score from summed `mr_columns`, `[..., 6]` -> `[...]`."""
    mcc, step, reason = mr_parts_of_sums(sums)
    return 0.2 * np.maximum(mcc, 0) + 0.3 * step + 0.5 * reason
