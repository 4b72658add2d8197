"""What compiled searches over nodes share: drawing and scoring a step per row, and the loop of turns on the device.

A search over nodes is a frozen dataclass that knows how its trees grow (`jaxprm.search.growth`), can ``start`` (read the
prompts) and take a ``turn``; `run_turns` compiles both and checks budgets between turns.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.generation.sampler import Generation, Samples, generate
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.sharding import split_rows
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.incremental import ScoreState, extend_scores
from jaxprm.search.budget import LIMITS, Budget, Spent, no_costs
from jaxprm.search.growth import Growth, why_stopped
from jaxprm.search.result import SearchCosts
from jaxprm.search.rows import Rules, check_prompts

_traced = 0  # programs traced by this process


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What is known of B problems between turns; what is large is apart, in caches that are given up to the next call.

    Attributes:
      turn: int32[], turns that were taken.
      prompt_lengths: int32[B].
      numbers: of the search's `Growth`.
      spent: what it has cost so far; ``levels`` counts turns.
    """

    turn: Int[Array, ""]
    prompt_lengths: Int[Array, " B"]
    numbers: Any
    spent: Spent

    def after(self, numbers, spent: Spent, active: Bool[Array, " B"]) -> State:
        """One turn later."""
        spent = dataclasses.replace(spent, levels=spent.levels + active)
        return State(self.turn + 1, self.prompt_lengths, numbers, spent)


@runtime_checkable
class Turns(Protocol):
    """A compiled search over nodes."""

    @property
    def growth(self) -> Growth: ...

    @property
    def steps(self) -> Rules: ...

    def start(self, policy: LanguageModel, reward_model: RewardModel, prompts: Int[Array, "B P"],
              lengths: Int[Array, " B"]) -> Any:
        """Caches after the prompts were read, once each."""
        ...

    def turn(self, policy: LanguageModel, reward_model: RewardModel, keys: jax.Array, state: State, caches,
             active: Bool[Array, " B"], prompt_size: int) -> tuple[State, Any]:
        """State and caches one turn later; problems that are not active stay as they are."""
        ...


def draw_steps(policy: LanguageModel, generation: Generation, keys: jax.Array, active: Bool[Array, " R"],
               rules: Rules) -> tuple[Samples, Generation, Bool[Array, " R"], Bool[Array, " R"]]:
    """One step per active row, and which have ended (by their separator or the end token) and which are a bare end token: the
    solution ends, and there is no new step."""
    samples, generation = generate(policy, generation, keys, active, rules.sampling, rules.max_step_tokens,
                                   rules.end_id, rules.separator_id)
    last = jnp.take_along_axis(samples.tokens, jnp.maximum(samples.lengths - 1, 0)[:, None], axis=1)[:, 0]
    bare_end = samples.finished & (samples.lengths == 1)
    return samples, generation, ((last == rules.separator_id) | samples.finished) & active, bare_end


def read_steps(reward_model: RewardModel, scoring: ScoreState, samples: Samples, lengths: Int[Array, " R"],
               rules: Rules) -> tuple[Float[Array, " R"], ScoreState]:
    """Scores of the steps; rows of length 0 are not read. The reward model reads the separator in place of the end token."""
    tokens = jnp.where(samples.tokens == rules.end_id, rules.separator_id, samples.tokens)
    return extend_scores(reward_model, scoring, tokens, lengths, rules.read_back)


def run_turns(policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array | np.ndarray, "B P"],
              lengths: Int[Array | np.ndarray, " B"], search: Turns, budget: Budget) -> tuple[Any, list[str], SearchCosts]:
    """Turns until every problem has stopped: the last numbers, on the host, why each problem stopped ("" = by its rules,
    "turns", or the name of a limit), and what it cost. Runs on meshes as `jaxprm.search.engine.search` does.

    Raises:
      InputError: a prompt leaves no room for a step in a model's context.
    """
    begun, traced = time.monotonic(), _traced
    lengths = np.asarray(lengths, np.int32)
    check_prompts(lengths, prompts.shape, search.steps)
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(lengths)))
    limits = np.array([np.inf if getattr(budget, name) is None else getattr(budget, name) for name in LIMITS], np.float32)
    most = search.growth.turns
    turns = np.int32(1 if budget.on_host else most)
    given = jnp.asarray(prompts, jnp.int32), jnp.asarray(lengths)
    state, caches = _begin(policy, reward_model, keys, *given, limits, turns, search)
    while True:
        over = budget.reached_on_host(time.monotonic() - begun, _traced - traced)
        if over or int(state.turn) >= most or not bool(_going(state, limits).any()):
            break
        state, caches = _run(policy, reward_model, keys, state, caches, limits, turns, prompts.shape[1], search)
    numbers, spent, reached = jax.device_get((state.numbers, state.spent, state.spent.reached(jnp.asarray(limits))))
    why = why_stopped(numbers.stopped, [LIMITS[limit - 1] if limit else "" for limit in reached],
                      "turns" if int(state.turn) >= most else over)
    costs = SearchCosts(spent.policy_tokens, spent.reward_tokens, spent.policy_forwards, spent.reward_forwards, spent.flops,
                        time.monotonic() - begun, _traced - traced)
    return numbers, why, costs


def _going(state: State, limits) -> Bool[Array, " B"]:
    return ~state.numbers.stopped & (state.spent.reached(jnp.asarray(limits)) == 0)


@functools.partial(jax.jit, static_argnames="search")
def _begin(policy, reward_model, keys, prompts, lengths, limits, turns, search: Turns):
    """Reads the prompts, and runs `_turns`: a whole search, unless the host watches it."""
    global _traced
    _traced += 1
    prompts, lengths = split_rows((prompts, lengths))
    state = State(jnp.int32(0), lengths, search.growth.first(len(lengths), search.steps.max_step_tokens),
                  no_costs(policy.config, reward_model.config, lengths, prompts.shape[1]))
    state, caches = split_rows((state, search.start(policy, reward_model, prompts, lengths)))
    return _turns(policy, reward_model, keys, state, caches, limits, turns, prompts.shape[1], search)


@functools.partial(jax.jit, static_argnames=("prompt_size", "search"), donate_argnames="caches")
def _run(policy, reward_model, keys, state, caches, limits, turns, prompt_size: int, search: Turns):
    """`_turns` of a search that has begun, in its caches, which are given up."""
    global _traced
    _traced += 1
    return _turns(policy, reward_model, keys, state, caches, limits, turns, prompt_size, search)


def _turns(policy, reward_model, keys, state, caches, limits, turns, prompt_size: int, search: Turns):
    """Up to ``turns`` turns, or until every problem has stopped."""
    until = jnp.minimum(state.turn + turns, search.growth.turns)

    def going(carry):
        return (carry[0].turn < until) & _going(carry[0], limits).any()

    def body(carry):
        state, caches = carry
        return split_rows(search.turn(policy, reward_model, keys, state, caches, _going(state, limits), prompt_size))

    return jax.lax.while_loop(going, body, (state, caches))
