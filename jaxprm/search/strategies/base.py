"""What a level strategy is: which candidates of a level go on, as a pure function of arrays.

One level of a search of B problems: each of C rows per problem continues its path by one step, the reward model reads it, and
the strategy says which candidate each row of the next level continues.

    candidates of a level   0  1  2  3        values .9 .2 .7 .4
    Selection.parents       0  0  2  2        rows 0 and 1 of the next level continue candidate 0
    Selection.alive         T  T  T  F        row 3 stays empty and costs nothing
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError

Ties = Literal["first", "random"]
STRATEGIES: dict[str, type[Strategy]] = {}
"""Name -> class of every strategy, filled as the classes are defined."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """C candidates of each of B problems after a level; a finished path of an earlier level is a candidate, too.

    Attributes:
      values: float32[B, C], value of the path; -inf = not usable (no path in this row, or a step that did not end).
      scores: float32[B, C, S], scores of the path's steps, 0 behind its last.
      steps: int32[B, C], steps of the path (an end token alone is none).
      finished: bool[B, C], the path has ended.
      first: int32[B, C], lowest candidate with the same text; equal for equal paths.
      entropy: float32[B, C], mean entropy (nats) of the policy at the tokens of the newest step; 0 unless the strategy sets
        ``entropies``.
      next_entropy: float32[B, C], entropy of the token that comes next, likewise.
      log_probs: float32[B, C], sum over the newest step's tokens under the sampling distribution, nats.
      level: int32[], 0 = first steps.
      state: what the strategy keeps of each problem from level to level (leading axis B).
    """

    values: Float[Array, "B C"]
    scores: Float[Array, "B C S"]
    steps: Int[Array, "B C"]
    finished: Bool[Array, "B C"]
    first: Int[Array, "B C"]
    entropy: Float[Array, "B C"]
    next_entropy: Float[Array, "B C"]
    log_probs: Float[Array, "B C"]
    level: Int[Array, ""]
    state: Any = None

    @property
    def usable(self) -> Bool[Array, "B C"]:
        return self.values > -jnp.inf

    @property
    def copies(self) -> Bool[Array, "B C"]:
        """Candidates that say the same as an earlier one."""
        return self.first < jnp.arange(self.first.shape[1])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Selection:
    """The rows of the next level.

    Attributes:
      parents: int32[B, C], the candidate that a row continues.
      alive: bool[B, C], the row has a path. A row with a finished path holds it and costs nothing.
      state: of the strategy, for the next level.
    """

    parents: Int[Array, "B C"]
    alive: Bool[Array, "B C"]
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Base of level strategies: frozen, so that a compiled program is made for each setting. Subclasses with a ``name`` enter
    `STRATEGIES`.

    The class attributes are what the engine does for a strategy beside calling `select`:
      entropies: compute the entropies of `Level`.
      reorders: False if every row continues itself, so that no cache is moved.
      population: the answer is chosen among what was kept at the last level; otherwise among all finished paths of the tree.
      lookahead: steps that are drawn behind each candidate before it is valued, and thrown away; ``greedy_lookahead``: they
        are the most likely tokens.
      partial_tokens: tokens after which `survivors` is asked which steps shall be completed; 0 = never.
    """

    name: ClassVar[str] = ""
    entropies: ClassVar[bool] = False
    reorders: ClassVar[bool] = True
    population: ClassVar[bool] = False
    lookahead: ClassVar[int] = 0
    greedy_lookahead: ClassVar[bool] = True
    partial_tokens: ClassVar[int] = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.name:
            STRATEGIES[cls.name] = cls

    @property
    def rows(self) -> int:
        """C, candidates per problem and level."""
        raise NotImplementedError

    @property
    def first_rows(self) -> int:
        """Rows that draw the first step; the others are empty on the first level."""
        return self.rows

    def init(self, problems: int) -> Any:
        """State before the first level, a pytree of arrays with leading axis B."""
        return None

    def value(self, level: Level) -> Float[Array, "B C"]:
        """What candidates are compared by; `Level.values` holds the aggregated step scores. Unusable stays -inf."""
        return level.values

    def survivors(self, level: Level, drawing: Bool[Array, "B C"]) -> Bool[Array, "B C"]:
        """Which of the candidates that are ``drawing`` go on after ``partial_tokens`` tokens; see `most_survivors`."""
        return drawing

    def most_survivors(self, rows: int) -> int:
        """Of this many rows, no more than that survive."""
        return rows

    def select(self, keys: jax.Array, level: Level) -> Selection:
        """Fills the next level. ``keys`` [B]: what a problem draws depends on nothing but its own."""
        raise NotImplementedError

    def rank(self, keys: jax.Array, values: Float[np.ndarray, "B N"]) -> Float[Array | np.ndarray, "B N"]:
        """What the answer is chosen by at the end, the largest first; -inf where there is no candidate."""
        return values


def check_positive(strategy: Strategy, *fields: str) -> None:
    """Raises InputError unless all these fields are at least 1."""
    for field in fields:
        if getattr(strategy, field) < 1:
            raise InputError("must be at least 1", field=field, value=getattr(strategy, field))


def check_choice(strategy: Strategy, field: str, choices: Any) -> None:
    """Raises InputError unless a field holds one of the values of a Literal."""
    if getattr(strategy, field) not in get_args(choices):
        raise InputError(f"must be one of {', '.join(get_args(choices))}", field=field, value=getattr(strategy, field))


def best_first(keys: jax.Array, values: Float[Array, "B C"], last: Bool[Array, "B C"] | None = None,
               ties: Ties = "first") -> Int[Array, "B C"]:
    """Candidates in descending order of value.

      In:   values [.2, .9, .9, .5], last [F, F, T, F]
      Out:  [1, 3, 0, 2]

    Args:
      keys: [B], read for random ties.
      last: candidates that come after all others; unusable ones (-inf) come after these.
      ties: equal values in the order of candidates, or in random order.
    """
    problems, wide = values.shape
    tie = jnp.broadcast_to(jnp.arange(wide), values.shape).astype(jnp.float32)
    if ties == "random":
        tie = jax.vmap(lambda key: jax.random.uniform(key, (wide,)))(keys)
    behind = jnp.where(values == -jnp.inf, 2, 0 if last is None else last.astype(jnp.int32))
    return jnp.lexsort((tie, -values, behind), axis=-1).astype(jnp.int32)


def pick(values: Array, index: Int[Array, "B W"]) -> Array:
    """values[b, index[b, w]] along the second axis, whatever axes follow."""
    return jnp.take_along_axis(values, index.reshape(*index.shape, *[1] * (values.ndim - 2)), axis=1)


def repeat(order: Int[Array, "B C"], counts: Int[Array, "B C"], rows: int) -> tuple[Int[Array, "B R"], Bool[Array, "B R"]]:
    """Parents of ``rows`` rows and which of them are alive: each candidate ``counts`` times, in this order.

      In:   order [1, 0, 2], counts [1, 2, 0] (of candidates 0, 1, 2), rows 4
      Out:  parents [1, 1, 0, 0], alive [T, T, T, F]

    Candidates that no longer fit get fewer rows or none.
    """
    ends = jnp.cumsum(pick(counts, order), axis=1)
    row = jnp.arange(rows)
    place = (ends[:, None] <= row[:, None]).sum(-1)
    return pick(order, jnp.minimum(place, order.shape[1] - 1)), row < ends[:, -1:]


def first_of(same: Bool[Array, "B C C"]) -> Int[Array, "B C"]:
    """The lowest candidate that is the same as each; a candidate is the same as itself."""
    return jnp.argmax(same, axis=2).astype(jnp.int32)
