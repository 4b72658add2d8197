"""Diverse verifier tree search: several beams that know nothing of each other."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxprm.search.strategies.base import Level, Selection, Strategy, check_positive, first_of
from jaxprm.search.strategies.beam import Beam


@dataclasses.dataclass(frozen=True)
class DVTS(Strategy):
    """``subtrees`` independent beams from the same prompt (Beeching et al. 2024, search-and-learn); one subtree is a beam.

    search-and-learn's ``n`` and ``beam_width`` are ``subtrees = n / beam_width`` and ``beam = Beam(1, beam_width)``.

    Attributes:
      subtrees: number of beams.
      beam: each of them; copies count within a subtree only.
    """

    subtrees: int = 4
    beam: Beam = Beam(beam_width=1, expansions=4)
    name: ClassVar[str] = "dvts"

    def __post_init__(self):
        check_positive(self, "subtrees")

    @property
    def rows(self) -> int:
        return self.subtrees * self.beam.rows

    def init(self, problems: int) -> Any:
        return self.beam.init(problems * self.subtrees).reshape(problems, self.subtrees)

    def select(self, keys: jax.Array, level: Level) -> Selection:
        problems, wide = level.values.shape

        def apart(x):
            return x.reshape(problems * self.subtrees, self.beam.rows, *x.shape[2:])

        texts = apart(level.first)
        apart_level = dataclasses.replace(
            level, **{field.name: apart(getattr(level, field.name)) for field in dataclasses.fields(level)
                      if field.name not in ("level", "state", "first")},
            first=first_of(texts[:, :, None] == texts[:, None]), state=level.state.reshape(-1))
        each = jax.vmap(lambda key: jax.random.split(key, self.subtrees))(keys).reshape(-1)
        found = self.beam.select(each, apart_level)
        offset = jnp.arange(wide, dtype=jnp.int32) // self.beam.rows * self.beam.rows
        return Selection(found.parents.reshape(problems, wide) + offset, found.alive.reshape(problems, wide),
                         found.state.reshape(problems, self.subtrees))
