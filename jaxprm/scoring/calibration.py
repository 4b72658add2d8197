"""From scores to probabilities: maps fitted on labelled scores of other problems, each a small frozen object.

  Temperature  sigmoid(logit(score) / T): keeps the order, moves confidence (Guo et al. 2017, arXiv:1706.04599)
  Platt        sigmoid(a z + b): for raw values as well (Platt 1999)
  Isotonic     any non-decreasing function (Zadrozny and Elkan 2002)
  QuantileBins share of right ones in bins of equal size (histogram binning, Zadrozny and Elkan 2001)

Fit on problems that are not reported on: steps and solutions of one problem are not independent. None of the maps
changes what `best` chooses, as long as it is strictly increasing (Temperature; Platt with a > 0); Isotonic and
QuantileBins make ties. Weighted votes change, since their weights do.

`fit_quantile_shift` does the same job for predicted quantiles: it makes a lower bound hold as often as it says.
All of it is NumPy float64 on the host; a calibrator is stored as the dict of `as_dict`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy import optimize

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""


@dataclasses.dataclass(frozen=True)
class Temperature:
    """sigmoid(logit(score) / temperature) of probabilities; above 1 makes them less certain."""

    temperature: float

    def __call__(self, scores) -> Float[np.ndarray, "*N"]:
        return _sigmoid(logit(scores) / self.temperature)


@dataclasses.dataclass(frozen=True)
class Platt:
    """sigmoid(slope * z + offset), z = the score, or its logit where `of_logit`. A negative slope says that high scores
    mean wrong: the model, or its labels, are read the wrong way round."""

    slope: float
    offset: float
    of_logit: bool = False

    def __call__(self, scores) -> Float[np.ndarray, "*N"]:
        values = logit(scores) if self.of_logit else np.asarray(scores, np.float64)
        return _sigmoid(self.slope * values + self.offset)


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """Straight lines between the knots, constant outside of them.

    Attributes:
      scores: strictly increasing.
      probabilities: non-decreasing, in [0, 1].
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores) -> Float[np.ndarray, "*N"]:
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities))


@dataclasses.dataclass(frozen=True)
class QuantileBins:
    """A constant per bin.

    Attributes:
      edges: the inner edges, increasing; a score on an edge belongs to the bin above it.
      probabilities: one more than edges.
    """

    edges: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores) -> Float[np.ndarray, "*N"]:
        scores = np.asarray(scores, np.float64)
        values = np.asarray(self.probabilities)[np.searchsorted(self.edges, scores, side="right")]
        return np.where(np.isnan(scores), np.nan, values)


Calibrator = Temperature | Platt | Isotonic | QuantileBins
"""All of them are called with scores of any shape; a score that is not a number stays one."""

CALIBRATORS = {kind.__name__: kind for kind in (Temperature, Platt, Isotonic, QuantileBins)}


def fit_temperature(probabilities, labels, weights=None) -> Temperature:
    """The temperature of least cross-entropy, between 0.01 and 100 (which are returned where the data know no end: all
    decided rightly, or no better than chance).

    Args:
      probabilities: `[N]` in [0, 1].
      labels: `[N]` in [0, 1], soft ones allowed.
      weights: `[N]`, not negative; e.g. one over the number of steps of the problem.

    Raises:
      ValueError: no value at all, lengths that differ, a value outside its range.
    """
    probabilities, labels, weights = _data(probabilities, labels, weights, probability=True)
    logits = logit(probabilities)

    def loss(log_temperature: float) -> float:
        return _cross_entropy(logits / math.exp(log_temperature), labels, weights)

    ends = math.log(0.01), math.log(100.0)
    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-8}).x
    return Temperature(math.exp(min((*ends, float(found)), key=loss)))


def fit_platt(scores, labels, weights=None, *, of_logit: bool = False) -> Platt:
    """Slope and offset of least cross-entropy against Platt's targets (N1 + 1) / (N1 + 2) and 1 / (N0 + 2), which keep
    both finite where the scores separate the classes. Arguments as `fit_temperature`; scores may be any finite numbers
    unless `of_logit`."""
    scores, labels, weights = _data(scores, labels, weights, probability=of_logit)
    values = logit(scores) if of_logit else scores
    positive, negative = weights @ labels, weights @ (1 - labels)
    targets = labels * (positive + 1) / (positive + 2) + (1 - labels) / (negative + 2)
    center, scale = float(values.mean()), float(values.std()) or 1.0
    standard = (values - center) / scale

    def loss(x):
        error = weights * (_sigmoid(x[0] * standard + x[1]) - targets)
        return _cross_entropy(x[0] * standard + x[1], targets, weights), np.array([error @ standard, error.sum()])

    slope, offset = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return Platt(float(slope / scale), float(offset - slope * center / scale), of_logit)


