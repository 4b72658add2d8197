"""Searches that go back: independent solutions per problem, each of which draws a bad step again.

    chunk reset   a step that scores too low is rejected at once and drawn again (reject and resample)
    refine        a whole solution is drafted, then drawn again from its first bad step on

What stays when a solution goes back is read again by neither model (`jaxprm.search.rewind_turn`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxprm.errors import InputError
from jaxprm.generation.sampler import SamplingConfig
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import Aggregation, aggregate
from jaxprm.search.budget import Budget
from jaxprm.search.growth import Candidates, Steps, no_steps, put_nodes
from jaxprm.search.nodes import NodeResult, NodeStrategy, NodeTree, best_nodes
from jaxprm.search.result import SearchCosts
from jaxprm.search.rewind_turn import RewindTurns
from jaxprm.search.rows import Rules
from jaxprm.search.turns import run_turns


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """A step that was just drawn, for B problems with W solutions each.

    Attributes:
      usable: bool[B, W], it has ended.
      closing: bool[B, W], the solution ends with it, or no step can follow.
      depth: int32[B, W], steps before it.
      steps: int32[B, W], steps with it; as many as before for a bare end token.
      scores: float32[B, W, S], of the path with it.
      tries, rounds: int32[B, W], how often this step was rejected, and how often the solution was drawn again.
    """

    usable: Bool[Array, "B W"]
    closing: Bool[Array, "B W"]
    depth: Int[Array, "B W"]
    steps: Int[Array, "B W"]
    scores: Float[Array, "B W S"]
    tries: Int[Array, "B W"]
    rounds: Int[Array, "B W"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the step stays, how many steps the solution has then, the counters, and whether it is done."""

    kept: Bool[Array, "B W"]
    depth: Int[Array, "B W"]
    tries: Int[Array, "B W"]
    rounds: Int[Array, "B W"]
    done: Bool[Array, "B W"]


class Rewind(NodeStrategy):
    """When to go back, and where to; ``chains``: W, solutions per problem; ``far``: it may go back by more than one step."""

    far: ClassVar[bool] = False
    chains: int

    def turns(self, max_steps: int) -> int:
        """The most steps that a solution can draw."""
        raise NotImplementedError

    def judge(self, drawn: Drawn) -> Verdict:
        """What becomes of a step that was drawn."""
        raise NotImplementedError

    def growth(self, max_steps: int, aggregation: Aggregation) -> RewindGrowth:
        return RewindGrowth(self, max_steps, aggregation)

    def result(self, numbers: RewindNumbers, why: Sequence[str], costs: SearchCosts) -> NodeResult:
        tree = numbers.tree()
        node = best_nodes(tree, numbers.steps.depth)
        at = np.arange(len(node)), node
        return NodeResult(tree, node, tree.values[at], tree.finished[at], tuple(name or "finished" for name in why), costs)

    def search(self, policy, reward_model, key, prompts, lengths, **settings: Any) -> NodeResult:
        return rewind_search(policy, reward_model, key, prompts, lengths, self, **settings)


@dataclasses.dataclass(frozen=True)
class ChunkReset(Rewind):
    """A step that scores below ``threshold``, or does not end, is drawn again, up to ``tries`` draws; then the last one stands.

    StepWiser (arXiv:2508.19229) resets chunks that its judge rejects, SPC steps that its self-played critic rejects.
    A solution whose last try of a step does not end is given up.
    """

    name: ClassVar[str] = "chunk_reset"

    chains: int = 4
    threshold: float = 0.5
    tries: int = 4

    def __post_init__(self):
        _at_least_one(self, "chains", "tries")

    def turns(self, max_steps: int) -> int:
        return max_steps * self.tries

    def judge(self, drawn: Drawn) -> Verdict:
        at = jnp.maximum(drawn.steps - 1, 0)[..., None]
        score = jnp.take_along_axis(drawn.scores, at, axis=-1)[..., 0]
        bad = ~drawn.usable | ((drawn.steps > drawn.depth) & (score < self.threshold))
        again = bad & (drawn.tries + 1 < self.tries)
        kept = drawn.usable & ~again
        return Verdict(kept, drawn.depth + kept, jnp.where(again, drawn.tries + 1, 0), drawn.rounds,
                       ~again & (drawn.closing | ~drawn.usable))


