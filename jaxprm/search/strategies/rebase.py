"""REBASE (Wu et al. 2024, arXiv:2408.00724): a budget of rows, shared among the open paths by the softmax of their values."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError
from jaxprm.search.strategies.base import (Level, Selection, Strategy, Ties, best_first, check_choice, check_positive, pick,
                                           repeat)

_ROUNDING = 1e-5
"""A share computed in float32 may exceed a whole number by this much of itself; it must not be rounded up to the next one."""


@dataclasses.dataclass(frozen=True)
class Rebase(Strategy):
    """Each path that has ended takes one row along; the rest are shared among the open paths, best first:

        n_j = ceil(left * w_j / sum of the w not served yet),    w = exp(value / temperature)

    so that every row is used, always (the published code subtracts in float32 and overspends in some percent of the cases).
    REBASE's value is the newest score: use it with aggregation "last".

    Attributes:
      width: C, rows of the first level; the search ends when as many paths have ended.
      temperature: of the softmax; towards infinity the shares are equal.
      ties: equal values are served in the order of candidates, or in random order.
    """

    width: int = 16
    temperature: float = 0.2
    ties: Ties = "first"
    name: ClassVar[str] = "rebase"

    def __post_init__(self):
        check_positive(self, "width")
        if not self.temperature > 0:
            raise InputError("must be positive", field="temperature", value=self.temperature)
        check_choice(self, "ties", Ties)

    @property
    def rows(self) -> int:
        return self.width

    def init(self, problems: int) -> Any:
        """Rows that no finished path has taken."""
        return jnp.full((problems,), self.width, jnp.int32)

    def select(self, keys: jax.Array, level: Level) -> Selection:
        left = level.state - (level.finished & level.usable).sum(1, dtype=jnp.int32)
        values = jnp.where(level.finished, -jnp.inf, level.values)
        order = best_first(keys, values, ties=self.ties)
        return Selection(*repeat(order, apportion(values, order, left, self.temperature), self.width), left)


def apportion(values: Float[Array, "B C"], order: Int[Array, "B C"], budget: Int[Array, " B"],
              temperature: float | Float[Array, ""]) -> Int[Array, "B C"]:
    """Rows of each candidate; they sum to the budget exactly, or are all 0 where no candidate is usable.

      In:   values [.9, .7, .5, .1], order [0, 1, 2, 3], budget 16, temperature .2
      Out:  [11, 4, 1, 0]

    Args:
      values: -inf = not usable.
      order: candidates by descending value, as they are served.
      budget: rows.
      temperature: of the softmax, positive; may be infinite.
    """
    ordered = pick(values, order)
    usable = ordered > -jnp.inf
    weights = jnp.where(usable, jnp.exp((jnp.where(usable, ordered, 0.0) - jnp.where(usable, ordered[:, :1], 0.0))
                                        / temperature), 0.0)
    # Each share is relative to what is not served yet, its own weight included: it cannot exceed 1, and the last one's is 1.
    waiting = jax.lax.cumsum(weights, axis=1, reverse=True)
    last = usable & ~jnp.concatenate([usable[:, 1:], jnp.zeros_like(usable[:, :1])], axis=1)
    share = jnp.where(last, 1.0, jnp.minimum(weights / jnp.where(waiting > 0, waiting, 1.0), 1.0))

    def serve(left, at):
        share, usable = at
        rows = jnp.ceil(left * share * (1 - _ROUNDING)).astype(jnp.int32)
        rows = jnp.where(usable, jnp.minimum(rows, left), 0)
        return left - rows, rows

    _, rows = jax.lax.scan(serve, jnp.maximum(budget, 0), (share.T, usable.T))
    places = jnp.argsort(order, axis=1)
    return pick(rows.T, places)
