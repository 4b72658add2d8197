"""One compiled turn of a tree search: a node per problem gets its children, from both models' caches of its path."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxprm.generation.sampler import Generation
from jaxprm.models.cache import empty_cache
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel, logits, prefill
from jaxprm.scoring.incremental import ScoreState
from jaxprm.search.budget import spend
from jaxprm.search.growth import Candidates, put_nodes, turn_keys
from jaxprm.search.node_cache import NodeCache, node_cache, path_slots
from jaxprm.search.rows import Rules
from jaxprm.search.tree_growth import TreeGrowth
from jaxprm.search.turns import State, draw_steps, read_steps


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
    """What is static in a compiled search over a tree: how it grows, and how steps are drawn."""

    growth: TreeGrowth
    steps: Rules

    def start(self, policy: LanguageModel, reward_model: RewardModel, prompts: Int[Array, "B P"],
              lengths: Int[Array, " B"]) -> TreeCaches:
        """Reads the prompts, once each."""
        nodes, room = 1 + self.growth.turns * self.growth.width, self.steps.max_step_tokens
        at_end = lambda hidden: jax.vmap(lambda row, index: row[index])(hidden, lengths - 1)  # noqa: E731
        hidden, prompt = prefill(policy.backbone, prompts, lengths)
        after_prompt = logits(policy, at_end(hidden))
        next_logits = jnp.zeros((len(lengths), nodes, after_prompt.shape[-1])).at[:, 0].set(after_prompt)
        hidden, read = prefill(reward_model.backbone, prompts, lengths)
        last = jnp.zeros((len(lengths), nodes, hidden.shape[-1]), hidden.dtype).at[:, 0].set(at_end(hidden))
        return TreeCaches(node_cache(prompt, nodes - 1, room), node_cache(read, nodes - 1, room), next_logits, last)

    def turn(self, policy: LanguageModel, reward_model: RewardModel, keys: jax.Array, state: State, caches: TreeCaches,
             active: Bool[Array, " B"], prompt_size: int) -> tuple[State, TreeCaches]:
        """Samples up to M children of ``walk.at`` for every active problem, has them scored, and walks on."""
        growth, numbers, most, room = self.growth, state.numbers, self.steps.max_steps, self.steps.max_step_tokens
        _, drawing = growth.plan(numbers, active)
        (problems, branch), leaf = drawing.shape, numbers.walk.at
        at_leaf = lambda x: jax.vmap(lambda row, node: row[node])(x, leaf)  # noqa: E731
        siblings = lambda x: x.reshape(problems, branch, *x.shape[1:])  # noqa: E731
        spread = lambda x: jnp.repeat(x, branch, axis=0, total_repeat_length=drawing.size)  # noqa: E731

        path = growth.path(numbers)
        path_lengths = jnp.where(path < 0, 0, jnp.take_along_axis(numbers.steps.lengths, jnp.maximum(path, 0), axis=1))
        size = min(prompt_size + most * room, max(self.steps.context, prompt_size))
        before = state.prompt_lengths + path_lengths.sum(1)
        slots = jax.vmap(lambda length, nodes, lengths: path_slots(length, prompt_size, nodes, lengths, room, size))(
            state.prompt_lengths, path, path_lengths)

        row_keys = turn_keys(keys, state.turn, growth.first_key + branch)[:, growth.first_key :]
        generation = Generation(empty_cache(policy.config, drawing.size, room, caches.policy.path(slots, before)),
                                spread(at_leaf(caches.next_logits)))
        samples, generation, usable, bare_end = draw_steps(policy, generation, row_keys.reshape(-1), drawing.reshape(-1),
                                                           self.steps)
        tokens, lengths = siblings(samples.tokens), siblings(samples.lengths)
        same = (tokens[:, :, None] == tokens[:, None]).all(-1)
        # Of the siblings that say the same the first one counts, and the reward model reads no other.
        usable = siblings(usable) & (jnp.argmax(same, axis=2) == jnp.arange(branch))
        read = jnp.where(usable & ~siblings(bare_end), lengths, 0)
        scoring = ScoreState(empty_cache(reward_model.config, drawing.size, room, caches.rewards.path(slots, before)),
                             spread(at_leaf(caches.last)), jnp.int32(0))
        scores, scoring = read_steps(reward_model, scoring, samples, read.reshape(-1), self.steps)

        found = Candidates(tokens, lengths, siblings(samples.log_probs.sum(1)), siblings(scores), read > 0, usable,
                           siblings(samples.finished) & usable, before[:, None] + lengths + room > self.steps.context)
        spent = spend(policy.config, reward_model.config, state.spent, jnp.broadcast_to(before[:, None], drawing.shape),
                      lengths, read, room)
        first = 1 + state.turn * branch
        put, slot = functools.partial(put_nodes, first=first), prompt_size + (first - 1) * room
        caches = TreeCaches(caches.policy.store(slot, generation.cache), caches.rewards.store(slot, scoring.cache),
                            put(caches.next_logits, new=siblings(generation.next_logits)),
                            put(caches.last, new=siblings(scoring.last)))
        return state.after(growth.grow(numbers, state.turn, keys, active, found), spent, active), caches