@dataclasses.dataclass(frozen=True)
class Refine(Rewind):
    """A draft is drawn again from its first step that scores below ``threshold`` (or does not end), up to ``rounds`` times.

    Local refinement of GLoRe (arXiv:2402.10963) and the refined best-of-N of GM-PRM, with the policy itself as the one that
    corrects. All drafts stay in the tree: a refinement that is worse does not replace what was better.
    """

    name: ClassVar[str] = "refine"
    far: ClassVar[bool] = True

    chains: int = 4
    threshold: float = 0.5
    rounds: int = 2

    def __post_init__(self):
        _at_least_one(self, "chains", "rounds")

    def turns(self, max_steps: int) -> int:
        return max_steps * (self.rounds + 1)

    def judge(self, drawn: Drawn) -> Verdict:
        over = drawn.closing | ~drawn.usable
        bad = (drawn.scores < self.threshold) & (jnp.arange(drawn.scores.shape[-1]) < drawn.steps[..., None])
        first = jnp.where(bad.any(-1), jnp.argmax(bad, axis=-1), drawn.depth).astype(jnp.int32)
        again = over & (bad.any(-1) | ~drawn.usable) & (drawn.rounds < self.rounds)
        return Verdict(drawn.usable, jnp.where(again, first, drawn.depth + drawn.usable), drawn.tries, drawn.rounds + again,
                       over & ~again)


def _at_least_one(rule, *fields: str) -> None:
    for field in fields:
        if getattr(rule, field) < 1:
            raise InputError("must be at least 1", field=field, value=getattr(rule, field))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chains:
    """W solutions of each of B problems: steps kept [B, W], the node and the tokens behind the prompt at each of their ends
    [B, W, S + 1] (place 0 = the prompt), scores [B, W, S], the counters of `Drawn`, and whether the solution is done."""

    depth: Array | np.ndarray
    nodes: Array | np.ndarray
    sizes: Array | np.ndarray
    scores: Array | np.ndarray
    tries: Array | np.ndarray
    rounds: Array | np.ndarray
    done: Array | np.ndarray

    def at_end(self, x: Shaped[Array, "B W T"]) -> Shaped[Array, "B W"]:
        """Of the values at the ends of all steps, those where each solution stands."""
        return jnp.take_along_axis(x, self.depth[..., None], axis=-1)[..., 0]

    def behind(self, x: Shaped[Array, "B W T ..."], new: Shaped[Array, "B W ..."],
               live: Bool[Array, "B W"]) -> Shaped[Array, "B W T ..."]:
        """Values with what stands at the end of a step that was drawn; it counts only if the step is kept."""
        put = lambda row, step, value, go: row.at[step + 1].set(jnp.where(go, value, row[step + 1]))  # noqa: E731
        return jax.vmap(jax.vmap(put))(x, self.depth, new, live)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RewindNumbers:
    """What is known of B problems between turns."""

    steps: Steps
    parents: Array | np.ndarray
    kept: Array | np.ndarray
    finished: Array | np.ndarray
    chains: Chains

    @property
    def stopped(self) -> Array | np.ndarray:
        return self.chains.done.all(-1)

    def tree(self) -> NodeTree:
        """The same as a result; numbers that lie on the host."""
        steps = self.steps
        return NodeTree(steps.tokens, steps.lengths, self.parents, steps.scores, steps.values, self.kept, self.finished,
                        steps.log_probs)


