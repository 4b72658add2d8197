"""The level engine: policy, reward model and selection as one compiled loop over levels, for a batch of problems.

    row      a step is drawn by the policy, read once by the reward model           rows of a problem share its prompt's cache
    level    all rows of a problem; a strategy selects which candidates go on       caches are reordered here only
    call     prompts, then levels until every problem has stopped                   one compiled program

Slots and rows: a level has C slots per problem. Only slots whose path goes on need a row of the caches, and rows are assigned
anew at each level, those that go on first. So when paths have ended, the search can go on in a program with fewer rows per
problem, and without the problems that have stopped (``compaction``): finished rows stop costing. And caches can begin with room
for short paths, and go on in a program with more (``doublings``): what is never written is not read.
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
from jaxprm.generation.sampler import SamplingConfig, start
from jaxprm.models.reward_model import PolicyRewardModel, RewardModel
from jaxprm.models.sharding import batch_parts, split_rows
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import Aggregation
from jaxprm.scoring.incremental import start_scores
from jaxprm.search.budget import LIMITS, Budget, Spent, no_costs, spend
from jaxprm.search.result import STOPS, SearchCosts, SearchResult, SearchTree, best_place
from jaxprm.search.rows import Models, Rows, Rules, Step, check_prompts, draw_step, next_entropies, no_scores
from jaxprm.search.strategies.base import Level, Strategy, first_of, pick
from jaxprm.search.values import path_values

_STOP = {name: code for code, name in enumerate(STOPS)}
_traced = 0  # programs traced by this process; a jitted function runs its Python code once per program


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
    """Paths, and the caches of those that go on."""

    level: Array
    paths: _Paths
    rows: Rows


def search(policy: LanguageModel | PolicyRewardModel, reward_model: RewardModel, key: jax.Array,
           prompts: Int[Array | np.ndarray, "B P"], lengths: Int[Array | np.ndarray, " B"], strategy: Strategy, *,
           max_steps: int, max_step_tokens: int, sampling: SamplingConfig = SamplingConfig(), aggregation: Aggregation = "min",
           separator_id: int, end_id: int, read_back: int = 0, budget: Budget = Budget(), compaction: int = 0,
           doublings: int = 0) -> SearchResult:
    """Searches B problems at once. Policy and reward model share token ids and prompt format.

    Under a mesh with Auto axes (`auto_axes`, `mesh_scope`) problems are split over data and fsdp, which must divide B; both
    models must lie there (`on_mesh`).

    Args:
      policy, reward_model: the same `PolicyRewardModel` twice if the policy is its own reward model: text is then read once for
        tokens and scores, and the reward model's only tokens are the last ones of steps (needs readout "at").
      key: one key per problem [B]: then a problem's result does not depend on the batch it is in. Of a single key each problem
        gets a part by its place.
      prompts, lengths: right-padded prompts.
      strategy: which candidates go on.
      max_steps: most levels.
      max_step_tokens: most tokens of a step; a step that does not end within them is discarded, and not read.
      sampling: how the policy draws tokens.
      aggregation: path value from step scores.
      separator_id, end_id: a step ends after its separator; the end token closes the solution (the reward model then reads the
        separator in its place).
      read_back: 1 if the reward model reads before the separator.
      budget: limits beside ``max_steps``.
      compaction: how often the rows per problem, and the problems, may be halved once fewer go on. Each size that is reached is
        one more compiled program, so it pays for long searches and models whose compilation is short beside them.
      doublings: how often the caches may double: they begin with room for the 2^doublings-th part of the longest path that
        ``max_steps`` and the context allow. Each size that is reached is one more program, too; no more memory is taken, and
        read for every token, than paths as long as these need.

    Raises:
      InputError: a setting is out of its range, or a prompt leaves no room for a step in a model's context.
    """
    begun, traced = time.monotonic(), _traced
    shared = policy is reward_model
    if shared and read_back:
        raise InputError("reads before the separator, which a policy that is its own reward model has read on from",
                         field="read_back", value=read_back, hint="give its policy() apart")
    policy = policy.policy() if shared else policy
    rules = Rules(max_steps, max_step_tokens, sampling, aggregation, separator_id, end_id, read_back, compaction > 0,
                  min(policy.config.context, reward_model.config.context), shared)
    lengths = np.asarray(lengths, np.int32)
    check_prompts(lengths, prompts.shape, rules)
    for field, value in (("compaction", compaction), ("doublings", doublings)):
        if value < 0:
            raise InputError("must not be negative", field=field, value=value)
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(lengths)))
    limits = np.array([np.inf if getattr(budget, name) is None else getattr(budget, name) for name in LIMITS], np.float32)

    models = Models(policy, reward_model)
    # No path grows beyond the context or the last level.
    longest = min(max_steps * max_step_tokens, rules.context)
    slots = -(-longest // 2**doublings)
    members, found, state, largest = np.arange(len(lengths)), None, None, (len(lengths), strategy.rows)
    while True:
        shape = largest if state is None else state.rows.slots.shape
        halves = [_halvings(size, full, compaction, parts) for size, full, parts in zip(shape, largest, (batch_parts(), 1))]
        until = (0 if state is None else int(state.level)) + 1 if budget.on_host else max_steps
        stops = jnp.asarray((until, *(sizes[1] if len(sizes) > 1 else 0 for sizes in halves)), jnp.int32)
        if state is None:
            given = keys, jnp.asarray(prompts, jnp.int32), jnp.asarray(lengths)
            state, counts = _begin(models, *given, jnp.asarray(limits), stops, strategy, rules, slots)
        else:
            state, counts = _run(models, *_apart(state), jnp.asarray(limits), stops, strategy, rules)
        *counts, longest_row = map(int, counts)  # problems that go on, the most rows of one of them that do
        over = budget.reached_on_host(time.monotonic() - begun, _traced - traced)
        if not counts[0] or over:
            break
        sizes = tuple(min(size for size in sizes if size >= count) for sizes, count in zip(halves, counts))
        if sizes != shape:
            found = _put(found, members, state.paths)
            state, going = _narrow(state, *sizes)
            members = members[np.asarray(going)]
        if longest_row > slots:
            while slots < longest_row:
                slots = min(2 * slots, longest)
            state = _grow(state, slots + _spare(strategy, rules))
    found = _put(found, members, state.paths)
    return _result(*found, keys, strategy, over, time.monotonic() - begun, _traced - traced)


def _halvings(size: int, full: int, count: int, parts: int) -> list[int]:
    """Sizes that may follow, this one first: each is half of the one before, in units of ``parts``, and none is more than
    ``count`` times halved."""
    allowed = [full]
    for _ in range(count):
        allowed.append(-(-allowed[-1] // (2 * parts)) * parts)
    return sorted({other for other in allowed if other <= size}, reverse=True)


def _trace() -> None:
    global _traced
    _traced += 1


def _spare(strategy: Strategy, rules: Rules) -> int:
    """Slots of a cache behind the longest path: lookahead, and rows that do not grow, write there."""
    return rules.max_step_tokens * (1 + strategy.lookahead)


@functools.partial(jax.jit, static_argnames=("strategy", "rules", "slots"))
def _begin(models: Models, keys, prompts, lengths, limits, stops, strategy: Strategy, rules: Rules,
           slots: int) -> tuple[_Search, tuple[Array, Array, Array]]:
    """Reads the prompts, and runs `_levels`: a whole search, unless its size changes or the host watches it."""
    _trace()
    return _levels(models, _start(models, keys, prompts, lengths, strategy, rules, slots), limits, stops, strategy, rules)


def _start(models: Models, keys, prompts, lengths, strategy: Strategy, rules: Rules, slots: int) -> _Search:
    prompts, lengths = split_rows((prompts, lengths))
    problems, wide, levels, room = prompts.shape[0], strategy.rows, rules.max_steps, rules.max_step_tokens
    capacity = slots + _spare(strategy, rules)
    nodes, places, none = (problems, levels, wide), (problems, wide), jnp.zeros((problems,), jnp.int32)
    tree = SearchTree(tokens=jnp.zeros((*nodes, room), jnp.int32), lengths=jnp.zeros(nodes, jnp.int32),
                      parents=jnp.full(nodes, -1, jnp.int32), scores=jnp.zeros(nodes), values=jnp.zeros(nodes) - jnp.inf,
                      kept=jnp.zeros(nodes, bool), finished=jnp.zeros(nodes, bool), log_probs=jnp.zeros(nodes),
                      entropy=jnp.zeros(nodes))
    alive = jnp.broadcast_to(jnp.arange(wide) < strategy.first_rows, places)
    paths = _Paths(scores=jnp.zeros((*places, levels)), steps=jnp.zeros(places, jnp.int32), tokens=jnp.zeros(places, jnp.int32),
                   finished=jnp.zeros(places, bool), alive=alive, parents=jnp.full(places, -1, jnp.int32),
                   texts=jnp.zeros(places, jnp.int32), stopped=none, prompts=lengths, keys=keys,
                   strategy=strategy.init(problems),
                   spent=no_costs(models.policy.config, None if rules.shared else models.reward.config, lengths,
                                  prompts.shape[1]), tree=tree)
    rows = Rows(jnp.broadcast_to(jnp.arange(wide, dtype=jnp.int32), places),
                start(models.policy, prompts, lengths, wide, capacity),
                no_scores(problems * wide) if rules.shared else
                start_scores(models.reward, prompts, lengths, wide, capacity))
    return split_rows(_Search(jnp.int32(0), paths, rows))


@functools.partial(jax.jit, static_argnames=("strategy", "rules"), donate_argnames="buffers")
def _run(models: Models, state: _Search, buffers: tuple, limits, stops, strategy: Strategy,
         rules: Rules) -> tuple[_Search, tuple[Array, Array, Array]]:
    """`_levels` of a search that has begun, in its caches, which are given up."""
    _trace()
    return _levels(models, _together(state, buffers), limits, stops, strategy, rules)


def _levels(models: Models, state: _Search, limits, stops, strategy: Strategy,
            rules: Rules) -> tuple[_Search, tuple[Array, Array, Array]]:
    """Levels until every problem has stopped, level ``stops[0]`` is reached, at most ``stops[1]`` problems go on, none of them
    in more than ``stops[2]`` rows, or the caches have no room for one more level; and these two numbers, and the most tokens
    that a row's cache holds."""

    slots = state.rows.policy.cache.capacity - _spare(strategy, rules)

    def counts(state):
        held = state.rows.policy.cache.lengths.max()
        return (state.paths.stopped == 0).sum(), _drawing(state.paths, rules).sum(1).max(), held

    def going(state):
        problems, rows, longest = counts(state)
        return (problems > stops[1]) & (rows > stops[2]) & (state.level < stops[0]) & (longest <= slots)

    state = jax.lax.while_loop(going, lambda state: _level(models, state, limits, strategy, rules), state)
    return state, counts(state)


