"""One turn of a tree search: a node per problem gets its children, from both models' caches of its path.

Nothing here chooses: what the children's scores lead to is a `Walker`'s.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxprm.generation.sampler import Generation
from jaxprm.models.cache import empty_cache
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel, logits, prefill
from jaxprm.scoring.aggregation import aggregate
from jaxprm.scoring.incremental import ScoreState
from jaxprm.search.budget import Spent, no_costs, spend
from jaxprm.search.node_cache import NodeCache, node_cache, path_slots
from jaxprm.search.rows import Rules
from jaxprm.search.turns import Steps, draw_steps, no_steps, put_nodes, read_steps
from jaxprm.search.walk import NodeStats, ancestors, empty_stats


@runtime_checkable
class Walker(Protocol):
    """Which node is expanded next, for one problem at a time. A walk is a pytree with ``at`` int32[], the node to expand, and
    ``stopped`` bool[]."""

    @property
    def branch(self) -> int:
        """M, children that a turn can draw."""
        ...

    def first(self) -> Any:
        """The walk at the prompt, which is expanded first."""
        ...

    def width(self, walk) -> Int[Array, ""]:
        """How many of the M children are drawn."""
        ...

    def go_on(self, stats: NodeStats, walk, key: jax.Array, steps: int) -> tuple[NodeStats, Any]:
        """Numbers and walk after ``walk.at`` was expanded; no node is deeper than ``steps``."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeState:
    """State between turns."""

    turn: Array
    prompt_lengths: Array
    steps: Steps
    stats: NodeStats
    walk: Any
    spent: Spent

    @property
    def stopped(self) -> Array:
        return self.walk.stopped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeCaches:
    """What the models have read. ``next_logits`` [B, N, V] and ``last`` [B, N, D] are what policy and reward model made of the
    last token of each node."""

    policy: NodeCache
    rewards: NodeCache
    next_logits: Array
    last: Array


