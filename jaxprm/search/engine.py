"""The level engine: policy, reward model and selection as one compiled loop over levels, for a batch of problems.

    row      a step is drawn by the policy, read once by the reward model           rows of a problem share its prompt's cache
    level    all rows of a problem; a strategy selects which candidates go on       caches are reordered here only
    call     levels until every problem has stopped                                 one compiled program

Slots and rows: a level has C slots per problem. Only slots whose path goes on need a row of the caches, and rows are assigned
anew at each level, those that go on first. So when paths have ended, the search can go on in a program with fewer rows per
problem, and without the problems that have stopped (``compaction``): finished rows stop costing.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxprm.errors import InputError
from jaxprm.generation.sampler import Generation, SamplingConfig, generate, start
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import AGGREGATIONS, Aggregation, aggregate
from jaxprm.scoring.incremental import ScoreState, extend_scores, start_scores
from jaxprm.search.budget import LIMITS, Budget, Spent, read_flops
from jaxprm.search.result import STOPS, SearchCosts, SearchResult, SearchTree
from jaxprm.search.strategies.base import Level, Strategy, pick

_STOP = {name: code for code, name in enumerate(STOPS)}
_traced = 0  # programs traced by this process; a jitted function runs its Python code once per program


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What is static in a program beside the strategy."""

    max_steps: int
    max_step_tokens: int
    sampling: SamplingConfig
    aggregation: Aggregation
    separator_id: int
    end_id: int
    read_back: int
    compacts: bool

    def __post_init__(self):
        for field in ("max_steps", "max_step_tokens"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.aggregation not in AGGREGATIONS:
            raise InputError(f"must be one of {', '.join(AGGREGATIONS)}", field="aggregation", value=self.aggregation)
        if self.read_back not in (0, 1):
            raise InputError("must be 0 or 1", field="read_back", value=self.read_back)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Paths:
    """State of B problems between levels, by slot.

    scores float32[B, C, S] and steps int32[B, C] of each slot's path, its tokens int32[B, C] behind the prompt; finished: it
    had ended before this level; alive: the slot has a path at all; parents int32[B, C]; texts int32[B, C]: equal for slots
    that continue the same text; stopped int32[B]: index of `STOPS`.
    """

    scores: Array
    steps: Array
    tokens: Array
    finished: Array
    alive: Array
    parents: Array
    texts: Array
    stopped: Array
    prompts: Array
    keys: Array
    strategy: Any
    spent: Spent
    tree: SearchTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    """Paths, and the caches of those that go on: row j of problem b belongs to slot ``slots[b, j]``."""

    level: Array
    paths: _Paths
    slots: Int[Array, "B R"]
    policy: Generation
    rewards: ScoreState


def search(policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array | np.ndarray, "B P"],
           lengths: Int[Array | np.ndarray, " B"], strategy: Strategy, *, max_steps: int, max_step_tokens: int,
           sampling: SamplingConfig = SamplingConfig(), aggregation: Aggregation = "min", separator_id: int, end_id: int,
           read_back: int = 0, budget: Budget = Budget(), compaction: int = 0) -> SearchResult:
    """Searches B problems at once. Policy and reward model share token ids and prompt format.

    Args:
      key: one key per problem [B]: then a problem's result does not depend on the batch it is in. Of a single key each problem
        gets a part by its place.
      prompts, lengths: right-padded prompts.
      strategy: which candidates go on.
      max_steps: most levels.
      max_step_tokens: most tokens of a step; a step that does not end within them is discarded.
      sampling: how the policy draws tokens.
      aggregation: path value from step scores.
      separator_id, end_id: a step ends after its separator; the end token closes the solution (the reward model then reads the
        separator in its place).
      read_back: 1 if the reward model reads before the separator.
      budget: limits beside ``max_steps``.
      compaction: how often the rows per problem, and the problems, may be halved once fewer go on. Each size that is reached is
        one more compiled program, so it pays for long searches and models whose compilation is short beside them.

    Raises:
      InputError: a setting is out of its range, or a prompt leaves no room for a step in a model's context.
    """
    begun, traced = time.monotonic(), _traced
    rules = _Rules(max_steps, max_step_tokens, sampling, aggregation, separator_id, end_id, read_back, compaction > 0)
    lengths = np.asarray(lengths, np.int32)
    _check(policy, reward_model, lengths, prompts.shape, rules, compaction)
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(lengths)))
    limits = np.array([np.inf if getattr(budget, name) is None else getattr(budget, name) for name in LIMITS], np.float32)

    state = _start(policy, reward_model, keys, jnp.asarray(prompts, jnp.int32), jnp.asarray(lengths), strategy, rules)
    members, found = np.arange(len(lengths)), None
    while True:
        halves = [_halvings(size, full, compaction) for size, full in zip(state.slots.shape, (len(lengths), strategy.rows))]
        until = max_steps if budget.seconds is None else int(state.level) + 1
        stops = jnp.asarray((until, *(sizes[1] if len(sizes) > 1 else 0 for sizes in halves)), jnp.int32)
        state, counts = _run(policy, reward_model, *_apart(state), jnp.asarray(limits), stops, strategy, rules)
        counts = [int(count) for count in counts]  # problems that go on, and the most rows of one of them that do
        if not counts[0] or (budget.seconds is not None and time.monotonic() - begun >= budget.seconds):
            break
        sizes = tuple(min(size for size in sizes if size >= count) for sizes, count in zip(halves, counts))
        if sizes != state.slots.shape:
            found = _put(found, members, state.paths)
            state, going = _narrow(state, *sizes)
            members = members[np.asarray(going)]
    found = _put(found, members, state.paths)
    return _result(*found, keys, strategy, time.monotonic() - begun, _traced - traced)


