"""What can be put around any strategy: values of another kind, lookahead, early rejection, distinct candidates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxprm.errors import InputError
from jaxprm.search.strategies.base import Level, Selection, Strategy, check_positive
from jaxprm.search.strategies.beam import Beam


@dataclasses.dataclass(frozen=True)
class Wrapper(Strategy):
    """Does what its ``strategy`` does; subclasses change one thing."""

    strategy: Strategy = Beam()

    rows = property(lambda self: self.strategy.rows)
    first_rows = property(lambda self: self.strategy.first_rows)
    entropies = property(lambda self: self.strategy.entropies)
    reorders = property(lambda self: self.strategy.reorders)
    population = property(lambda self: self.strategy.population)
    lookahead = property(lambda self: self.strategy.lookahead)
    greedy_lookahead = property(lambda self: self.strategy.greedy_lookahead)
    partial_tokens = property(lambda self: self.strategy.partial_tokens)

    def init(self, problems: int) -> Any:
        return self.strategy.init(problems)

    def value(self, level: Level) -> Float[Array, "B C"]:
        return self.strategy.value(level)

    def survivors(self, level: Level, drawing: Bool[Array, "B C"]) -> Bool[Array, "B C"]:
        return self.strategy.survivors(level, drawing)

    def most_survivors(self, rows: int) -> int:
        return self.strategy.most_survivors(rows)

    def select(self, keys: jax.Array, level: Level) -> Selection:
        return self.strategy.select(keys, level)

    def rank(self, keys: jax.Array, values: Float[np.ndarray, "B N"]) -> Float[Array | np.ndarray, "B N"]:
        return self.strategy.rank(keys, values)


@dataclasses.dataclass(frozen=True)
class Lookahead(Wrapper):
    """Candidates are valued by where they lead: ``steps`` more steps are drawn behind each, read by the reward model, and
    thrown away. The path's value is then that of the longer path. Their tokens are counted like all others.

    search-and-learn draws them greedily; its lookahead has an effect in DVTS only.

    Attributes:
      steps: drawn behind each candidate that has not ended; fewer where the path ends or the context is full.
      greedy: the most likely tokens; otherwise drawn like any others.
    """

    steps: int = 1
    greedy: bool = True
    name: ClassVar[str] = "lookahead"
    lookahead = property(lambda self: self.steps)
    greedy_lookahead = property(lambda self: self.greedy)

    def __post_init__(self):
        check_positive(self, "steps")
        if self.strategy.lookahead:
            raise InputError("looks ahead already", field="strategy", value=type(self.strategy).__name__)


@dataclasses.dataclass(frozen=True)
class ValueGuided(Wrapper):
    """Paths are compared by a mixture of what the scores s_1 .. s_t of their steps say, instead of the aggregated scores:

        value = mean * (s_1 + .. + s_t) / t  +  last * s_t  +  progress * (s_t - s_(t-1))

      OVM (Yu et al. 2023)         last = 1: the score is the chance that a path like this ends well
      AlphaMath's step beam        last = 1, with the score of a value head
      BiRM (2025), r + v           last = 1 with a head of kind ``two_head``, which weighs r and v itself; where the scores are
                                   values only, mean = beta adds what the path has earned so far
      PAV (Setlur et al. 2024)     last = 1, progress = alpha: Q + alpha A with A = Q_t - Q_(t-1), one model for both

    Attributes:
      mean, last, progress: the weights.
      start: s_0, the chance of success before the first step.
    """

    mean: float = 0.0
    last: float = 1.0
    progress: float = 0.0
    start: float = 0.5
    name: ClassVar[str] = "value_guided"

    def __post_init__(self):
        for field in ("mean", "last", "progress", "start"):
            if not math.isfinite(getattr(self, field)):
                raise InputError("must be finite", field=field, value=getattr(self, field))
        if not (self.mean or self.last or self.progress):
            raise InputError("must not be 0 together with last and progress", field="mean", value=self.mean)

    def value(self, level: Level) -> Float[Array, "B C"]:
        steps = level.steps[..., None]
        before = jnp.concatenate([jnp.full_like(level.scores[..., :1], self.start), level.scores], axis=-1)
        at = lambda place: jnp.take_along_axis(before, place, axis=-1)[..., 0]  # noqa: E731
        last = at(steps)
        mean = level.scores.sum(-1) / jnp.maximum(level.steps, 1)
        value = self.mean * mean + self.last * last + self.progress * (last - at(jnp.maximum(steps - 1, 0)))
        return jnp.where(level.steps > 0, value, level.values)  # a path without a step shows nothing


@dataclasses.dataclass(frozen=True)
class EarlyRejection(Wrapper):
    """Steps are judged by their beginnings (Partial reward models, 2025): after ``tokens`` tokens of every step the reward
    model reads it so far, and only the best share is completed. It reads every token once all the same.

    The score of a beginning is read at its last token, so the reward model should have learnt from every token
    (``label_tokens``); a published family reads it as a step, with what it puts behind one. Rejected beginnings stay in the
    tree, unusable.

    Attributes:
      tokens: of a step, before it is judged; steps that have ended by then compete as they are.
      keep: share of a problem's steps that are completed, rounded up.
    """

    tokens: int = 32
    keep: float = 0.25
    name: ClassVar[str] = "early_rejection"
    partial_tokens = property(lambda self: self.tokens)

    def __post_init__(self):
        check_positive(self, "tokens")
        if not 0 < self.keep <= 1:
            raise InputError("must be in (0, 1]", field="keep", value=self.keep)
        if self.strategy.partial_tokens:
            raise InputError("rejects early already", field="strategy", value=type(self.strategy).__name__)

    def survivors(self, level: Level, drawing: Bool[Array, "B C"]) -> Bool[Array, "B C"]:
        values = jnp.where(drawing, level.values, -jnp.inf)
        above = (values[:, :, None] < values[:, None]).sum(-1)
        wide = jnp.arange(values.shape[1])
        above += ((values[:, :, None] == values[:, None]) & (wide[:, None] > wide)).sum(-1)  # ties: the lower index first
        count = jnp.ceil(drawing.sum(1) * self.keep - 1e-5)  # a share computed in binary must not become one more
        return drawing & (above < count[:, None])

    def most_survivors(self, rows: int) -> int:
        return math.ceil(rows * self.keep - 1e-5)


@dataclasses.dataclass(frozen=True)
class Distinct(Wrapper):
    """Of candidates that say the same only the first is considered: what `Beam` calls ``merge``, for any strategy."""

    name: ClassVar[str] = "distinct"

    def select(self, keys: jax.Array, level: Level) -> Selection:
        return self.strategy.select(keys, dataclasses.replace(level, values=jnp.where(level.copies, -jnp.inf, level.values)))
