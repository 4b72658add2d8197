"""The result of every objective: a sum and its denominator, so that a mean is taken only once, at the very end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss as numerator and denominator.

    Means of micro-batches or shards cannot be averaged when they hold different numbers of labelled steps; sums can be
    added. Accumulate `Loss` objects with ``+`` and call `mean` on the last one: the result does not depend on how the
    rows were cut into micro-batches, packed or sharded. For gradients, differentiate `total` and divide by the
    accumulated `weight`.

      In:   Loss(total=6., weight=3.) + Loss(total=2., weight=1.)
      Out:  Loss(total=8., weight=4.), whose mean is 2.

    Attributes:
      total: sum of the weighted terms, in nats unless the objective says otherwise.
      weight: sum of their weights (the number of terms where all weights are 1).
      metrics: name -> (sum, weight), accumulated in the same way; not differentiated.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: dict[str, tuple[Float[Array, ""], Float[Array, ""]]] = dataclasses.field(default_factory=dict)

    @classmethod
    def zero(cls, metrics: Iterable[str] = ()) -> Loss:
        """The neutral element of ``+``. Name the `metrics` where the tree structure is fixed (a `lax.scan` carry)."""
        nil = jnp.zeros((), jnp.float32)
        return cls(total=nil, weight=nil, metrics={name: (nil, nil) for name in metrics})

    def __add__(self, other: Loss) -> Loss:
        metrics = dict(self.metrics)
        for name, pair in other.metrics.items():
            metrics[name] = jax.tree.map(jnp.add, metrics[name], pair) if name in metrics else pair
        return Loss(self.total + other.total, self.weight + other.weight, metrics)

    def mean(self) -> Float[Array, ""]:
        """``total / weight``; exactly 0, with zero gradient, where nothing was labelled (weight 0)."""
        return ratio(self.total, self.weight)

    def metric_means(self) -> dict[str, Float[Array, ""]]:
        """The mean of every metric; 0 where its weight is 0."""
        return {name: ratio(total, weight) for name, (total, weight) in self.metrics.items()}


def ratio(total: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, "..."]:
    """``total / weight`` where weight > 0 and 0 elsewhere; the gradient is finite in both cases."""
    # The inner `where` keeps a division by zero out of the backward pass, in which 0 * inf would be NaN.
    positive = weight > 0
    return jnp.where(positive, total / jnp.where(positive, weight, 1), 0)