def _check(policy: LanguageModel, reward_model: RewardModel, lengths: np.ndarray, shape: tuple[int, ...], rules: _Rules,
           compaction: int) -> None:
    if compaction < 0:
        raise InputError("must not be negative", field="compaction", value=compaction)
    if len(shape) != 2 or lengths.shape != shape[:1] or not shape[0]:
        raise InputError("needs prompts [B, P] and lengths [B] of at least one problem", field="lengths", value=lengths.shape)
    if lengths.min() < 1 or lengths.max() > shape[1]:
        raise InputError(f"must be between 1 and {shape[1]}, the width of the prompts", field="lengths",
                         value=(int(lengths.min()), int(lengths.max())))
    for name, model in (("policy", policy), ("reward_model", reward_model)):
        if lengths.max() + rules.max_step_tokens > model.config.context:
            raise InputError(f"the prompt of problem {int(lengths.argmax())} and a step of {rules.max_step_tokens} need more "
                             f"than the {name}'s context of {model.config.context} tokens", field="lengths",
                             value=int(lengths.max()), hint="leave the problem out, or use a model with a longer context")


def _halvings(size: int, full: int, count: int) -> list[int]:
    """Sizes that may follow, this one first: each is half of the one before, and none is more than ``count`` times halved."""
    allowed = [full]
    for _ in range(count):
        allowed.append(-(-allowed[-1] // 2))
    return sorted({other for other in allowed if other <= size}, reverse=True)


def _trace() -> None:
    global _traced
    _traced += 1


@functools.partial(jax.jit, static_argnames=("strategy", "rules"))
def _start(policy, reward_model, keys, prompts, lengths, strategy: Strategy, rules: _Rules) -> _Search:
    _trace()
    problems, wide, levels, room = prompts.shape[0], strategy.rows, rules.max_steps, rules.max_step_tokens
    # No path grows beyond the context or the last level, and rows that do not grow write one step's slots in vain.
    context = min(policy.config.context, reward_model.config.context)
    capacity = min(levels * room, context) + room
    nodes, slots, none = (problems, levels, wide), (problems, wide), jnp.zeros((problems,), jnp.int32)
    tree = SearchTree(tokens=jnp.zeros((*nodes, room), jnp.int32), lengths=jnp.zeros(nodes, jnp.int32),
                      parents=jnp.full(nodes, -1, jnp.int32), scores=jnp.zeros(nodes), values=jnp.full(nodes, -jnp.inf),
                      kept=jnp.zeros(nodes, bool), finished=jnp.zeros(nodes, bool), log_probs=jnp.zeros(nodes),
                      entropy=jnp.zeros(nodes))
    prompt_flops = sum(read_flops(model.config, none, lengths, prompts.shape[1], False) for model in (policy, reward_model))
    spent = Spent(none, lengths, none + 1, none + 1, prompt_flops + 2.0 * policy.config.width * policy.config.vocab_size, none)
    alive = jnp.broadcast_to(jnp.arange(wide) < strategy.first_rows, slots)
    paths = _Paths(scores=jnp.zeros((*slots, levels)), steps=jnp.zeros(slots, jnp.int32), tokens=jnp.zeros(slots, jnp.int32),
                   finished=jnp.zeros(slots, bool), alive=alive, parents=jnp.full(slots, -1, jnp.int32),
                   texts=jnp.zeros(slots, jnp.int32), stopped=none, prompts=lengths, keys=keys,
                   strategy=strategy.init(problems), spent=spent, tree=tree)
    order = jnp.broadcast_to(jnp.arange(wide, dtype=jnp.int32), slots)
    return _Search(jnp.int32(0), paths, order, start(policy, prompts, lengths, wide, capacity),
                   start_scores(reward_model, prompts, lengths, wide, capacity))


@functools.partial(jax.jit, static_argnames=("strategy", "rules"), donate_argnames="buffers")
def _run(policy, reward_model, state: _Search, buffers: tuple, limits, stops, strategy: Strategy,
         rules: _Rules) -> tuple[_Search, tuple[Array, Array]]:
    """Levels until every problem has stopped, level ``stops[0]`` is reached, at most ``stops[1]`` problems go on, or none of
    them in more than ``stops[2]`` rows; and these two numbers."""
    _trace()
    state = _together(state, buffers)
    context = min(policy.config.context, reward_model.config.context)

    def counts(state):
        drawing = _drawing(state.paths, rules, context)
        return (state.paths.stopped == 0).sum(), drawing.sum(1).max()

    def going(state):
        problems, rows = counts(state)
        return (problems > stops[1]) & (rows > stops[2]) & (state.level < stops[0])

    state = jax.lax.while_loop(
        going, lambda state: _level(policy, reward_model, state, limits, strategy, rules, context), state)
    return state, counts(state)


def _apart(state: _Search) -> tuple[_Search, tuple]:
    """The state, and its large buffers: these are given up to the next call."""
    caches = state.policy.cache, state.rewards.cache
    return _together(state, ((), ()) * 2), tuple(x for cache in caches for x in (cache.keys, cache.values))


def _together(state: _Search, buffers: tuple) -> _Search:
    policy, rewards = (dataclasses.replace(cache, keys=keys, values=values) for cache, keys, values in zip(
        (state.policy.cache, state.rewards.cache), buffers[::2], buffers[1::2]))
    return dataclasses.replace(state, policy=dataclasses.replace(state.policy, cache=policy),
                               rewards=dataclasses.replace(state.rewards, cache=rewards))


def _drawing(paths: _Paths, rules: _Rules, context: int) -> Array:
    """Slots bool[B, C] whose path goes on: not ended, of a problem that has not stopped, with room for one more step."""
    fits = paths.prompts[:, None] + paths.tokens + rules.max_step_tokens <= context
    return paths.alive & ~paths.finished & fits & (paths.stopped == 0)[:, None]


def _level(policy, reward_model, state: _Search, limits, strategy: Strategy, rules: _Rules, context: int) -> _Search:
    paths, level, slots = state.paths, state.level, state.slots
    problems, wide = paths.alive.shape
    width = slots.shape[1]
    fold = lambda keys, numbers: jax.vmap(jax.random.fold_in)(keys, numbers)  # noqa: E731
    keys = fold(paths.keys, jnp.full((problems,), level))
    row_keys = fold(jnp.repeat(keys, width), slots.reshape(-1))  # by slot: the same draws whatever rows there are
    select_keys = fold(keys, jnp.full((problems,), wide))
    drawing = _drawing(paths, rules, context)

    samples, policy_state = generate(policy, state.policy, row_keys, pick(drawing, slots).reshape(-1), rules.sampling,
                                     rules.max_step_tokens, rules.end_id, rules.separator_id, entropies=strategy.entropies)
    last = jnp.take_along_axis(samples.tokens, jnp.maximum(samples.lengths - 1, 0)[:, None], axis=1)[:, 0]
    bare_end = samples.finished & (samples.lengths == 1)  # the end token alone: the solution ends, there is no new step
    closed = (last == rules.separator_id) | samples.finished
    step_tokens = jnp.where(samples.tokens == rules.end_id, rules.separator_id, samples.tokens)
    read = jnp.where(bare_end, 0, samples.lengths)
    score, rewards = extend_scores(reward_model, state.rewards, step_tokens, read, rules.read_back)

    def per_slot(x):  # rows -> slots; zero where a slot has no row
        x = x.reshape(problems, width, *x.shape[1:])
        empty = jnp.zeros((problems, wide, *x.shape[2:]), x.dtype)
        return jax.vmap(lambda slot, row, place: slot.at[place].set(row))(empty, x, slots)

    tokens, lengths, read, score, closed, bare_end, ended, log_probs = map(per_slot, (
        samples.tokens, samples.lengths, read, score, closed, bare_end, samples.finished, samples.log_probs.sum(1)))
    entropy = per_slot(samples.entropies.sum(1)) / jnp.maximum(lengths, 1) if strategy.entropies else jnp.zeros_like(score)
    new_step = drawing & ~bare_end
    place = jnp.arange(rules.max_steps)
    scores = jnp.where((place == paths.steps[..., None]) & new_step[..., None], score[..., None], paths.scores)
    steps = paths.steps + new_step
    finished = paths.finished | (drawing & ended)
    usable = paths.alive & (paths.finished | (drawing & closed))
    values = jnp.where(usable, aggregate(scores, place < steps[..., None], rules.aggregation), -jnp.inf)
    same = (paths.texts[:, :, None] == paths.texts[:, None]) & (tokens[:, :, None] == tokens[:, None]).all(-1)
    same = (same & usable[:, None]) | jnp.eye(wide, dtype=bool)
    first = jnp.argmax(same, axis=2).astype(jnp.int32)

    found = Level(values, scores, steps, finished, first, entropy, log_probs, level, paths.strategy)
    found = dataclasses.replace(found, values=jnp.where(usable, strategy.value(found), -jnp.inf))
    selection = strategy.select(select_keys, found)
    running = paths.stopped == 0
    kept = jax.vmap(lambda parents, alive: jnp.zeros((wide,), bool).at[parents].max(alive))(selection.parents, selection.alive)
    nodes = dict(tokens=tokens, lengths=lengths, parents=jnp.where(paths.alive, paths.parents, -1), scores=score,
                 values=found.values, kept=kept & usable, finished=finished & usable, log_probs=log_probs, entropy=entropy)
    tree = SearchTree(**{name: jax.lax.dynamic_update_index_in_dim(getattr(paths.tree, name), value, level, 1)
                         for name, value in nodes.items()})
    spent = _spend(policy, reward_model, paths, lengths, read, running)

    parents = selection.parents
    alive = selection.alive & pick(usable, parents)
    after = _Paths(scores=pick(scores, parents), steps=pick(steps, parents), tokens=pick(paths.tokens + lengths, parents),
                   finished=pick(finished, parents), alive=alive, parents=parents, texts=pick(first, parents),
                   stopped=paths.stopped, prompts=paths.prompts, keys=paths.keys, strategy=selection.state, spent=spent,
                   tree=tree)
    after = dataclasses.replace(after, stopped=_stopped(after, level + 1, spent.reached(limits), rules, context))
    after = dataclasses.replace(after, alive=alive & (after.stopped == 0)[:, None])
    drawing = _drawing(after, rules, context)
    if not (strategy.reorders or rules.compacts):
        return _Search(level + 1, after, slots, policy_state, rewards)
    # The rows of the next level: the slots that go on first; each continues the row of its parent.
    row_of = jax.vmap(lambda place: jnp.zeros((wide,), jnp.int32).at[place].set(jnp.arange(width, dtype=jnp.int32)))(slots)
    slots = jnp.argsort(~drawing, axis=1, stable=True)[:, :width].astype(jnp.int32)
    source = pick(row_of, pick(parents, slots))
    logits = policy_state.next_logits.reshape(problems, width, -1)
    return _Search(level + 1, after, slots,
                   Generation(policy_state.cache.gather(source), pick(logits, source).reshape(problems * width, -1)),
                   rewards.gather(source))


def _spend(policy, reward_model, paths: _Paths, lengths: Array, read: Array, running: Array) -> Spent:
    spent, start = paths.spent, paths.prompts[:, None] + paths.tokens
    longest = paths.tree.tokens.shape[-1]
    flops = (read_flops(policy.config, start, lengths, longest, True)
             + read_flops(reward_model.config, start, read, longest, False)).sum(1)
    return Spent(spent.policy_tokens + lengths.sum(1), spent.reward_tokens + read.sum(1),
                 spent.policy_forwards + lengths.max(1), spent.reward_forwards + (read > 0).any(1),
                 spent.flops + flops, spent.levels + running)


def _stopped(paths: _Paths, level: Array, limit: Array, rules: _Rules, context: int) -> Array:
    """Why problems have stopped (indices of `STOPS`), 0 for those that go on."""
    open_ = (paths.alive & ~paths.finished).any(1)
    fits = _drawing(paths, rules, context).any(1)
    reasons = [(~open_, _STOP["finished"]), (limit > 0, _STOP[LIMITS[0]] + limit - 1),
               (level >= rules.max_steps, _STOP["steps"]), (~fits, _STOP["context"])]
    stopped = jnp.zeros_like(paths.stopped)
    for is_so, code in reversed(reasons):
        stopped = jnp.where(is_so, code, stopped)
    return jnp.where(paths.stopped > 0, paths.stopped, stopped)


@functools.partial(jax.jit, static_argnames=("problems", "rows"))
def _narrow(state: _Search, problems: int, rows: int) -> tuple[_Search, Array]:
    """The problems that go on, and the first rows of each; a problem that has stopped fills up where fewer go on."""
    _trace()
    old = state.slots.shape[1]
    chosen = jnp.argsort(state.paths.stopped > 0, stable=True)[:problems]
    kept = (chosen[:, None] * old + jnp.arange(rows)).reshape(-1)

    def take(x, index):
        return jax.tree.map(lambda leaf: leaf[index], x)

    def cache(whole):
        return dataclasses.replace(take(dataclasses.replace(whole, prompt=None), kept), prompt=take(whole.prompt, chosen))

    rewards = dataclasses.replace(state.rewards, cache=cache(state.rewards.cache), last=state.rewards.last[kept])
    return _Search(state.level, take(state.paths, chosen), state.slots[chosen][:, :rows],
                   Generation(cache(state.policy.cache), state.policy.next_logits[kept]), rewards), chosen


def _put(found: tuple | None, members: np.ndarray, paths: _Paths) -> tuple[SearchTree, Spent, np.ndarray]:
    """What is known of some of the problems on the host, put among what is known of all."""
    known = jax.device_get((paths.tree, paths.spent, paths.stopped))
    if found is None:
        return known

    def put(all_, some):
        all_ = np.array(all_)
        all_[members] = some
        return all_

    return jax.tree.map(put, found, known)


def _result(tree: SearchTree, spent: Spent, stopped: np.ndarray, keys: jax.Array, strategy: Strategy, seconds: float,
            compilations: int) -> SearchResult:
    problems, levels, wide = tree.values.shape
    depth = np.broadcast_to(np.arange(levels)[:, None], (levels, wide))
    values = np.asarray(strategy.rank(keys, tree.values.reshape(problems, -1))).reshape(tree.values.shape)
    usable = values > -np.inf
    if strategy.population:
        usable &= depth == spent.levels[:, None, None] - 1
    # Finished before unfinished, of the unfinished ones the deepest, then the best; lexsort's last key counts most.
    best = np.zeros((problems, 2), np.int32)
    for problem in range(problems):
        ended = tree.finished[problem]
        order = np.lexsort((np.where(usable[problem], -values[problem], 0).ravel(), np.where(ended, 0, -depth).ravel(),
                            ~ended.ravel(), ~usable[problem].ravel()))
        best[problem] = np.divmod(order[0], wide)
    at = (np.arange(problems), *best.T)
    stopped = np.where(stopped == 0, _STOP["seconds"], stopped).astype(np.int32)
    costs = SearchCosts(spent.policy_tokens, spent.reward_tokens, spent.policy_forwards, spent.reward_forwards, spent.flops,
                        seconds, compilations)
    return SearchResult(tree, *best.T, tree.values[at], tree.finished[at], spent.levels, stopped, costs)
