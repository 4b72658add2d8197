"""From one score per step to one score per solution."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Aggregation = Literal["min", "prod", "mean", "last", "max", "geometric_mean", "soft_min", "logit_mean", "sum", "first_below"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)

_CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""


def aggregate(
    scores: Float[Array, "*B S"] | Float[np.ndarray, "*B S"],
    mask: Bool[Array, "*B S"] | Bool[np.ndarray, "*B S"],
    how: Aggregation,
    *,
    temperature: float = 0.1,
    threshold: float = 0.5,
) -> Float[Array, "*B"] | Float[np.ndarray, "*B"]:
    """The score of a solution from the scores of its steps.

      min             the weakest step (a chain of steps is as good as that)
      prod            probability that all steps are right if they were independent; shrinks with the number of steps
      mean, max       over the steps
      last            the last step of the mask, whatever comes before it
      geometric_mean  prod ** (1 / number of steps); 0 where a score is 0 or negative
      soft_min        -temperature * log(mean(exp(-score / temperature))): the minimum for a low temperature, the mean
                      for a high one. (Our definition. PURE, arXiv:2504.15275, weights the scores with
                      softmax(-score / temperature) instead; that falls when a good step gets better.)
      logit_mean      sigmoid(mean(logit(score))): a probability again, so that it can weigh a vote. DreamPRM
                      (arXiv:2505.20241) ranks by the mean itself, which is the same order. Scores are probabilities,
                      clipped to [1e-7, 1 - 1e-7]: one step of probability 0 is bad, not hopeless.
      sum             over the steps; prefers long solutions where scores are positive
      first_below     share of the steps that stand before the first one below `threshold`; 1 where there is none.
                      (Our definition.) Many solutions tie, and ties go to the candidate seen first.

    A row without a step scores 0, the lowest probability: a solution that shows nothing must not win (an empty product
    would be 1). Scores outside the mask are never read. A score that is not a number makes its row not a number, which
    the votes refuse ("last" reads the last step alone). The result is float32; NumPy in, NumPy out, JAX in, JAX out.

    Args:
      scores: score of each step, usually a probability.
      mask: which steps exist.
      how: one of `AGGREGATIONS`; static under `jit`.
      temperature: of "soft_min", in units of the score.
      threshold: of "first_below"; a step exactly there is not below it.

    Raises:
      ValueError: unknown `how`, a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    numpy = jnp if isinstance(scores, Array) else np
    mask = numpy.asarray(mask)
    scores = numpy.where(mask, numpy.asarray(scores, numpy.float32), numpy.float32(0))
    count = numpy.sum(mask, axis=-1)
    number = numpy.maximum(count, 1).astype(numpy.float32)
    match how:
        case "min":
            value = numpy.min(numpy.where(mask, scores, numpy.inf), axis=-1, initial=numpy.inf)
        case "max":
            value = numpy.max(numpy.where(mask, scores, -numpy.inf), axis=-1, initial=-numpy.inf)
        case "prod":
            value = numpy.prod(numpy.where(mask, scores, 1), axis=-1)
        case "mean":
            value = numpy.sum(scores, axis=-1) / number
        case "last":
            is_last = mask & (numpy.cumsum(mask, axis=-1) == count[..., None])
            value = numpy.sum(numpy.where(is_last, scores, 0), axis=-1)
        case "geometric_mean":
            positive = numpy.where(mask & (scores > 0), scores, 1)
            value = numpy.exp(numpy.sum(numpy.log(positive), axis=-1) / number)
            value = numpy.where(numpy.any(mask & (scores <= 0), axis=-1), 0, value)
            value = numpy.where(numpy.any(mask & numpy.isnan(scores), axis=-1), numpy.nan, value)
        case "soft_min":
            # Relative to the minimum, so that no exponential overflows and at least one of them is 1.
            low = numpy.min(numpy.where(mask, scores, numpy.inf), axis=-1, initial=numpy.inf)
            low = numpy.where(count > 0, low, 0)
            above = numpy.where(mask, numpy.exp(-(scores - low[..., None]) * mask / temperature), 0)
            value = low - temperature * numpy.log(numpy.where(count > 0, numpy.sum(above, axis=-1) / number, 1))
        case "logit_mean":
            inside = numpy.clip(scores, _CLIP, 1 - _CLIP)
            mean = numpy.sum(numpy.where(mask, numpy.log(inside) - numpy.log1p(-inside), 0), axis=-1) / number
            value = 1 / (1 + numpy.exp(-mean))
        case "sum":
            value = numpy.sum(scores, axis=-1)
        case "first_below":
            before = mask & (numpy.cumsum(mask & (scores < threshold), axis=-1) == 0)
            value = numpy.sum(before, axis=-1) / number
            value = numpy.where(numpy.any(mask & numpy.isnan(scores), axis=-1), numpy.nan, value)
        case _:
            raise ValueError(f"unknown aggregation {how!r}; use one of {', '.join(AGGREGATIONS)}")
    return numpy.where(count > 0, value, 0).astype(numpy.float32)
