"""One compiled turn of a search that goes back: every solution draws its next step.

A solution is one row of both models' caches. Going back is a matter of its length: the slots behind are overwritten, and
neither model reads again what stays.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxprm.generation.sampler import Generation, start
from jaxprm.models.cache import KVCache
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.incremental import ScoreState, start_scores
from jaxprm.search.budget import spend
from jaxprm.search.growth import Candidates, Growth, turn_keys
from jaxprm.search.rows import Rules
from jaxprm.search.turns import State, draw_steps, read_steps


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RewindCaches:
    """What the models have read, a row per solution; and by step [B, W, S + 1, ...] what they made of the last token at its
    end: ``next_logits`` the policy, ``last`` the reward model."""

    policy: KVCache
    rewards: KVCache
    next_logits: Array
    last: Array


@dataclasses.dataclass(frozen=True)
class RewindTurns:
    """What is static in a compiled search that goes back: the rules of `jaxprm.search.rewind`, and how steps are drawn."""

    growth: Growth
    steps: Rules

    def start(self, policy: LanguageModel, reward_model: RewardModel, prompts: Int[Array, "B P"],
              lengths: Int[Array, " B"]) -> RewindCaches:
        """Reads the prompts, once each."""
        wide, most, room = self.growth.width, self.steps.max_steps, self.steps.max_step_tokens
        capacity = min(most * room, self.steps.context) + room
        generation = start(policy, prompts, lengths, wide, capacity)
        scoring = start_scores(reward_model, prompts, lengths, wide, capacity)

        def at_ends(x):
            x = x.reshape(len(lengths), wide, -1)
            return jnp.zeros((len(lengths), wide, most + 1, x.shape[-1]), x.dtype).at[:, :, 0].set(x)

        return RewindCaches(generation.cache, scoring.cache, at_ends(generation.next_logits), at_ends(scoring.last))

    def turn(self, policy: LanguageModel, reward_model: RewardModel, keys: jax.Array, state: State, caches: RewindCaches,
             active: Bool[Array, " B"], prompt_size: int) -> tuple[State, RewindCaches]:
        """Samples the next step of every solution that is not done, has it scored, and goes on or back."""
        growth, chains, room = self.growth, state.numbers.chains, self.steps.max_step_tokens
        _, live = growth.plan(state.numbers, active)
        size = chains.at_end(chains.sizes)
        flat = lambda x: x.reshape(live.size, *x.shape[2:])  # noqa: E731
        by_chain = lambda x: x.reshape(*live.shape, *x.shape[1:])  # noqa: E731
        at_end = lambda x: jax.vmap(lambda row, step: row[step])(flat(x), flat(chains.depth))  # noqa: E731

        cache = dataclasses.replace(caches.policy, lengths=flat(size))
        samples, generation, usable, bare_end = draw_steps(
            policy, Generation(cache, at_end(caches.next_logits)), flat(turn_keys(keys, state.turn, growth.width)), flat(live),
            self.steps)
        read = jnp.where(usable & ~bare_end, samples.lengths, 0)
        cache = dataclasses.replace(caches.rewards, lengths=flat(size))
        scores, scoring = read_steps(reward_model, ScoreState(cache, at_end(caches.last), jnp.int32(0)), samples, read,
                                     self.steps)

        before, lengths, read = state.prompt_lengths[:, None] + size, by_chain(samples.lengths), by_chain(read)
        found = Candidates(by_chain(samples.tokens), lengths, by_chain(samples.log_probs.sum(1)), by_chain(scores), read > 0,
                           by_chain(usable), by_chain(samples.finished), before + lengths + room > self.steps.context)
        spent = spend(policy.config, reward_model.config, state.spent, before, lengths, read, room)
        behind = lambda x, new: chains.behind(x, by_chain(new), live)  # noqa: E731
        caches = RewindCaches(generation.cache, scoring.cache, behind(caches.next_logits, generation.next_logits),
                              behind(caches.last, scoring.last))
        return state.after(growth.grow(state.numbers, state.turn, keys, active, found), spent, active), caches