def _apart(state: _Search) -> tuple[_Search, tuple]:
    """The state, and its large buffers: these are given up to the next call."""
    caches = state.rows.policy.cache, state.rows.rewards.cache
    return _together(state, ((), ()) * 2), tuple(x for cache in caches for x in (cache.keys, cache.values))


def _together(state: _Search, buffers: tuple) -> _Search:
    policy, rewards = state.rows.policy, state.rows.rewards
    first, second = (dataclasses.replace(part.cache, keys=keys, values=values) for part, keys, values in zip(
        (policy, rewards), buffers[::2], buffers[1::2]))
    return dataclasses.replace(state, rows=Rows(state.rows.slots, dataclasses.replace(policy, cache=first),
                                                dataclasses.replace(rewards, cache=second)))


def _drawing(paths: _Paths, rules: Rules) -> Array:
    """Slots bool[B, C] whose path goes on: not ended, of a problem that has not stopped, with room for one more step."""
    fits = paths.prompts[:, None] + paths.tokens + rules.max_step_tokens <= rules.context
    return paths.alive & ~paths.finished & fits & (paths.stopped == 0)[:, None]


def _level(models: Models, state: _Search, limits, strategy: Strategy, rules: Rules) -> _Search:
    paths, level = state.paths, state.level
    problems, wide = paths.alive.shape
    width = state.rows.slots.shape[1]
    keys = _fold(paths.keys, level)
    step, rows, spent = _draw(models, state, keys, strategy, rules)
    finished = paths.finished | step.ended
    usable = paths.alive & (paths.finished | step.closed)
    scores, steps = _with_step(paths, step)
    ahead = jnp.zeros((problems, wide, 0))
    if strategy.lookahead:
        ahead, rows, spent = _look_ahead(models, rows, _fold(keys, wide + 1), step, paths, spent, strategy, rules)
    texts = (paths.texts[:, :, None] == paths.texts[:, None]) & (step.tokens[:, :, None] == step.tokens[:, None]).all(-1)
    uncertain = next_entropies(rows, wide) if strategy.entropies else jnp.zeros_like(step.entropies)
    first = first_of(texts & usable[:, None] | jnp.eye(wide, dtype=bool))
    found = Level(jnp.zeros_like(step.score), scores, steps, finished, first,
                  step.entropies / jnp.maximum(step.lengths, 1), uncertain, step.log_probs, level, paths.strategy)
    found = dataclasses.replace(found, values=path_values(strategy, found, ahead, usable, rules.aggregation))

    selection = strategy.select(_fold(keys, wide), found)
    parents, alive = selection.parents, selection.alive & pick(usable, selection.parents)
    kept = jax.vmap(lambda parents, alive: jnp.zeros((wide,), bool).at[parents].max(alive))(parents, alive)
    nodes = SearchTree(*(x[:, None] for x in (
        step.tokens, step.lengths, jnp.where(paths.alive, paths.parents, -1), step.score, found.values, kept, finished & usable,
        step.log_probs, found.entropy)))
    tree = jax.tree.map(lambda all_, one: jax.lax.dynamic_update_slice_in_dim(all_, one, level, 1), paths.tree, nodes)
    spent = dataclasses.replace(spent, levels=spent.levels + (paths.stopped == 0))
    after = _Paths(scores=pick(scores, parents), steps=pick(steps, parents), tokens=pick(paths.tokens + step.lengths, parents),
                   finished=pick(finished, parents), alive=alive, parents=parents, texts=pick(found.first, parents),
                   stopped=paths.stopped, prompts=paths.prompts, keys=paths.keys, strategy=selection.state, spent=spent,
                   tree=tree)
    after = dataclasses.replace(after, stopped=_stopped(after, level + 1, spent.reached(limits), rules))
    after = dataclasses.replace(after, alive=alive & (after.stopped == 0)[:, None])
    if strategy.reorders or rules.compacts:
        # The rows of the next level: the slots that go on first; each continues the row of its parent.
        slots = jnp.argsort(~_drawing(after, rules), axis=1, stable=True)[:, :width].astype(jnp.int32)
        rows = rows.gather(slots, pick(rows.row_of(wide), pick(parents, slots)))
    return split_rows(_Search(level + 1, after, rows))


