"""Monte-Carlo tree search over steps, compiled, for many problems at once.

Each turn expands one node per problem: the policy writes M steps behind it, the reward model reads each once
(`jaxprm.search.tree_turn`), and the walk (`jaxprm.search.walk`) goes on to the next node that must be expanded; simulations
that meet only known nodes cost no model call. Every node keeps its own keys and values, so neither model reads a token twice,
wherever in the tree it goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int

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
from jaxprm.search.variants import VARIANTS, TreeVariant
from jaxprm.search.walk import TreeWalk


@dataclasses.dataclass(frozen=True)
class Tree(NodeStrategy):
    """A tree search.

    Attributes:
      variant: a name of `VARIANTS`, or a variant of one's own.
      simulations: values brought back per problem, at most.
      expansions: nodes whose children are sampled, at most; a simulation that this cuts off brings nothing back.
      branch: M, children sampled per expanded node; those that say the same are one child.
    """

    name: ClassVar[str] = "tree"

    variant: str | TreeVariant = "puct_openr"
    simulations: int = 16
    expansions: int = 16
    branch: int = 4

    def __post_init__(self):
        for field in ("simulations", "expansions", "branch"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if isinstance(self.variant, str) and self.variant not in VARIANTS:
            raise InputError(f"must be one of {', '.join(VARIANTS)}", field="variant", value=self.variant)

    def growth(self, max_steps: int, aggregation: Aggregation) -> TreeGrowth:
        variant = VARIANTS[self.variant] if isinstance(self.variant, str) else self.variant
        return TreeGrowth(TreeWalk(variant, self.branch, self.simulations), self.expansions, max_steps, aggregation,
                          variant.signed, variant.normalised, variant.first_visit)

    def search(self, policy, reward_model, key, prompts, lengths, **settings: Any) -> TreeResult:
        return tree_search(policy, reward_model, key, prompts, lengths, self, **settings)

    def result(self, numbers: TreeNumbers, why: Sequence[str], costs: SearchCosts) -> TreeResult:
        tree, stats, done = numbers.tree(), numbers.stats, numbers.walk.simulations
        node = best_nodes(tree, numbers.steps.depth)
        at = np.arange(len(node)), node
        why = tuple({"": "simulations" if count >= self.simulations else "finished", "turns": "expansions"}.get(name, name)
                    for name, count in zip(why, done))
        return TreeResult(tree, node, tree.values[at], tree.finished[at], why, costs, stats.priors, stats.visits, stats.means,
                          done, tree.kept.sum(1, dtype=np.int32))


@dataclasses.dataclass(frozen=True)
class TreeResult(NodeResult):
    """The outcome of a tree search; a problem stops as "finished" (nothing is left to find, or what was found is enough), at
    "simulations", at "expansions", or at a limit of the budget.

    Attributes:
      priors: float32[B, N], as the variant reads them.
      visits: int32[B, N], values brought back through the node.
      means: float32[B, N], what they say of it, in the variant's scale.
      simulations, expansions: int32[B], done.
    """

    priors: Float[np.ndarray, "B N"]
    visits: Int[np.ndarray, "B N"]
    means: Float[np.ndarray, "B N"]
    simulations: Int[np.ndarray, " B"]
    expansions: Int[np.ndarray, " B"]


def tree_search(policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array | np.ndarray, "B P"],
                lengths: Int[Array | np.ndarray, " B"], strategy: Tree, *, max_steps: int, max_step_tokens: int,
                sampling: SamplingConfig = SamplingConfig(), aggregation: Aggregation = "last", separator_id: int, end_id: int,
                read_back: int = 0, budget: Budget = Budget()) -> TreeResult:
    """Searches B problems at once. Policy and reward model share token ids and prompt format.

    Args:
      key: one key per problem [B]: then a problem's result does not depend on the batch it is in. Of a single key each problem
        gets a part by its place.
      prompts, lengths: right-padded prompts.
      strategy: the tree search.
      max_steps: most steps of a solution.
      max_step_tokens: L, most tokens of a step; a step that does not end within them is discarded, and the reward model does
        not read it.
      sampling: how the policy draws tokens; priors are read from the distribution it draws from.
      aggregation: a node's value from the step scores of its path. The published systems take the last score.
      separator_id, end_id: a step ends after its separator; the end token closes the solution (the reward model then reads the
        separator in its place).
      read_back: 1 if the reward model reads before the separator.
      budget: limits beside those of ``strategy``, checked after every expansion; ``levels`` counts expansions.

    Memory: both models keep ``P + expansions * branch * max_step_tokens`` tokens of keys and values per problem.

    Raises:
      InputError: a setting is out of its range, or a prompt leaves no room for a step in a model's context.
    """
    rules = Rules(max_steps, max_step_tokens, sampling, aggregation, separator_id, end_id, read_back, False,
                  min(policy.config.context, reward_model.config.context))
    turns = TreeTurns(strategy.growth(max_steps, aggregation), rules)
    return strategy.result(*run_turns(policy, reward_model, key, prompts, lengths, turns, budget))