@dataclasses.dataclass(frozen=True)
class RewindGrowth:
    """A `Growth` in which each solution that is not done draws one step per turn."""

    rule: Rewind
    max_steps: int
    aggregation: Aggregation

    first_key: ClassVar[int] = 0
    siblings: ClassVar[bool] = False

    @property
    def width(self) -> int:
        return self.rule.chains

    @property
    def turns(self) -> int:
        return self.rule.turns(self.max_steps)

    def first(self, problems: int, room: int) -> RewindNumbers:
        nodes, most = 1 + self.turns * self.width, self.max_steps
        whole = lambda *shape: jnp.zeros((problems, self.width, *shape), jnp.int32)  # noqa: E731
        none = jnp.zeros((problems, nodes), bool)
        chains = Chains(whole(), whole(most + 1), whole(most + 1), jnp.zeros((problems, self.width, most)), whole(), whole(),
                        whole().astype(bool))
        return RewindNumbers(no_steps(problems, nodes, room), jnp.where(none, 0, -1).astype(jnp.int32), none, none, chains)

    def plan(self, numbers: RewindNumbers, active: Bool[Array, " B"]) -> tuple[Int[Array, "B D"], Bool[Array, "B D"]]:
        chains = numbers.chains
        return chains.at_end(chains.nodes), active[:, None] & ~chains.done

    def grow(self, numbers: RewindNumbers, turn: Int[Array, ""], keys: jax.Array, active: Bool[Array, " B"],
             found: Candidates) -> RewindNumbers:
        """The newest step of every solution that is not done, and where the rule sends it; nothing is random here."""
        old, first = numbers.chains, 1 + turn * self.width
        sources, live = self.plan(numbers, active)
        depth, place = old.depth, jnp.arange(self.max_steps)
        scores = jnp.where(place == depth[..., None], found.scores[..., None], old.scores)
        with_step = depth + found.scored
        values = aggregate(scores, place < with_step[..., None], self.aggregation)
        closing = found.ended | (depth + 1 >= self.max_steps) | found.full
        verdict = self.rule.judge(Drawn(found.usable, closing, depth, with_step, scores, old.tries, old.rounds))
        kept = verdict.kept & live
        node = jnp.broadcast_to(first + jnp.arange(self.width, dtype=jnp.int32), depth.shape)
        keep = lambda new, old: jnp.where(live, new, old)  # noqa: E731
        chains = Chains(keep(verdict.depth, depth), old.behind(old.nodes, node, live),
                        old.behind(old.sizes, old.at_end(old.sizes) + found.lengths, live),
                        jnp.where(live[..., None], scores, old.scores), keep(verdict.tries, old.tries),
                        keep(verdict.rounds, old.rounds), keep(verdict.done, old.done))
        put = functools.partial(put_nodes, first=first)
        return RewindNumbers(numbers.steps.put(first, depth + 1, values, found),
                             put(numbers.parents, new=jnp.where(live, sources, -1)), put(numbers.kept, new=kept),
                             put(numbers.finished, new=kept & found.ended), chains)

    def open(self, numbers: RewindNumbers) -> Bool[Array, "B N"]:
        chains, place = numbers.chains, jnp.arange(self.max_steps + 1)
        held = place <= chains.depth[..., None] if self.rule.far else place == chains.depth[..., None]
        nodes = jnp.where(held & ~chains.done[..., None], chains.nodes, 0)
        return jax.vmap(lambda row, at: row.at[at.reshape(-1)].set(True))(jnp.zeros_like(numbers.kept), nodes)


def rewind_search(policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array | np.ndarray, "B P"],
                  lengths: Int[Array | np.ndarray, " B"], strategy: Rewind, *, max_steps: int, max_step_tokens: int,
                  sampling: SamplingConfig = SamplingConfig(), aggregation: Aggregation = "min", separator_id: int, end_id: int,
                  read_back: int = 0, budget: Budget = Budget()) -> NodeResult:
    """Searches B problems at once; the arguments are those of `tree_search`, and ``budget.levels`` counts turns: in each, every
    solution that is not done draws one step.

    The tree of the result holds what was rejected, too (not ``kept``, and never ``finished``). A problem stops as "finished"
    when all its solutions are done, or at a limit of the budget.

    Raises:
      InputError: a setting is out of its range, or a prompt leaves no room for a step in a model's context.
    """
    rules = Rules(max_steps, max_step_tokens, sampling, aggregation, separator_id, end_id, read_back, False,
                  min(policy.config.context, reward_model.config.context))
    turns = RewindTurns(strategy.growth(max_steps, aggregation), rules)
    return strategy.result(*run_turns(policy, reward_model, key, prompts, lengths, turns, budget))
