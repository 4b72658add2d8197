"""Answering only where confident: risk against coverage, accuracy at a coverage, and honest intervals.

Coverage is the share of the cases that are answered, the most confident first; risk is the share of wrong ones among
them. Cases of equal confidence cannot be told apart: they are expected to be answered in random order, so that no
number here depends on the order of the rows.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxprm.metrics.classification import _pair


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """The curve at its corners, one per distinct confidence, in order of rising coverage.

    Attributes:
      coverage: float[C], in (0, 1], the last one is 1.
      risk: float[C], the share of wrong answers among those given.
      threshold: float[C], the lowest confidence that is answered.
      area: mean risk over the coverages 1/N, 2/N ... 1 (AURC, Geifman and El-Yaniv 2017, arXiv:1705.08500); lower is
        better. Inside a group of equal confidence the risk is the expected one.
    """

    coverage: Float[np.ndarray, " C"]
    risk: Float[np.ndarray, " C"]
    threshold: Float[np.ndarray, " C"]
    area: float


def risk_coverage(confidence, correct) -> RiskCoverage:
    """The curve of `[N]` confidences and whether each case is right; empty arrays and a nan area for no case."""
    confidence, correct = _pair(confidence, correct)
    if not len(confidence):
        return RiskCoverage(np.zeros(0), np.zeros(0), np.zeros(0), float("nan"))
    confidence, right = _expected(confidence, correct)
    answered = np.arange(1, len(right) + 1)
    risk = 1 - np.cumsum(right) / answered
    corner = np.append(confidence[1:] != confidence[:-1], True)
    return RiskCoverage(answered[corner] / len(right), risk[corner], confidence[corner], float(risk.mean()))


def selective_accuracy(confidence, correct, coverage: float) -> float:
    """Expected accuracy on the ``ceil(coverage * N)`` most confident cases; nan for no case.

    Raises:
      ValueError: coverage not in (0, 1].
    """
    confidence, correct = _pair(confidence, correct)
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, not {coverage}")
    if not len(confidence):
        return float("nan")
    answered = max(1, int(np.ceil(coverage * len(correct) * (1 - 1e-12))))
    return float(_expected(confidence, correct)[1][:answered].mean())


def coverage_at_risk(confidence, correct, risk: float) -> float:
    """The largest coverage of a threshold whose risk is at most this; 0.0 where there is none.

    Groups of equal confidence are answered whole or not at all, as a threshold does.
    """
    curve = risk_coverage(confidence, correct)
    fine = curve.coverage[curve.risk <= risk + 1e-12]
    return float(fine[-1]) if len(fine) else 0.0


def interval_coverage(low, high, values) -> float:
    """Share of the values inside [low, high], ends included: what a predicted interval really covers; nan for none.

    Raises:
      ValueError: shapes that differ, something that is not a number, an upper end below its lower one.
    """
    low, high, values = (np.asarray(array, np.float64) for array in np.broadcast_arrays(low, high, values))
    if np.isnan(low).any() or np.isnan(high).any() or np.isnan(values).any():
        raise ValueError("an end or a value is not a number")
    if (high < low).any():
        raise ValueError("an upper end lies below its lower one")
    return float(np.mean((low <= values) & (values <= high))) if values.size else float("nan")


def _expected(confidence, correct) -> tuple[np.ndarray, np.ndarray]:
    """Sorted by falling confidence; every case counts the share of right ones in its group of equal confidence."""
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    group = np.cumsum(np.append(False, confidence[1:] != confidence[:-1]))
    share = np.bincount(group, correct[order]) / np.bincount(group)
    return confidence, share[group]