def _fold(keys: jax.Array, number: Array | int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _with_step(paths: _Paths, step: Step) -> tuple[Array, Array]:
    """Scores and number of steps of the paths with the newest one; an end token alone is no step."""
    new = (step.lengths > 0) & ~step.empty
    place = jnp.arange(paths.scores.shape[-1]) == paths.steps[..., None]
    return jnp.where(place & new[..., None], step.score[..., None], paths.scores), paths.steps + new


def _draw(models: Models, state: _Search, keys: jax.Array, strategy: Strategy, rules: Rules) -> tuple[Step, Rows, Spent]:
    """One step of every slot that goes on; with early rejection in two parts, the second for the survivors only."""
    paths, rows = state.paths, state.rows
    drawing, begin = _drawing(paths, rules), paths.prompts[:, None] + paths.tokens
    models_costs = functools.partial(spend, models.policy.config, models.reward.config)
    part = min(strategy.partial_tokens, rules.max_step_tokens)
    in_parts = 0 < part < rules.max_step_tokens
    step, rows = draw_step(models, rows, keys, drawing, rules, rules.sampling, part if in_parts else rules.max_step_tokens,
                           entropies=strategy.entropies, beginnings=in_parts)
    spent = models_costs(paths.spent, begin, step.lengths, step.read, step.tokens.shape[-1])
    if not in_parts:
        return step, rows, spent
    scores, steps = _with_step(paths, step)
    zeros = jnp.zeros_like(step.score)
    found = Level(zeros, scores, steps, step.ended, jnp.broadcast_to(jnp.arange(zeros.shape[1]), zeros.shape), zeros, zeros,
                  step.log_probs, state.level, paths.strategy)
    none = jnp.zeros((*zeros.shape, 0))
    found = dataclasses.replace(found, values=path_values(strategy, found, none, drawing, rules.aggregation))
    survivors = strategy.survivors(found, drawing)
    width = strategy.most_survivors(rows.slots.shape[1])
    order = jnp.argsort(~pick(survivors, rows.slots), axis=1, stable=True)[:, :width]
    rows = rows.gather(pick(rows.slots, order), order)
    rest, rows = draw_step(models, rows, keys, survivors & ~step.closed, rules, rules.sampling, rules.max_step_tokens - part,
                           before=part, entropies=strategy.entropies)
    spent = models_costs(spent, begin + step.lengths, rest.lengths, rest.read, rest.tokens.shape[-1])
    step = step.then(rest)
    return dataclasses.replace(step, closed=step.closed & survivors, ended=step.ended & survivors), rows, spent


def _look_ahead(models: Models, rows: Rows, keys: jax.Array, step: Step, paths: _Paths, spent: Spent, strategy: Strategy,
                rules: Rules) -> tuple[Array, Rows, Spent]:
    """Scores [B, C, A] of the steps drawn behind the newest, NaN where there is none; the rows are as they were."""
    sampling = dataclasses.replace(rules.sampling, temperature=0.0) if strategy.greedy_lookahead else rules.sampling
    begin = paths.prompts[:, None] + paths.tokens + step.lengths

    def further(carry, number):
        drawing, begin, ahead, spent = carry
        drawing &= begin + rules.max_step_tokens <= rules.context
        step, ahead = draw_step(models, ahead, _fold(keys, number), drawing, rules, sampling, rules.max_step_tokens)
        spent = spend(models.policy.config, models.reward.config, spent, begin, step.lengths, step.read, rules.max_step_tokens)
        score = jnp.where((step.read > 0) & step.closed, step.score, jnp.nan)
        return (drawing & step.closed & ~step.ended, begin + step.lengths, ahead, spent), score

    carry = (step.closed & ~step.ended, begin, rows, spent)
    (_, _, ahead, spent), scores = jax.lax.scan(further, carry, jnp.arange(strategy.lookahead))
    return jnp.moveaxis(scores, 0, -1), ahead.back_to(rows), spent


def _stopped(paths: _Paths, level: Array, limit: Array, rules: Rules) -> Array:
    """Why problems have stopped (indices of `STOPS`), 0 for those that go on."""
    reasons = [(~(paths.alive & ~paths.finished).any(1), _STOP["finished"]), (limit > 0, _STOP[LIMITS[0]] + limit - 1),
               (level >= rules.max_steps, _STOP["steps"]), (~_drawing(paths, rules).any(1), _STOP["context"])]
    stopped = jnp.zeros_like(paths.stopped)
    for is_so, code in reversed(reasons):
        stopped = jnp.where(is_so, code, stopped)
    return jnp.where(paths.stopped > 0, paths.stopped, stopped)


@functools.partial(jax.jit, static_argnames=("problems", "width"))
def _narrow(state: _Search, problems: int, width: int) -> tuple[_Search, Array]:
    """The problems that go on, and the first rows of each; a problem that has stopped fills up where fewer go on."""
    _trace()
    rows, old = state.rows, state.rows.slots.shape[1]
    chosen = jnp.argsort(state.paths.stopped > 0, stable=True)[:problems]
    kept = (chosen[:, None] * old + jnp.arange(width)).reshape(-1)

    def take(x, index):
        return jax.tree.map(lambda leaf: leaf[index], x)

    def cache(whole):
        return dataclasses.replace(take(dataclasses.replace(whole, prompt=None), kept), prompt=take(whole.prompt, chosen))

    policy = dataclasses.replace(rows.policy, cache=cache(rows.policy.cache), next_logits=rows.policy.next_logits[kept])
    rewards = dataclasses.replace(rows.rewards, cache=cache(rows.rewards.cache), last=rows.rewards.last[kept])
    narrow = _Search(state.level, take(state.paths, chosen), Rows(rows.slots[chosen][:, :width], policy, rewards))
    return split_rows(narrow), chosen


@functools.partial(jax.jit, static_argnames="capacity")
def _grow(state: _Search, capacity: int) -> _Search:
    """Caches with room for ``capacity`` tokens of each row."""
    _trace()
    policy, rewards = (dataclasses.replace(part, cache=part.cache.with_room(capacity))
                       for part in (state.rows.policy, state.rows.rewards))
    return dataclasses.replace(state, rows=Rows(state.rows.slots, policy, rewards))


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


def _result(tree: SearchTree, spent: Spent, stopped: np.ndarray, keys: jax.Array, strategy: Strategy, over: str, seconds: float,
            compilations: int) -> SearchResult:
    problems, levels, wide = tree.values.shape
    depth = np.broadcast_to(np.arange(levels)[:, None], (levels, wide))
    values = np.asarray(strategy.rank(keys, tree.values.reshape(problems, -1))).reshape(tree.values.shape)
    pools = tree.kept & (depth == spent.levels[:, None, None] - 1) if strategy.population else [None] * problems
    best = np.array([best_place(*one) for one in zip(values, tree.finished, pools)], np.int32)
    at = (np.arange(problems), *best.T)
    stopped = np.where(stopped == 0, _STOP.get(over, 0), stopped).astype(np.int32)
    costs = SearchCosts(spent.policy_tokens, spent.reward_tokens, spent.policy_forwards, spent.reward_forwards, spent.flops,
                        seconds, compilations)
    return SearchResult(tree, *best.T, tree.values[at], tree.finished[at], spent.levels, stopped, costs)
