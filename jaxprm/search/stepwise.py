"""Searches that follow one path and spend more on the steps that need it.

    PATS         the number of candidates follows the score of the step before; a bad step is drawn once more
    dual phase   candidates are drawn in small batches until one is good enough; what is saved is spent on later steps

Both walk a tree whose nodes keep their caches (`jaxprm.search.tree_turn`), so a step that is drawn again is drawn from the same
prefix without reading it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.generation.sampler import SamplingConfig
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import Aggregation
from jaxprm.search.budget import Budget
from jaxprm.search.nodes import NodeResult, NodeStrategy, best_nodes
from jaxprm.search.result import SearchCosts
from jaxprm.search.rows import Rules
from jaxprm.search.tree_growth import TreeGrowth, TreeNumbers
from jaxprm.search.tree_turn import TreeTurns
from jaxprm.search.turns import run_turns
from jaxprm.search.walk import NodeStats


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mode:
    """A walk of PATS: the node, the index of its number of candidates, whether its children are drawn for the second time."""

    at: Int[Array | np.ndarray, "*B"]
    mode: Int[Array | np.ndarray, "*B"]
    again: Bool[Array | np.ndarray, "*B"]
    stopped: Bool[Array | np.ndarray, "*B"]


class Stepwise(NodeStrategy):
    """A `Walker` that follows one path."""

    def turns(self, max_steps: int) -> int:
        """The most turns that a solution can take."""
        raise NotImplementedError

    def growth(self, max_steps: int, aggregation: Aggregation) -> TreeGrowth:
        return TreeGrowth(self, self.turns(max_steps), max_steps, aggregation)

    def open(self, stats: NodeStats, walk) -> Bool[Array, " N"]:
        return (jnp.arange(len(stats.parents)) == walk.at) | (stats.parents == walk.at)

    def result(self, numbers: TreeNumbers, why: Sequence[str], costs: SearchCosts) -> NodeResult:
        tree, arrived = numbers.tree(), numbers.walk.at
        problems = np.arange(len(arrived))
        node = np.where(tree.finished[problems, arrived], arrived, best_nodes(tree, numbers.steps.depth))
        at = problems, node
        return NodeResult(tree, node, tree.values[at], tree.finished[at], tuple(name or "finished" for name in why), costs)

    def search(self, policy, reward_model, key, prompts, lengths, **settings: Any) -> NodeResult:
        return stepwise_search(policy, reward_model, key, prompts, lengths, self, **settings)


@dataclasses.dataclass(frozen=True)
class Pats(Stepwise):
    """Process-level adaptive thinking mode switching (arXiv:2505.19250).

    The best of ``widths[mode]`` candidates becomes the next step. A score of at least ``good`` switches to the next narrower
    mode, one below ``keep`` to the next wider. A score below ``bad`` (or no usable candidate) sends the search back to the same
    prefix, once per step, with the widest mode; then the best of all candidates stands.

    Attributes:
      widths: candidates of each mode, increasing.
      start: the mode of the first step.
    """

    name: ClassVar[str] = "pats"

    widths: tuple[int, ...] = (2, 4, 8)
    start: int = 1
    good: float = 0.85
    keep: float = 0.75
    bad: float = 0.4

    def __post_init__(self):
        if not self.widths or self.widths[0] < 1 or any(low >= high for low, high in zip(self.widths, self.widths[1:])):
            raise InputError("must increase from at least 1", field="widths", value=self.widths)
        if not 0 <= self.start < len(self.widths):
            raise InputError(f"must be one of the {len(self.widths)} modes, from 0", field="start", value=self.start)
        if not self.bad <= self.keep <= self.good:
            raise InputError("must be at least bad and at most good", field="keep", value=self.keep)

    @property
    def branch(self) -> int:
        return self.widths[-1]

    def turns(self, max_steps: int) -> int:
        return 2 * max_steps

    def first(self) -> Mode:
        return Mode(jnp.int32(0), jnp.int32(self.start), jnp.asarray(False), jnp.asarray(False))

    def width(self, walk: Mode) -> Int[Array, ""]:
        return jnp.asarray(self.widths, jnp.int32)[walk.mode]

    def go_on(self, stats: NodeStats, walk: Mode, key: jax.Array, steps: int) -> tuple[NodeStats, Mode]:
        best, score = _best_child(stats, walk.at)
        again = (score < self.bad) & ~walk.again
        wider = jnp.where(score >= self.good, -1, jnp.where(score >= self.keep, 0, 1))
        mode = jnp.where(again, len(self.widths) - 1, jnp.clip(walk.mode + wider, 0, len(self.widths) - 1))
        found = score > -jnp.inf
        stopped = ~again & (~found | stats.final[best])
        return stats, Mode(jnp.where(again | ~found, walk.at, best), mode.astype(jnp.int32), again, stopped)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spending:
    """A walk of the dual-phase search: the node, its depth, candidates drawn for it, and those that it may draw."""

    at: Int[Array | np.ndarray, "*B"]
    depth: Int[Array | np.ndarray, "*B"]
    drawn: Int[Array | np.ndarray, "*B"]
    allowed: Int[Array | np.ndarray, "*B"]
    stopped: Bool[Array | np.ndarray, "*B"]


@dataclasses.dataclass(frozen=True)
class DualPhase(Stepwise):
    """Reward-guided dual-phase search with a dynamic budget (DREAM, arXiv:2509.25420).

    Steps take turns in being a plan and its execution, each with its own threshold. For each step candidates are drawn
    ``batch`` by ``batch`` until the best one scores at least the threshold, or as many were drawn as the step may cost:
    ``samples``, and what earlier steps have left. (Our definition of how savings are handed on; the policy is expected to write
    plan and execution as steps of their own.)

    Attributes:
      thresholds: by phase; one alone makes a search with a dynamic budget and a single phase.
    """

    name: ClassVar[str] = "dual_phase"

    thresholds: tuple[float, ...] = (0.8, 0.9)
    samples: int = 8
    batch: int = 2

    def __post_init__(self):
        if not self.thresholds:
            raise InputError("needs a threshold per phase", field="thresholds", value=self.thresholds)
        if not 1 <= self.batch <= self.samples:
            raise InputError(f"must be between 1 and samples ({self.samples})", field="batch", value=self.batch)

    @property
    def branch(self) -> int:
        return self.batch

    def turns(self, max_steps: int) -> int:
        return max_steps * self.samples // self.batch

    def first(self) -> Spending:
        return Spending(jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.int32(self.samples), jnp.asarray(False))

    def width(self, walk: Spending) -> Int[Array, ""]:
        return jnp.int32(self.batch)

    def go_on(self, stats: NodeStats, walk: Spending, key: jax.Array, steps: int) -> tuple[NodeStats, Spending]:
        best, score = _best_child(stats, walk.at)
        drawn = walk.drawn + self.batch
        threshold = jnp.asarray(self.thresholds, jnp.float32)[walk.depth % len(self.thresholds)]
        on = (score >= threshold) | (drawn + self.batch > walk.allowed)
        found = score > -jnp.inf
        left = walk.allowed - drawn
        return stats, Spending(jnp.where(on & found, best, walk.at), walk.depth + on, jnp.where(on, 0, drawn),
                               jnp.where(on, left + self.samples, walk.allowed), on & (~found | stats.final[best]))


def _best_child(stats: NodeStats, node: Int[Array, ""]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The best usable child, of all that were drawn, and what it is worth; -inf if there is none."""
    worth = jnp.where((stats.parents == node) & stats.usable, stats.values, -jnp.inf)
    best = jnp.argmax(worth).astype(jnp.int32)
    return best, worth[best]


def stepwise_search(policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array | np.ndarray, "B P"],
                    lengths: Int[Array | np.ndarray, " B"], strategy: Stepwise, *, max_steps: int, max_step_tokens: int,
                    sampling: SamplingConfig = SamplingConfig(), aggregation: Aggregation = "last",
                    separator_id: int, end_id: int, read_back: int = 0, budget: Budget = Budget()) -> NodeResult:
    """Searches B problems at once; the arguments are those of `tree_search`, and ``budget.levels`` counts turns.

    ``NodeResult.node`` is where the path has arrived; if no solution ends there, the best one that was met on the way, and the
    best of the deepest nodes if there is none. A problem stops as "finished" when no step can follow on its path, or at a limit
    of the budget.

    Raises:
      InputError: a setting is out of its range, or a prompt leaves no room for a step in a model's context.
    """
    rules = Rules(max_steps, max_step_tokens, sampling, aggregation, separator_id, end_id, read_back, False,
                  min(policy.config.context, reward_model.config.context))
    turns = TreeTurns(strategy.growth(max_steps, aggregation), rules)
    return strategy.result(*run_turns(policy, reward_model, key, prompts, lengths, turns, budget))
