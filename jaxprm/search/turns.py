"""What searches over nodes share: settings, drawing and scoring a step per row, and the loop of turns on the device.

A search over nodes is a frozen dataclass of rules that can ``start`` (read the prompts) and take a ``turn``; `run_turns`
compiles both and checks budgets between turns.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxprm.errors import InputError
from jaxprm.generation.sampler import Generation, Samples, SamplingConfig, generate
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import AGGREGATIONS, Aggregation
from jaxprm.scoring.incremental import ScoreState, extend_scores
from jaxprm.search.budget import LIMITS, Budget, Spent, read_flops
from jaxprm.search.result import SearchCosts

_traced = 0  # programs traced by this process


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How steps are drawn, read and valued; see `tree_search`."""

    max_steps: int
    max_step_tokens: int
    sampling: SamplingConfig
    aggregation: Aggregation
    separator_id: int
    end_id: int
    read_back: int

    def __post_init__(self):
        for field in ("max_steps", "max_step_tokens"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.aggregation not in AGGREGATIONS:
            raise InputError(f"must be one of {', '.join(AGGREGATIONS)}", field="aggregation", value=self.aggregation)
        if self.read_back not in (0, 1):
            raise InputError("must be 0 or 1", field="read_back", value=self.read_back)


@runtime_checkable
class Turns(Protocol):
    """A search over nodes. Its state has ``turn`` int32[], ``spent`` `Spent` and ``stopped`` bool[B]; what is large is apart,
    in caches that are given up to the next call."""

    @property
    def turns(self) -> int:
        """After so many the search stops."""
        ...

    @property
    def steps(self) -> StepSettings: ...

    def start(self, policy: LanguageModel, reward_model: RewardModel, prompts: Int[Array, "B P"],
              lengths: Int[Array, " B"]) -> tuple[Any, Any]:
        """State and caches after the prompts were read, once each."""
        ...

    def turn(self, policy: LanguageModel, reward_model: RewardModel, keys: jax.Array, state, caches, active: Bool[Array, " B"],
             prompt_size: int) -> tuple[Any, Any]:
        """State and caches one turn later; problems that are not active stay as they are."""
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


def no_steps(problems: int, nodes: int, settings: StepSettings) -> Steps:
    """Room for the nodes of B problems."""
    numbers = jnp.zeros((problems, nodes))
    counts = numbers.astype(jnp.int32)
    return Steps(jnp.zeros((problems, nodes, settings.max_step_tokens), jnp.int32), counts, counts, numbers, numbers - jnp.inf,
                 numbers)


def put_nodes(old: Shaped[Array, "B N ..."], first: Int[Array, ""], new: Shaped[Array, "B M ..."]) -> Shaped[Array, "B N ..."]:
    """Values of the nodes ``first`` .. ``first + M - 1``."""
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), first, 1)


def draw_steps(policy: LanguageModel, generation: Generation, keys: jax.Array, active: Bool[Array, " R"],
               settings: StepSettings) -> tuple[Samples, Generation, Bool[Array, " R"], Bool[Array, " R"]]:
    """One step per active row, and which have ended (by their separator or the end token) and which are a bare end token: the
    solution ends, and there is no new step."""
    samples, generation = generate(policy, generation, keys, active, settings.sampling, settings.max_step_tokens,
                                   settings.end_id, settings.separator_id)
    last = jnp.take_along_axis(samples.tokens, jnp.maximum(samples.lengths - 1, 0)[:, None], axis=1)[:, 0]
    bare_end = samples.finished & (samples.lengths == 1)
    return samples, generation, ((last == settings.separator_id) | samples.finished) & active, bare_end


def read_steps(reward_model: RewardModel, scoring: ScoreState, samples: Samples, lengths: Int[Array, " R"],
               settings: StepSettings) -> tuple[Float[Array, " R"], ScoreState]:
    """Scores of the steps; rows of length 0 are not read. The reward model reads the separator in place of the end token."""
    tokens = jnp.where(samples.tokens == settings.end_id, settings.separator_id, samples.tokens)
    return extend_scores(reward_model, scoring, tokens, lengths, settings.read_back)


def first_costs(policy: LanguageModel, reward_model: RewardModel, lengths: Int[Array, " B"], prompt_size: int) -> Spent:
    """What reading the prompts has cost."""
    none = jnp.zeros_like(lengths)
    flops = sum(read_flops(model.config, none, lengths, prompt_size, False) for model in (policy, reward_model))
    flops += 2.0 * policy.config.width * policy.config.vocab_size
    return Spent(none, lengths, none + 1, none + 1, flops, none)


