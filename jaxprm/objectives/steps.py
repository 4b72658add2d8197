"""Labelled steps as every objective reads them, and the sets of steps (solutions, groups) that it compares."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxprm.models.sharding import constrain
from jaxprm.objectives.loss import Loss


@dataclasses.dataclass(frozen=True)
class LabeledSteps:
    """Outputs, labels and weights in float32, exactly 0 where a step takes no part.

    Whatever stands in places that take no part (not-a-number included) is thrown away here, before anything is computed
    from it, so that it can reach neither a sum nor a gradient.

    Attributes:
      outputs: float32[B, S, K].
      labels: float32[B, S].
      weights: float32[B, S].
      mask: bool[B, S], which steps are labelled and have a positive weight.
    """

    outputs: Float[Array, "B S K"]
    labels: Float[Array, "B S"]
    weights: Float[Array, "B S"]
    mask: Bool[Array, "B S"]

    @classmethod
    def read(cls, outputs, labels, mask, weights=None) -> LabeledSteps:
        if weights is None:
            weights = mask.astype(jnp.float32)
        mask = mask & (weights > 0)
        return cls(jnp.where(mask[..., None], outputs.astype(jnp.float32), 0), jnp.where(mask, labels.astype(jnp.float32), 0),
                   jnp.where(mask, weights.astype(jnp.float32), 0), mask)

    @property
    def right(self) -> Bool[Array, "B S"]:
        return self.mask & (self.labels >= 0.5)

    @property
    def wrong(self) -> Bool[Array, "B S"]:
        return self.mask & (self.labels < 0.5)


def loss_of(terms: Float[Array, "..."], weights: Float[Array, "..."], **metrics: Array) -> Loss:
    """The weighted sum of the terms over the sum of the weights; metrics as in `means`."""
    return Loss(total=jnp.sum(weights * terms), weight=jnp.sum(weights), metrics=means(weights, **metrics))


def means(weights: Float[Array, "..."], **values: Array) -> dict[str, tuple[Array, Array]]:
    """Metrics of a `Loss`: the mean of each array with these weights, not differentiated."""
    weight = jnp.sum(weights)
    return jax.lax.stop_gradient({name: (jnp.sum(weights * value), weight) for name, value in values.items()})


class Sets:
    """Which places of a row belong together. Every sum over a set is found at each of its places.

    All pairs of places are compared, so that a set may lie anywhere in the row: N places cost N x N comparisons, in one
    fused reduction that XLA need not keep in memory.

      numbers [5 5 7 5]     total([1 2 3 4]) = [7 7 3 7]     first(all) = [1 0 1 0]     last(all) = [0 0 1 1]

    Args:
      numbers: int[G, N]; places of a row with equal numbers form a set.
    """

    def __init__(self, numbers: Int[Array, "G N"]):
        self.together = numbers[:, :, None] == numbers[:, None, :]
        before = jnp.arange(numbers.shape[1])
        self.earlier = before[:, None] > before[None, :]  # earlier[t, i]: place i comes before place t

    def total(self, x: Shaped[Array, "G N"]) -> Float[Array, "G N"]:
        """Sum over the set of each place."""
        return jnp.sum(jnp.where(self.together, x[:, None, :].astype(jnp.float32), 0), axis=-1)

    def mean(self, x: Float[Array, "G N"], among: Bool[Array, "G N"]) -> Float[Array, "G N"]:
        """Mean of `x` over the places of the set that are `among`; 0 where there is none."""
        return self.total(jnp.where(among, x, 0)) / jnp.maximum(self.total(among), 1)

    def so_far(self, x: Float[Array, "G N"]) -> Float[Array, "G N"]:
        """Sum over the places of the set up to and with each place."""
        return jnp.sum(jnp.where(self.together & ~self.earlier.T, x[:, None, :], 0), axis=-1)

    def first(self, x: Bool[Array, "G N"]) -> Bool[Array, "G N"]:
        """The first place of each set that is in `x`: one place to count a set at."""
        return x & ~jnp.any(self.together & self.earlier & x[:, None, :], axis=-1)

    def last(self, x: Bool[Array, "G N"]) -> Bool[Array, "G N"]:
        """The last place of each set that is in `x`."""
        return x & ~jnp.any(self.together & self.earlier.T & x[:, None, :], axis=-1)


def solution_sets(mask: Bool[Array, "B S"], segments: Int[Array, "B S"] | None) -> Sets:
    """The solutions of each row: its segments, or the whole row."""
    return Sets(jnp.zeros(mask.shape, jnp.int32) if segments is None else segments)


def across_rows(groups: Int[Array, "B S"] | None, default: Int[Array, "B S"] | None, *arrays: Array) -> tuple:
    """(sets, *arrays) in which groups are compared: over the whole batch, or row by row without `groups`.

    With group numbers the batch becomes one row [1, B * S], whole on every device of a mesh: the places of a group may lie
    in any row. Without them, sets are formed inside each row by the numbers in `default` (``None``: a row is one set).
    """
    if groups is None:
        return Sets(jnp.zeros(arrays[0].shape[:2], jnp.int32) if default is None else default), *arrays
    flat = [constrain(x, None, None).reshape(1, -1) for x in (groups, *arrays)]
    return Sets(flat[0]), *flat[1:]


@dataclasses.dataclass(frozen=True)
class Solutions:
    """One value, label and weight per solution, found at its last labelled step.

    Attributes:
      values: float32[B, S], sum of the first output over the labelled steps of the solution, at each of its steps.
      labels: float32[B, S], label of its last labelled step: its outcome.
      weights: float32[B, S], mean weight of its labelled steps; 0 at every step but the last labelled one.
      mask: bool[B, S], the last labelled step of each solution.
    """

    values: Float[Array, "B S"]
    labels: Float[Array, "B S"]
    weights: Float[Array, "B S"]
    mask: Bool[Array, "B S"]

    @classmethod
    def read(cls, outputs, labels, mask, weights, segments) -> Solutions:
        steps = LabeledSteps.read(outputs, labels, mask, weights)
        sets = solution_sets(mask, segments)
        last = sets.last(steps.mask)
        return cls(sets.total(steps.outputs[..., 0]), jnp.where(last, steps.labels, 0),
                   jnp.where(last, sets.mean(steps.weights, steps.mask), 0), last)
