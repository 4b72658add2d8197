"""Which child a tree search goes to: the confidence bounds of the published systems, as their code computes them.

All take the children of one node and return float32[M], the child with the largest is visited next (ties: the first).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError

Schedule = Literal["const", "lin", "exp"]
_FIRST = 999.0  # what rStar gives a child that no simulation has passed: more than any bound


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Children:
    """M children of one node.

    Attributes:
      parent_visits: int32[], simulations that passed the node.
      visits: int32[M], those that passed each child.
      means: float32[M], mean of what these brought back; of an unvisited child its own value.
      priors: float32[M], what the policy thinks of the step.
      progress: float32[], share of the simulations that are done, in [0, 1).
    """

    parent_visits: Int[Array, ""]
    visits: Int[Array, " M"]
    means: Float[Array, " M"]
    priors: Float[Array, " M"]
    progress: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class PuctOpenR:
    """PUCT of OpenR (``reason/guided_search/tree.py``), the constants of MuZero:

        Q + P * sqrt(N_parent) / (1 + N) * (log((N_parent + base + 1) / base) + init)

    Q of an unvisited child is its own value.
    """

    base: float = 19652.0
    init: float = 1.25

    def __post_init__(self):
        _positive(self, "base")
        _not_negative(self, "init")

    def __call__(self, children: Children) -> Float[Array, " M"]:
        parent = children.parent_visits.astype(jnp.float32)
        scale = jnp.log((parent + self.base + 1) / self.base) + self.init
        return children.means + scale * jnp.sqrt(parent) / (1 + children.visits) * children.priors


@dataclasses.dataclass(frozen=True)
class PuctAlphaMath:
    """PUCT of AlphaMath (arXiv:2405.03553, equation 6): Q + c * P * sqrt(N_parent) / (1 + N), Q = 0 where N = 0."""

    exploration: float = 1.5

    def __post_init__(self):
        _not_negative(self, "exploration")

    def __call__(self, children: Children) -> Float[Array, " M"]:
        means = jnp.where(children.visits > 0, children.means, 0.0)
        parent = children.parent_visits.astype(jnp.float32)
        return means + self.exploration * children.priors * jnp.sqrt(parent) / (1 + children.visits)


@dataclasses.dataclass(frozen=True)
class UctRStar:
    """UCT of rStar (``run_src/MCTS_backbone.py``): Q + w * sqrt(ln N_parent / N), where N = 0 more than any other.

    ``schedule`` lets w fall with the share t of simulations done: const w, lin w (1 - 0.9 t), exp w 0.1^t.
    """

    exploration: float = 2.0
    schedule: Schedule = "const"

    def __post_init__(self):
        _not_negative(self, "exploration")
        if self.schedule not in get_args(Schedule):
            raise InputError(f"must be one of {', '.join(get_args(Schedule))}", field="schedule", value=self.schedule)

    def weight(self, progress: Float[Array, ""] | float) -> Float[Array, ""] | float:
        """w after this share of the simulations."""
        match self.schedule:
            case "lin":
                return self.exploration * (1 - 0.9 * progress)
            case "exp":
                return self.exploration * 0.1**progress
        return self.exploration

    def __call__(self, children: Children) -> Float[Array, " M"]:
        bonus = self.weight(children.progress) * _spread(children)
        return jnp.where(children.visits > 0, children.means + bonus, _FIRST)


@dataclasses.dataclass(frozen=True)
class UctRStarMath:
    """The bound that rStar-Math calls PUCT (``rstar_deepthink/nodes/mcts_node.py``): Q + c * sqrt(ln N_parent / N).

    An unvisited child scores 0: neither Q nor a bonus.
    """

    exploration: float = 2.0

    def __post_init__(self):
        _not_negative(self, "exploration")

    def __call__(self, children: Children) -> Float[Array, " M"]:
        return jnp.where(children.visits > 0, children.means + self.exploration * _spread(children), 0.0)


@dataclasses.dataclass(frozen=True)
class UctReSTMCTS:
    """UCT of ReST-MCTS* (``MCTS/mcts.py``): V + c * sqrt(2 ln N_parent / N); an unvisited child scores V + ``bonus``."""

    exploration: float = 0.7
    bonus: float = 1.0

    def __post_init__(self):
        _not_negative(self, "exploration")
        _not_negative(self, "bonus")

    def __call__(self, children: Children) -> Float[Array, " M"]:
        spread = 2.0**0.5 * _spread(children)
        return children.means + jnp.where(children.visits > 0, self.exploration * spread, self.bonus)


Bound = PuctOpenR | PuctAlphaMath | UctRStar | UctRStarMath | UctReSTMCTS


def _spread(children: Children) -> Float[Array, " M"]:
    """sqrt(ln N_parent / N), 0 where nothing was visited yet."""
    parent = jnp.log(jnp.maximum(children.parent_visits, 1).astype(jnp.float32))
    return jnp.sqrt(parent / jnp.maximum(children.visits, 1))


def _positive(bound, field: str) -> None:
    value = getattr(bound, field)
    if not 0 < value < float("inf"):
        raise InputError("must be positive and finite", field=field, value=value)


def _not_negative(bound, field: str) -> None:
    value = getattr(bound, field)
    if not 0 <= value < float("inf"):
        raise InputError("must be finite and not negative", field=field, value=value)
