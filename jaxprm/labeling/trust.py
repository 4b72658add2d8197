"""Which solutions an ensemble can label by itself, and which need the expensive judge (ActPRM, Duan et al. 2025,
arXiv:2504.10559)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jaxprm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Trust:
    """What an ensemble says of B solutions with up to S steps.

    Attributes:
      trusted: bool[B], no step up to the first predicted error is in doubt: the predictions may serve as labels.
      labels: float32[B, S], 1.0 where the mean probability is at least 0.5, read only where ``mask``.
      mask: bool[B, S], the given steps up to and with the first predicted error.
      mean, deviation: float64[B, S], of the members' probabilities.
    """

    trusted: Bool[np.ndarray, " B"]
    labels: Float[np.ndarray, "B S"]
    mask: Bool[np.ndarray, "B S"]
    mean: Float[np.ndarray, "B S"]
    deviation: Float[np.ndarray, "B S"]


def trust(outputs: Float[np.ndarray, "B S E"], mask: Bool[np.ndarray, "B S"], *, max_deviation: float = 0.005,
          confidence: float = 0.95) -> Trust:
    """Splits solutions into those the ensemble is sure about and those it is not.

    A step is sure where its members agree (standard deviation at most ``max_deviation``, n - 1 in the denominator; 0 for a
    single member) and their mean is far from one half (at least ``confidence``, or at most one minus it). A solution is trusted
    when all its steps up to the first predicted error are sure; steps after that error are not judged.

    Args:
      outputs: logit of each member for each step, one solution per row.
      mask: which places hold a step.
      max_deviation: the paper's delta_std (its code's default is 0.01).
      confidence: the paper's delta_p (its code's default is 0.9), in [0.5, 1].

    Raises:
      InputError: a threshold out of range.
    """
    if not 0 <= max_deviation:
        raise InputError("must not be negative", field="max_deviation", value=max_deviation)
    if not 0.5 <= confidence <= 1:
        raise InputError("must be in [0.5, 1]", field="confidence", value=confidence)
    logits = np.where(mask[..., None], outputs.astype(np.float64), 0)
    probabilities = np.exp(-np.logaddexp(0, -logits))
    mean = probabilities.mean(-1)
    deviation = probabilities.std(-1, ddof=1) if outputs.shape[-1] > 1 else np.zeros_like(mean)
    right = mean >= 0.5
    errors_before = np.cumsum(mask & ~right, axis=1) - (mask & ~right)
    judged = mask & (errors_before == 0)
    sure = (deviation <= max_deviation) & ((mean >= confidence) | (mean <= 1 - confidence))
    return Trust((sure | ~judged).all(1), right.astype(np.float32), judged, mean, deviation)
