"""Beam search over steps: the best paths go on, each in several rows."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxprm.search.strategies.base import Level, Selection, Strategy, Ties, best_first, check_choice, check_positive, pick

Finished = Literal["compete", "leave", "shrink"]
Duplicates = Literal["last", "allow", "merge"]


@dataclasses.dataclass(frozen=True)
class Beam(Strategy):
    """Keeps the ``beam_width`` best paths; each is continued by ``expansions`` rows.

    Peers mean two things by "beam width": here it is the number of paths kept (its_hub, OpenR), and search-and-learn's
    ``beam_width`` is our ``expansions``. They also differ silently in what the options say.

    Attributes:
      beam_width: paths kept per problem after each level, W.
      expansions: steps sampled per kept path, M; C = W * M candidates per level (at level 0 all of them continue the prompt).
      finished: what happens to a path that has ended.
        ``compete``  it keeps its place as long as its value does, and is not expanded (its_hub).
        ``leave``    it leaves; all W places belong to paths that go on (search-and-learn).
        ``shrink``   if it is among the best it leaves and takes its place along: the beam is narrower from then on, and the
                     search ends when no place is left (OpenR).
      duplicates: what happens to candidates that say the same as an earlier one.
        ``last``     they come after all others, so that copies of one path cannot fill the beam.
        ``allow``    they compete like any other (most peers).
        ``merge``    they are never kept: a place without a path of its own stays empty and costs nothing.
      ties: equal values in the order of candidates, or in random order.
    """

    beam_width: int = 2
    expansions: int = 4
    finished: Finished = "compete"
    duplicates: Duplicates = "last"
    ties: Ties = "first"
    name: ClassVar[str] = "beam"

    def __post_init__(self):
        check_positive(self, "beam_width", "expansions")
        check_choice(self, "finished", Finished)
        check_choice(self, "duplicates", Duplicates)
        check_choice(self, "ties", Ties)

    @property
    def rows(self) -> int:
        return self.beam_width * self.expansions

    def init(self, problems: int) -> Any:
        """Places that finished paths have taken along."""
        return jnp.zeros((problems,), jnp.int32)

    def select(self, keys: jax.Array, level: Level) -> Selection:
        values, state = level.values, level.state
        if self.finished == "leave":
            values = jnp.where(level.finished, -jnp.inf, values)
        if self.duplicates == "merge":
            values = jnp.where(level.copies, -jnp.inf, values)
        order = best_first(keys, values, level.copies if self.duplicates == "last" else None, self.ties)
        chosen = order[:, : self.beam_width]
        kept = pick(values, chosen) > -jnp.inf
        ended = pick(level.finished, chosen)
        if self.finished == "shrink":
            kept &= jnp.arange(self.beam_width) < self.beam_width - state[:, None]
            state = state + (kept & ended).sum(1, dtype=jnp.int32)
            kept &= ~ended
        return Selection(*self._expand(chosen, kept, ended), state)

    def _expand(self, chosen: Int[Array, "B W"], kept: Array, ended: Array) -> tuple[Array, Array]:
        """Each kept path becomes ``expansions`` rows; of a finished one only the first stays, to compete but not to grow."""
        parents, kept, ended = (jnp.repeat(x, self.expansions, axis=1) for x in (chosen, kept, ended))
        copy = jnp.arange(self.rows) % self.expansions
        return parents, kept & ~(ended & (copy > 0))


@dataclasses.dataclass(frozen=True)
class Greedy(Strategy):
    """The best of ``samples`` steps is taken, and nothing else is kept (stepwise best-of-N: HRM, AgentPRM).

    The same as a beam of width 1.
    """

    samples: int = 4
    name: ClassVar[str] = "greedy"

    def __post_init__(self):
        check_positive(self, "samples")

    @property
    def rows(self) -> int:
        return self.samples

    def select(self, keys: jax.Array, level: Level) -> Selection:
        best = jnp.argmax(level.values, axis=1).astype(jnp.int32)[:, None]
        parents = jnp.repeat(best, self.samples, axis=1)
        alive = pick(level.usable, parents) & (~pick(level.finished, parents) | (jnp.arange(self.samples) == 0))
        return Selection(parents, alive)
