"""How many samples a problem needs: instance-adaptive budgets."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def samples_needed(success, confidence: float, limit: int) -> Int[np.ndarray, "*N"]:
    """The number of independent samples after which one is right with this confidence, N = ceil(log(1-C) / log(1-p)).

      In:   success [.5, .1, 0, 1], confidence .99, limit 32
      Out:  [7, 32, 32, 1]                             (.1 alone would need 44)

    "Know What You Don't Know" (PRM calibration and instance-adaptive scaling) puts a *lower* quantile of the predicted
    success probability here: an overestimate saves samples that were needed. The result is between 1 and `limit`, which
    is also the answer for a success probability of 0, where no number is enough. Confidence 0 needs one sample.

    Args:
      success: probability that one sample is right, in [0, 1].
      confidence: in [0, 1).
      limit: the most samples to spend on a problem.

    Raises:
      ValueError: a value outside its range or not a number.
    """
    success = np.asarray(success, np.float64)
    if not ((success >= 0) & (success <= 1)).all():
        raise ValueError("a success probability lies outside [0, 1]")
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence must be at least 0 and below 1, not {confidence}; no number of samples gives certainty")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    some = (success > 0) & (success < 1)
    needed = np.log1p(-confidence) / np.log1p(-np.where(some, success, 0.5))
    needed = np.ceil(needed * (1 - 1e-12))  # 1 - C = (1 - p)^N exactly is N, not N + 1
    needed = np.where(success >= 1, 1, np.where(success <= 0, limit, needed))
    return np.asarray(np.clip(needed, 1, limit), np.int64)


def chance_of_success(success, samples) -> np.ndarray:
    """1 - (1 - p)^N: the probability that one of N independent samples is right."""
    success, samples = np.asarray(success, np.float64), np.asarray(samples, np.float64)
    with np.errstate(divide="ignore"):  # log(0) at p = 1 gives exactly 1
        return np.where(samples > 0, -np.expm1(np.maximum(samples, 1) * np.log1p(-success)), 0.0)