def spend(policy: LanguageModel, reward_model: RewardModel, spent: Spent, before: Int[Array, "B C"], drawn: Int[Array, "B C"],
          read: Int[Array, "B C"], longest: int, active: Bool[Array, " B"]) -> Spent:
    """Adds a turn: C rows per problem drew and read so many tokens after ``before`` others, no row more than ``longest``."""
    flops = (read_flops(policy.config, before, drawn, longest, True)
             + read_flops(reward_model.config, before, read, longest, False)).sum(1)
    return Spent(spent.policy_tokens + drawn.sum(1), spent.reward_tokens + read.sum(1),
                 spent.policy_forwards + drawn.max(1), spent.reward_forwards + (read > 0).any(1), spent.flops + flops,
                 spent.levels + active)


def run_turns(policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array | np.ndarray, "B P"],
              lengths: Int[Array | np.ndarray, " B"], rules: Turns, budget: Budget) -> tuple[Any, list[str], SearchCosts]:
    """Turns until every problem has stopped: the last state, why each problem stopped ("" = by its rules, "turns", or the name
    of a limit), and what it cost.

    Raises:
      InputError: a prompt leaves no room for a step in a model's context.
    """
    begun, traced = time.monotonic(), _traced
    lengths = np.asarray(lengths, np.int32)
    _check(policy, reward_model, lengths, prompts.shape, rules.steps.max_step_tokens)
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(lengths)))
    limits = np.array([np.inf if getattr(budget, name) is None else getattr(budget, name) for name in LIMITS], np.float32)
    state, caches = _start(policy, reward_model, jnp.asarray(prompts, jnp.int32), jnp.asarray(lengths), rules)
    turns = np.int32(rules.turns if budget.seconds is None else 1)
    while True:
        state, caches = _run(policy, reward_model, keys, state, caches, limits, turns, prompts.shape[1], rules)
        late = budget.seconds is not None and time.monotonic() - begun >= budget.seconds
        if late or int(state.turn) >= rules.turns or not bool(_going(state, limits).any()):
            break
    spent, stopped, reached = jax.device_get((state.spent, state.stopped, state.spent.reached(jnp.asarray(limits))))
    last = "turns" if int(state.turn) >= rules.turns else "seconds"
    why = ["" if by_rule else LIMITS[limit - 1] if limit else last for by_rule, limit in zip(stopped, reached)]
    costs = SearchCosts(spent.policy_tokens, spent.reward_tokens, spent.policy_forwards, spent.reward_forwards, spent.flops,
                        time.monotonic() - begun, _traced - traced)
    return state, why, costs


def _check(policy: LanguageModel, reward_model: RewardModel, lengths: np.ndarray, shape: tuple[int, ...], room: int) -> None:
    if len(shape) != 2 or lengths.shape != shape[:1] or not shape[0]:
        raise InputError("needs prompts [B, P] and lengths [B] of at least one problem", field="lengths", value=lengths.shape)
    if lengths.min() < 1 or lengths.max() > shape[1]:
        raise InputError(f"must be between 1 and {shape[1]}, the width of the prompts", field="lengths",
                         value=(int(lengths.min()), int(lengths.max())))
    for name, model in (("policy", policy), ("reward_model", reward_model)):
        if lengths.max() + room > model.config.context:
            raise InputError(f"the prompt of problem {int(lengths.argmax())} and a step of {room} need more than the {name}'s "
                             f"context of {model.config.context} tokens", field="lengths", value=int(lengths.max()),
                             hint="leave the problem out, or use a model with a longer context")


def _going(state, limits) -> Bool[Array, " B"]:
    return ~state.stopped & (state.spent.reached(jnp.asarray(limits)) == 0)


@functools.partial(jax.jit, static_argnames="rules")
def _start(policy, reward_model, prompts, lengths, rules: Turns):
    global _traced
    _traced += 1
    return rules.start(policy, reward_model, prompts, lengths)


@functools.partial(jax.jit, static_argnames=("prompt_size", "rules"), donate_argnames="caches")
def _run(policy, reward_model, keys, state, caches, limits, turns, prompt_size: int, rules: Turns):
    """Up to ``turns`` turns, or until every problem has stopped."""
    global _traced
    _traced += 1
    until = jnp.minimum(state.turn + turns, rules.turns)

    def going(carry):
        return (carry[0].turn < until) & _going(carry[0], limits).any()

    def body(carry):
        state, caches = carry
        return rules.turn(policy, reward_model, keys, state, caches, _going(state, limits), prompt_size)

    return jax.lax.while_loop(going, body, (state, caches))
