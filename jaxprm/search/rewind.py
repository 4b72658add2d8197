"""Searches that go back: independent solutions per problem, each of which draws a bad step again.

    chunk reset   a step that scores too low is rejected at once and drawn again (reject and resample)
    refine        a whole solution is drafted, then drawn again from its first bad step on

A solution is one row of both models' caches. Going back is a matter of its length: the slots behind are overwritten, and
neither model reads again what stays.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.generation.sampler import Generation, SamplingConfig, start
from jaxprm.models.cache import KVCache
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import Aggregation, aggregate
from jaxprm.scoring.incremental import ScoreState, start_scores
from jaxprm.search.budget import Budget, Spent, no_costs, spend
from jaxprm.search.nodes import NodeResult, NodeStrategy, NodeTree, best_nodes
from jaxprm.search.rows import Rules
from jaxprm.search.turns import Steps, draw_steps, no_steps, put_nodes, read_steps, run_turns


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
    """When to go back, and where to; ``chains``: W, solutions per problem."""

    chains: int

    def turns(self, max_steps: int) -> int:
        """The most steps that a solution can draw."""
        raise NotImplementedError

    def judge(self, drawn: Drawn) -> Verdict:
        """What becomes of a step that was drawn."""
        raise NotImplementedError

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
class _Rows:
    """W solutions of each of B problems: steps kept, the node and the suffix tokens at each of their ends (place 0 = the
    prompt), scores, counters, and whether the solution is done."""

    depth: Array
    nodes: Array
    sizes: Array
    scores: Array
    tries: Array
    rounds: Array
    done: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    turn: Array
    prompt_lengths: Array
    steps: Steps
    parents: Array
    kept: Array
    finished: Array
    rows: _Rows
    policy: KVCache  # without its buffers
    rewards: KVCache
    spent: Spent

    @property
    def stopped(self) -> Array:
        return self.rows.done.all(-1)


@dataclasses.dataclass(frozen=True)
class _Rewinding:
    rule: Rewind
    steps: Rules

    @property
    def turns(self) -> int:
        return self.rule.turns(self.steps.max_steps)

    def start(self, policy, reward_model, prompts, lengths):
        problems, wide, most, room = prompts.shape[0], self.rule.chains, self.steps.max_steps, self.steps.max_step_tokens
        capacity = min(most * room, self.steps.context) + room
        generation = start(policy, prompts, lengths, wide, capacity)
        scoring = start_scores(reward_model, prompts, lengths, wide, capacity)
        whole = lambda *shape: jnp.zeros((problems, wide, *shape), jnp.int32)  # noqa: E731
        rows = _Rows(whole(), whole(most + 1), whole(most + 1), jnp.zeros((problems, wide, most)), whole(), whole(),
                     whole().astype(bool))
        nodes = 1 + self.turns * wide
        none = jnp.zeros((problems, nodes), bool)
        at_ends = lambda x: jnp.zeros((x.shape[0], most + 1, x.shape[1]), x.dtype).at[:, 0].set(x)  # noqa: E731
        bare = [dataclasses.replace(cache, keys=(), values=()) for cache in (generation.cache, scoring.cache)]
        state = _State(jnp.int32(0), lengths, no_steps(problems, nodes, self.steps), jnp.where(none, 0, -1).astype(jnp.int32),
                       none, none, rows, *bare, no_costs(policy.config, reward_model.config, lengths, prompts.shape[1]))
        buffers = [(cache.keys, cache.values) for cache in (generation.cache, scoring.cache)]
        return state, (*buffers, at_ends(generation.next_logits), at_ends(scoring.last))

    def turn(self, policy, reward_model, keys, state: _State, caches, active, prompt_size):
        rows, steps, room = state.rows, state.steps, self.steps.max_step_tokens
        problems, wide, most = rows.scores.shape
        (policy_keys, policy_values), (reward_keys, reward_values), next_logits, last = caches
        live, depth = active[:, None] & ~rows.done, rows.depth
        flat = lambda x: x.reshape(problems * wide, *x.shape[2:])  # noqa: E731
        chains = lambda x: x.reshape(problems, wide, *x.shape[1:])  # noqa: E731
        at_end = lambda x: jax.vmap(lambda row, step: row[step])(x, flat(depth))  # noqa: E731
        size = chains(at_end(flat(rows.sizes)))

        row_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, state.turn), wide))(keys)
        cache = dataclasses.replace(state.policy, keys=policy_keys, values=policy_values, lengths=flat(size))
        samples, generation, usable, bare_end = draw_steps(policy, Generation(cache, at_end(next_logits)), flat(row_keys),
                                                           flat(live), self.steps)
        read = jnp.where(usable & ~bare_end, samples.lengths, 0)
        cache = dataclasses.replace(state.rewards, keys=reward_keys, values=reward_values, lengths=flat(size))
        score, scoring = read_steps(reward_model, ScoreState(cache, at_end(last), jnp.int32(0)), samples, read, self.steps)

        score, usable, lengths, read, ended = map(chains, (score, usable, samples.lengths, read, samples.finished))
        place = jnp.arange(most)
        scores = jnp.where(place == depth[..., None], score[..., None], rows.scores)
        with_step = depth + (read > 0)
        values = aggregate(scores, place < with_step[..., None], self.steps.aggregation)
        before = state.prompt_lengths[:, None] + size
        full = before + lengths + room > self.steps.context
        verdict = self.rule.judge(Drawn(usable, ended | (depth + 1 >= most) | full, depth, with_step, scores, rows.tries,
                                        rows.rounds))
        first = 1 + state.turn * wide
        node = jnp.broadcast_to(first + jnp.arange(wide, dtype=jnp.int32), depth.shape)
        put = functools.partial(put_nodes, first=first)
        parents = jnp.where(live, chains(at_end(flat(rows.nodes))), -1)
        kept = verdict.kept & live
        steps = Steps(*(put(old, new=new) for old, new in (
            (steps.tokens, chains(samples.tokens)), (steps.lengths, lengths), (steps.depth, depth + 1), (steps.scores, score),
            (steps.values, jnp.where(usable, values, -jnp.inf)), (steps.log_probs, chains(samples.log_probs.sum(1))))))

        def behind(x, new):  # what stands at the end of this step; it counts only if the step is kept
            return jax.vmap(lambda row, step, value, go: row.at[step + 1].set(jnp.where(go, value, row[step + 1])))(
                x, flat(depth), new, flat(live))

        keep = lambda new, old: jnp.where(live, new, old)  # noqa: E731
        rows = _Rows(keep(verdict.depth, depth), chains(behind(flat(rows.nodes), flat(node))),
                     chains(behind(flat(rows.sizes), flat(size + lengths))), jnp.where(live[..., None], scores, rows.scores),
                     keep(verdict.tries, rows.tries), keep(verdict.rounds, rows.rounds), keep(verdict.done, rows.done))
        spent = spend(policy.config, reward_model.config, state.spent, before, lengths, read, room)
        spent = dataclasses.replace(spent, levels=spent.levels + active)
        state = _State(state.turn + 1, state.prompt_lengths, steps, put(state.parents, new=parents),
                       put(state.kept, new=kept), put(state.finished, new=kept & ended), rows, state.policy, state.rewards,
                       spent)
        return state, ((generation.cache.keys, generation.cache.values), (scoring.cache.keys, scoring.cache.values),
                       behind(next_logits, generation.next_logits), behind(last, scoring.last))


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
    state, why, costs = run_turns(policy, reward_model, key, prompts, lengths, _Rewinding(strategy, rules), budget)
    steps, parents, kept, finished = jax.device_get((state.steps, state.parents, state.kept, state.finished))
    tree = NodeTree(steps.tokens, steps.lengths, parents, steps.scores, steps.values, kept, finished, steps.log_probs)
    node = best_nodes(tree, steps.depth)
    at = np.arange(len(node)), node
    return NodeResult(tree, node, tree.values[at], tree.finished[at], tuple(name or "finished" for name in why), costs)
