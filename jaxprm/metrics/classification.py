"""How well scores separate right from wrong steps, and how far they are probabilities. NumPy float64 on the host."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy import stats


def auroc(scores, labels) -> float | None:
    """Probability that a random right step scores above a random wrong one, ties counting half.

    Args:
      scores: `[N]` numbers; only their order matters.
      labels: `[N]` bool or 0/1.

    Returns:
      The area under the ROC curve, or None where one of the two classes is empty (it is not defined then).
    """
    scores, labels = _pair(scores, labels)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    # Mann-Whitney: midranks give ties exactly one half.
    rank_sum = stats.rankdata(scores)[labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


@dataclasses.dataclass(frozen=True)
class WithinPosition:
    """AUROC among steps at the same position of their solutions.

    Attributes:
      mean: the positions' AUROC weighted by their number of right-wrong pairs; None where no position has a pair.
      positions: int[P], the positions that hold both classes, ascending.
      values: float[P], their AUROC.
      pairs: int[P], their number of right-wrong pairs.
    """

    mean: float | None
    positions: Int[np.ndarray, " P"]
    values: Float[np.ndarray, " P"]
    pairs: Int[np.ndarray, " P"]


def auroc_within_position(scores, labels, positions) -> WithinPosition:
    """AUROC of the pairs of steps that stand at the same position.

    Errors grow likelier along a solution, so a reader of position alone has a flattering `auroc`; here it has exactly
    0.5. The weighted mean is the probability that a random right-wrong pair from one position is in the right order.
    (Our definition.)

    Args:
      scores: `[N]` numbers.
      labels: `[N]` bool or 0/1.
      positions: `[N]` integers, the index of each step in its solution.
    """
    scores, labels = _pair(scores, labels)
    positions = np.asarray(positions)
    if positions.shape != scores.shape:
        raise ValueError(f"positions {positions.shape} and scores {scores.shape} differ in shape")
    rows = []
    for position in np.unique(positions):
        here = positions == position
        value = auroc(scores[here], labels[here])
        if value is not None:
            right = int(labels[here].sum())
            rows.append((int(position), value, right * (int(here.sum()) - right)))
    table = np.array(rows, np.float64).reshape(-1, 3)
    pairs = table[:, 2].astype(np.int64)
    mean = float(table[:, 1] @ pairs / pairs.sum()) if len(rows) else None
    return WithinPosition(mean, table[:, 0].astype(np.int64), table[:, 1], pairs)


def average_precision(scores, labels) -> float | None:
    """Area under the precision-recall steps: sum over thresholds of (recall gained) * precision; None without a
    positive.

    Equal scores form one threshold. No interpolation: the definition of scikit-learn's `average_precision_score`.
    """
    scores, labels = _pair(scores, labels)
    positives = int(labels.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(scores[1:] != scores[:-1], True)
    hits = np.cumsum(labels)[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / positives)


def f1_at(scores, labels, threshold: float) -> float:
    """F1 of "score > threshold" for the positive class; 0.0 where no positive is found (0/0 included)."""
    scores, labels = _pair(scores, labels)
    predicted = scores > threshold
    true_positive = int((predicted & labels).sum())
    return 2 * true_positive / (int(predicted.sum()) + int(labels.sum())) if true_positive else 0.0


def brier(probabilities, labels) -> float:
    """Mean squared difference between probability and label (labels may be soft, in [0, 1]); nan for no step."""
    probabilities, labels = _probabilities(probabilities, labels)
    return float(np.mean((probabilities - labels) ** 2)) if len(labels) else float("nan")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A reliability diagram in numbers, one entry per bin; empty bins hold nan.

    Attributes:
      error: expected calibration error, ``sum_b count_b / N * |accuracy_b - confidence_b|``; nan for no step.
      edges: float[bins + 1], equal-width bin edges from 0 to 1.
      confidence: float[bins], mean probability in the bin.
      accuracy: float[bins], mean label in the bin.
      count: int[bins].
    """

    error: float
    edges: Float[np.ndarray, " E"]
    confidence: Float[np.ndarray, " C"]
    accuracy: Float[np.ndarray, " C"]
    count: Int[np.ndarray, " C"]


def expected_calibration_error(probabilities, labels, bins: int = 10) -> Calibration:
    """How far the probabilities of "right" are from the share of right steps, in equal-width bins.

    Bin b holds the probabilities in [b / bins, (b + 1) / bins); 1.0 belongs to the last one. Labels may be soft. This
    is the calibration of the probability of the positive class (Guo et al. 2017 bin the confidence of the predicted
    class instead).

    Raises:
      ValueError: a probability or label outside [0, 1], or no bin.
    """
    probabilities, labels = _probabilities(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    some = np.where(count > 0, count, np.nan)
    confidence = np.bincount(index, probabilities, minlength=bins) / some
    accuracy = np.bincount(index, labels, minlength=bins) / some
    error = np.nansum(count * np.abs(accuracy - confidence)) / len(labels) if len(labels) else float("nan")
    return Calibration(float(error), edges, confidence, accuracy, count)


def _pair(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be two equal lists")
    if np.isnan(scores).any():
        raise ValueError(f"score {int(np.flatnonzero(np.isnan(scores))[0])} is not a number")
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return scores, labels.astype(bool)


def _probabilities(probabilities, labels) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if probabilities.ndim != 1 or probabilities.shape != labels.shape:
        raise ValueError(f"probabilities {probabilities.shape} and labels {labels.shape} must be two equal lists")
    for name, values in (("probability", probabilities), ("label", labels)):
        bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(bad):
            raise ValueError(f"{name} {bad[0]} is {values[bad[0]]}, outside [0, 1]")
    return probabilities, labels
