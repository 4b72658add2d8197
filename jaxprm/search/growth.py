"""Searches over nodes as arithmetic, without any model: which nodes get candidates next, and what becomes of these.

Both ways of searching call the same functions: the compiled one (`jaxprm.search.turns`) from inside its program, the one
through text (`jaxprm.search.text_nodes`) once per turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """D steps for each of B problems, as they were drawn in a turn and read; zero and False where none was drawn.

    Attributes:
      tokens: int32[B, D, L], the policy's ids; L = 0 through text.
      lengths: int32[B, D], tokens drawn.
      log_probs: float32[B, D], sum over them (nats).
      scores: float32[B, D].
      scored: bool[B, D], the reward model has read the step. It reads no bare end token.
      usable: bool[B, D], the step has ended; of siblings that say the same only the first one is usable.
      ended: bool[B, D], the solution ends with it; only where usable.
      full: bool[B, D], there is no room for a step behind it.
    """

    tokens: Int[Array | np.ndarray, "B D L"]
    lengths: Int[Array | np.ndarray, "B D"]
    log_probs: Float[Array | np.ndarray, "B D"]
    scores: Float[Array | np.ndarray, "B D"]
    scored: Bool[Array | np.ndarray, "B D"]
    usable: Bool[Array | np.ndarray, "B D"]
    ended: Bool[Array | np.ndarray, "B D"]
    full: Bool[Array | np.ndarray, "B D"]


@runtime_checkable
class Growth(Protocol):
    """The rules by which the trees of B problems grow: a frozen dataclass. What is known of the trees is its ``numbers``, a
    pytree with ``stopped`` bool[B] and, on the host, ``tree``; node ``1 + turn * width + d`` is candidate d of a turn.

    Attributes:
      width: D, candidates of a turn.
      turns: after so many the search stops.
      first_key: of the keys of a turn, the candidates' are those from this place on.
      siblings: whether the candidates of a turn continue one node.
    """

    @property
    def width(self) -> int: ...

    @property
    def turns(self) -> int: ...

    @property
    def first_key(self) -> int: ...

    @property
    def siblings(self) -> bool: ...

    def first(self, problems: int, room: int) -> Any:
        """Numbers of prompts alone; ``room``: L, ids that are kept of a step."""
        ...

    def plan(self, numbers, active: Bool[Array, " B"]) -> tuple[Int[Array, "B D"], Bool[Array, "B D"]]:
        """The node that each candidate continues, and which candidates are drawn."""
        ...

    def grow(self, numbers, turn: Int[Array, ""], keys: jax.Array, active: Bool[Array, " B"], found: Candidates) -> Any:
        """Numbers with what was drawn in a turn; problems that are not active stay as they are. ``keys`` [B]: of problems."""
        ...

    def open(self, numbers) -> Bool[Array, "B N"]:
        """Nodes that a later turn may continue, the prompt perhaps left out."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
    """What was sampled, by node [B, N]: ids [.., L], token counts, depth (steps from the prompt), the reward model's score of
    the step and of the path up to it (-inf where not usable), and the policy's log-probability of the step (nats)."""

    tokens: Array | np.ndarray
    lengths: Array | np.ndarray
    depth: Array | np.ndarray
    scores: Array | np.ndarray
    values: Array | np.ndarray
    log_probs: Array | np.ndarray

    def put(self, first: Int[Array, ""], depth: Int[Array, "B D"], values: Float[Array, "B D"], found: Candidates) -> Steps:
        """With the candidates of a turn, at nodes ``first`` .. ``first + D - 1``."""
        new = Steps(found.tokens, found.lengths, depth, found.scores, jnp.where(found.usable, values, -jnp.inf),
                    found.log_probs)
        return jax.tree.map(lambda old, new: put_nodes(old, first, new), self, new)


def no_steps(problems: int, nodes: int, room: int) -> Steps:
    """Room for the nodes of B problems."""
    numbers = jnp.zeros((problems, nodes))
    counts = numbers.astype(jnp.int32)
    return Steps(jnp.zeros((problems, nodes, room), jnp.int32), counts, counts, numbers, numbers - jnp.inf, numbers)


def put_nodes(old: Shaped[Array, "B N ..."], first: Int[Array, ""], new: Shaped[Array, "B M ..."]) -> Shaped[Array, "B N ..."]:
    """Values of the nodes ``first`` .. ``first + M - 1``."""
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), first, 1)


def turn_keys(keys: jax.Array, turn: Int[Array, ""], count: int) -> jax.Array:
    """Keys [B, count] of a turn."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(lambda key: fold(jax.random.fold_in(key, turn), jnp.arange(count)))(keys)


def why_stopped(stopped: Bool[np.ndarray, " B"], limits: Sequence[str], last: str) -> list[str]:
    """Why each problem stopped: "" = by its rules, else the limit that it has reached, else what ended the ``last`` turn."""
    return ["" if by_rule else limit or last for by_rule, limit in zip(stopped, limits)]