def fit_isotonic(scores, labels, weights=None) -> Isotonic:
    """The non-decreasing function of least squared error; equal scores count as one point."""
    scores, labels, weights = _data(scores, labels, weights)
    knots, index = np.unique(scores, return_inverse=True)
    weight = np.bincount(index, weights)
    mean = np.bincount(index, weights * labels) / np.where(weight > 0, weight, 1)
    knots, mean, weight = knots[weight > 0], mean[weight > 0], weight[weight > 0]
    fitted = np.clip(optimize.isotonic_regression(mean, weights=weight).x, 0, 1)
    # Inside a flat stretch only its two ends matter.
    inner = np.append(False, (np.diff(fitted) == 0)[:-1] & (np.diff(fitted) == 0)[1:]) if len(fitted) > 2 else []
    kept = np.append(~np.asarray(inner, bool), True) if len(fitted) > 2 else np.ones(len(fitted), bool)
    return Isotonic(tuple(knots[kept].tolist()), tuple(fitted[kept].tolist()))


def fit_quantile_bins(scores, labels, bins: int = 10) -> QuantileBins:
    """The share of right ones in bins that hold equally many scores (fewer bins where scores tie)."""
    scores, labels, _ = _data(scores, labels, None)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges = np.unique(np.quantile(scores, np.arange(1, bins) / bins, method="higher"))
    edges = edges[edges > scores.min()]
    index = np.searchsorted(edges, scores, side="right")
    share = np.bincount(index, labels, minlength=len(edges) + 1) / np.bincount(index, minlength=len(edges) + 1)
    return QuantileBins(tuple(edges.tolist()), tuple(share.tolist()))


def fit_quantile_shift(predicted, values, level: float) -> float:
    """What to add to predicted `level`-quantiles so that at least a share 1 - level of new values lies above them.

    Split-conformal (Romano et al. 2019, arXiv:1905.03222, one-sided): valid for any model as long as the new problems
    are drawn like these. With too few values for the level the shift is -inf, the only honest one.

    Args:
      predicted: `[N]` predicted quantiles, of success probabilities for example.
      values: `[N]` what happened, e.g. Monte-Carlo success rates.
      level: in (0, 1), e.g. 0.1 for a lower bound that 90 % of the values reach.
    """
    predicted, values = np.asarray(predicted, np.float64), np.asarray(values, np.float64)
    if predicted.ndim != 1 or predicted.shape != values.shape or not len(values):
        raise ValueError(f"predicted {predicted.shape} and values {values.shape} must be two equal lists, not empty")
    if not (np.isfinite(predicted) & np.isfinite(values)).all() or not 0 < level < 1:
        raise ValueError(f"predictions and values must be finite and level in (0, 1), not {level}")
    rank = math.floor(level * (len(values) + 1) + 1e-9)
    return float(np.sort(values - predicted)[rank - 1]) if rank else -math.inf


def logit(probabilities) -> Float[np.ndarray, "*N"]:
    """log(p / (1 - p)) with p clipped to [1e-7, 1 - 1e-7]."""
    inside = np.clip(np.asarray(probabilities, np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def odds_weights(probabilities) -> Float[np.ndarray, "*N"]:
    """p / (1 - p) normalised to sum 1 over the last axis: the softmax of the logits (particle weights of its_hub).

      In:   [.9, .5, .1]
      Out:  [.890, .0989, .0110]
    """
    logits = logit(probabilities)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def as_dict(calibrator: Calibrator) -> dict:
    """A calibrator as plain numbers, for a JSON file beside the model."""
    return {"kind": type(calibrator).__name__, **dataclasses.asdict(calibrator)}


def from_dict(stored: dict) -> Calibrator:
    """The calibrator of `as_dict`.

    Raises:
      ValueError: unknown kind, a field that is missing or unknown.
    """
    fields = dict(stored)
    kind = CALIBRATORS.get(fields.pop("kind", None))
    if kind is None:
        raise ValueError(f"unknown calibrator {stored.get('kind')!r}; use one of {', '.join(CALIBRATORS)}")
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    except TypeError:
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        raise ValueError(f"{kind.__name__} has the fields {names}, not {', '.join(fields)}") from None


def _data(scores, labels, weights, probability: bool = False):
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    weights = np.ones(scores.shape) if weights is None else np.asarray(weights, np.float64)
    if scores.ndim != 1 or scores.shape != labels.shape or scores.shape != weights.shape or not len(scores):
        raise ValueError(f"scores {scores.shape}, labels {labels.shape} and weights {weights.shape} must be equal lists, "
                         "not empty")
    if not np.isfinite(scores).all() or (probability and ((scores < 0) | (scores > 1)).any()):
        raise ValueError("a score is not finite" + (" or no probability" if probability else ""))
    if not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError("a label lies outside [0, 1]")
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.sum() > 0:
        raise ValueError("weights must be finite, not negative, and not all zero")
    return scores, labels, weights


def _cross_entropy(logits, targets, weights) -> float:
    return float(weights @ (np.logaddexp(0, logits) - targets * logits))


def _sigmoid(values):
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(values, np.float64))))
