"""From one score per step to one score per solution."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Aggregation = Literal["min", "prod", "mean", "last", "max", "geometric_mean"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def aggregate(
    scores: Float[Array, "*B S"] | Float[np.ndarray, "*B S"],
    mask: Bool[Array, "*B S"] | Bool[np.ndarray, "*B S"],
    how: Aggregation,
) -> Float[Array, "*B"] | Float[np.ndarray, "*B"]:
    """The score of a solution from the scores of its steps.

      min             the weakest step (a chain of steps is as good as that)
      prod            probability that all steps are right if they were independent; shrinks with the number of steps
      mean, max       over the steps
      last            the last step of the mask, whatever comes before it
      geometric_mean  prod ** (1 / number of steps); 0 where a score is 0 or negative

    A row without a step scores 0, the lowest probability: a solution that shows nothing must not win (an empty product
    would be 1). Scores outside the mask are never read. The result is float32; NumPy in, NumPy out, JAX in, JAX out.

    Args:
      scores: score of each step, usually a probability.
      mask: which steps exist.
      how: one of `AGGREGATIONS`; static under `jit`.

    Raises:
      ValueError: unknown `how`.
    """
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
        case _:
            raise ValueError(f"unknown aggregation {how!r}; use one of {', '.join(AGGREGATIONS)}")
    return numpy.where(count > 0, value, 0).astype(numpy.float32)