@dataclasses.dataclass(frozen=True)
class TreeTurns:
    """What is static in a compiled search over a tree: who walks, how many nodes are expanded at most, how steps are drawn.

    Attributes:
      signed: nodes are worth 2 v - 1 to the walker, with v the aggregated score of the path.
      normalised: a child's prior is the softmax of mean token log-probabilities over its siblings; else its own exp(mean).
      first_visit: children start with one visit.
    """

    walker: Walker
    turns: int
    steps: Rules
    signed: bool = False
    normalised: bool = False
    first_visit: bool = False

    def start(self, policy: LanguageModel, reward_model: RewardModel, prompts: Int[Array, "B P"],
              lengths: Int[Array, " B"]) -> tuple[TreeState, TreeCaches]:
        """Reads the prompts, once each; every simulation stands at its prompt."""
        problems, nodes, room = prompts.shape[0], 1 + self.turns * self.walker.branch, self.steps.max_step_tokens
        everywhere = lambda value: jnp.broadcast_to(value, (problems, *jnp.shape(value)))  # noqa: E731
        at_end = lambda hidden: jax.vmap(lambda row, index: row[index])(hidden, lengths - 1)  # noqa: E731
        hidden, prompt = prefill(policy.backbone, prompts, lengths)
        after_prompt = logits(policy, at_end(hidden))
        next_logits = jnp.zeros((problems, nodes, after_prompt.shape[-1])).at[:, 0].set(after_prompt)
        hidden, read = prefill(reward_model.backbone, prompts, lengths)
        last = jnp.zeros((problems, nodes, hidden.shape[-1]), hidden.dtype).at[:, 0].set(at_end(hidden))
        state = TreeState(jnp.int32(0), lengths, no_steps(problems, nodes, self.steps),
                          jax.tree.map(everywhere, empty_stats(nodes)), jax.tree.map(everywhere, self.walker.first()),
                          no_costs(policy.config, reward_model.config, lengths, prompts.shape[1]))
        return state, TreeCaches(node_cache(prompt, nodes - 1, room), node_cache(read, nodes - 1, room), next_logits, last)

    def turn(self, policy: LanguageModel, reward_model: RewardModel, keys: jax.Array, state: TreeState, caches: TreeCaches,
             active: Bool[Array, " B"], prompt_size: int) -> tuple[TreeState, TreeCaches]:
        """Samples up to M children of ``walk.at`` for every active problem, has them scored, and walks on."""
        problems, branch, most, room = keys.shape[0], self.walker.branch, self.steps.max_steps, self.steps.max_step_tokens
        rows, steps, leaf = problems * branch, state.steps, state.walk.at
        drawing = active[:, None] & (jnp.arange(branch) < jax.vmap(self.walker.width)(state.walk)[:, None])
        at_leaf = lambda x: jax.vmap(lambda row, node: row[node])(x, leaf)  # noqa: E731
        siblings = lambda x: x.reshape(problems, branch, *x.shape[1:])  # noqa: E731
        spread = lambda x: jnp.repeat(x, branch, axis=0, total_repeat_length=rows)  # noqa: E731

        depth = at_leaf(steps.depth)
        path = _paths(state.stats.parents, leaf, depth, most)
        along = lambda x: jnp.where(path < 0, 0, jnp.take_along_axis(x, jnp.maximum(path, 0), axis=1))  # noqa: E731
        path_lengths, size = along(steps.lengths), min(prompt_size + most * room, max(self.steps.context, prompt_size))
        before = state.prompt_lengths + path_lengths.sum(1)
        slots = jax.vmap(lambda length, nodes, lengths: path_slots(length, prompt_size, nodes, lengths, room, size))(
            state.prompt_lengths, path, path_lengths)

        row_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, state.turn), branch + 1))(keys)
        generation = Generation(empty_cache(policy.config, rows, room, caches.policy.path(slots, before)),
                                spread(at_leaf(caches.next_logits)))
        samples, generation, usable, bare_end = draw_steps(policy, generation, row_keys[:, 1:].reshape(rows),
                                                           drawing.reshape(rows), self.steps)
        tokens, lengths, log_probs = siblings(samples.tokens), siblings(samples.lengths), siblings(samples.log_probs.sum(1))
        same = (tokens[:, :, None] == tokens[:, None]).all(-1)
        # Of the siblings that say the same the first one counts, and the reward model reads no other.
        usable = siblings(usable) & (jnp.argmax(same, axis=2) == jnp.arange(branch))
        read = jnp.where(usable & ~siblings(bare_end), lengths, 0)
        scoring = ScoreState(empty_cache(reward_model.config, rows, room, caches.rewards.path(slots, before)),
                             spread(at_leaf(caches.last)), jnp.int32(0))
        scores, scoring = read_steps(reward_model, scoring, samples, read.reshape(rows), self.steps)

        scores = siblings(scores)
        place = jnp.arange(most)
        path_scores = jnp.where(place == depth[:, None, None], scores[..., None], along(steps.scores)[:, None])
        worth = aggregate(path_scores, place < depth[:, None, None] + (read > 0)[..., None], self.steps.aggregation)
        mean_log_probs = log_probs / jnp.maximum(lengths, 1)
        priors = jax.nn.softmax(mean_log_probs, where=usable, axis=1) if self.normalised else jnp.exp(mean_log_probs)
        values = jnp.where(usable, 2 * worth - 1 if self.signed else worth, 0.0)
        ended = siblings(samples.finished) & usable
        full = before[:, None] + lengths + room > self.steps.context

        first, shape = 1 + state.turn * branch, (problems, branch)
        put = functools.partial(put_nodes, first=first)
        old, deeper = state.stats, jnp.broadcast_to(depth[:, None] + 1, shape)
        parents = jnp.where(drawing, leaf[:, None], -1)
        first_child = jax.vmap(lambda row, node, new: row.at[node].set(new))(
            old.first_child, leaf, jnp.where(active, first, at_leaf(old.first_child)))
        stats = NodeStats(
            parents=put(old.parents, new=parents), first_child=first_child, values=put(old.values, new=values),
            priors=put(old.priors, new=jnp.where(usable, priors, 0.0)),
            visits=put(old.visits, new=usable & self.first_visit), means=put(old.means, new=values),
            usable=put(old.usable, new=usable), ended=put(old.ended, new=ended),
            final=put(old.final, new=ended | (deeper >= most) | full), closed=old.closed)
        # A problem that has stopped walks on from nothing new; what comes of it is dropped.
        walked = jax.vmap(functools.partial(self.walker.go_on, steps=most))(stats, state.walk, row_keys[:, 0])
        stats, walk = jax.tree.map(lambda new, old: jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old), walked,
                                   (stats, state.walk))
        steps = Steps(put(steps.tokens, new=tokens), put(steps.lengths, new=lengths), put(steps.depth, new=deeper),
                      put(steps.scores, new=scores), put(steps.values, new=jnp.where(usable, worth, -jnp.inf)),
                      put(steps.log_probs, new=log_probs))
        spent = spend(policy.config, reward_model.config, state.spent, jnp.broadcast_to(before[:, None], shape), lengths, read,
                      room)
        spent = dataclasses.replace(spent, levels=spent.levels + active)
        slot = prompt_size + (first - 1) * room
        caches = TreeCaches(caches.policy.store(slot, generation.cache), caches.rewards.store(slot, scoring.cache),
                            put(caches.next_logits, new=siblings(generation.next_logits)),
                            put(caches.last, new=siblings(scoring.last)))
        return TreeState(state.turn + 1, state.prompt_lengths, steps, stats, walk, spent), caches


def _paths(parents: Int[Array, "B N"], leaf: Int[Array, " B"], depth: Int[Array, " B"], most: int) -> Int[Array, "B A"]:
    """The path to each leaf from the first step down, A = ``most`` places, -1 behind the leaf.

    In:  a leaf of depth 2, whose ancestors are [5, 2, 0, -1]
    Out: [2, 5, -1]
    """
    upwards = jax.vmap(lambda parents, node: ancestors(parents, node, most))(parents, leaf)
    place = jnp.arange(most)
    downwards = jnp.take_along_axis(upwards, jnp.maximum(depth[:, None] - 1 - place, 0), axis=1)
    return jnp.where(place < depth[:, None], downwards, -1)
