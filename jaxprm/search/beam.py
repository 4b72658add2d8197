"""Step-level beam search as one compiled program: policy, reward model and selection stay on device.

Caches are reordered only when a level is selected, the prompt's keys and values exist once per problem, and the reward model
reads every new step once.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxprm.errors import InputError
from jaxprm.generation.sampler import Generation, SamplingConfig, generate, start
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import AGGREGATIONS, Aggregation, aggregate
from jaxprm.scoring.incremental import ScoreState, extend_scores, start_scores
from jaxprm.search.result import SearchResult, SearchTree


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """Beam search over steps.

    Attributes:
      beam_width: paths kept per problem after each level, W.
      expansions: steps sampled per kept path, M; C = W * M candidates per level (at level 0 all of them continue the prompt).
      max_steps: most levels.
      max_step_tokens: most tokens of a step; a step that does not end within them is discarded.
      aggregation: path value from step scores.
      sampling: how the policy draws tokens.

    A finished path keeps competing by its value and holds its place in the beam, but is not expanded and costs nothing more.
    Candidates that say the same as an earlier one come after all others, so that copies of one path cannot fill the beam.
    Ties go to the candidate with the lower index.
    """

    beam_width: int = 2
    expansions: int = 4
    max_steps: int = 12
    max_step_tokens: int = 16
    aggregation: Aggregation = "min"
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self):
        for field in ("beam_width", "expansions", "max_steps", "max_step_tokens"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.aggregation not in AGGREGATIONS:
            raise InputError(f"must be one of {', '.join(AGGREGATIONS)}", field="aggregation", value=self.aggregation)

    @property
    def candidates(self) -> int:
        """C, candidates per problem and level."""
        return self.beam_width * self.expansions


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Beams:
    """State between levels; rows are B * C candidates that continue the paths selected last."""

    policy: Generation
    rewards: ScoreState
    scores: Array  # float32[B, C, S], step scores of each row's path, -1 where it has no step yet
    finished: Array  # bool[B, C], the path had ended before this level
    alive: Array  # bool[B, C], the row has a path at all
    parents: Array  # int32[B, C]
    paths: Array  # int32[B, C], equal for rows that continue the same text
    tree: SearchTree
    policy_tokens: Array
    reward_tokens: Array


def beam_search(policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array, "B P"],
                lengths: Int[Array, " B"], config: BeamConfig, *, separator_id: int, end_id: int,
                read_back: int = 0) -> SearchResult:
    """Searches B problems at once. Policy and reward model share token ids and prompt format.

    Args:
      prompts, lengths: right-padded prompts.
      separator_id, end_id: a step ends after its separator; the end token closes the solution (the reward model then reads
        the separator in its place).
      read_back: 1 if the reward model reads before the separator.

    Compile with ``config`` and the ids static.
    """
    problems, wide, levels, room = prompts.shape[0], config.candidates, config.max_steps, config.max_step_tokens
    capacity = (levels + 1) * room  # rows that no longer grow still write (and overwrite) their next step's slots
    nodes = (problems, levels, wide)
    tree = SearchTree(jnp.zeros((*nodes, room), jnp.int32), jnp.zeros(nodes, jnp.int32), jnp.full(nodes, -1, jnp.int32),
                      jnp.zeros(nodes), jnp.full(nodes, -jnp.inf), jnp.zeros(nodes, bool), jnp.zeros(nodes, bool))
    nothing = jnp.zeros((problems, wide), bool)
    beams = _Beams(start(policy, prompts, lengths, wide, capacity),
                   start_scores(reward_model, prompts, lengths, wide, capacity),
                   jnp.full((problems, wide, levels), -1.0), nothing, ~nothing, jnp.full((problems, wide), -1, jnp.int32),
                   jnp.zeros((problems, wide), jnp.int32), tree, jnp.zeros((problems,), jnp.int32), lengths.astype(jnp.int32))

    def going(carry):
        level, beams = carry
        return (level < levels) & (beams.alive & ~beams.finished).any()

    def body(carry):
        level, beams = carry
        return level + 1, _level(policy, reward_model, jax.random.fold_in(key, level), level, beams, config, separator_id,
                                 end_id, read_back)

    count, beams = jax.lax.while_loop(going, body, (jnp.int32(0), beams))
    return _choose(beams, count)


def _level(policy, reward_model, key, level, beams: _Beams, config: BeamConfig, separator_id, end_id, read_back) -> _Beams:
    problems, wide = beams.alive.shape
    active = beams.alive & ~beams.finished
    samples, policy_state = generate(policy, beams.policy, key, active.reshape(-1), config.sampling, config.max_step_tokens,
                                     end_id, separator_id)
    last = jnp.take_along_axis(samples.tokens, jnp.maximum(samples.lengths - 1, 0)[:, None], axis=1)[:, 0]
    bare_end = samples.finished & (samples.lengths == 1)  # the end token alone: the solution ends, there is no new step
    closed = (last == separator_id) | samples.finished
    step_tokens = jnp.where(samples.tokens == end_id, separator_id, samples.tokens)
    read = jnp.where(bare_end, 0, samples.lengths)
    score, rewards = extend_scores(reward_model, beams.rewards, step_tokens, read, read_back)

    per_problem = lambda x: x.reshape(problems, wide, *x.shape[1:])  # noqa: E731
    score, closed, bare_end, ended = map(per_problem, (score, closed, bare_end, samples.finished))
    new_step = active & ~bare_end
    steps_before = _steps(beams.scores)
    place = jnp.arange(config.max_steps) == steps_before[..., None]
    scores = jnp.where(place & new_step[..., None], score[..., None], beams.scores)
    mask = jnp.arange(config.max_steps) < (steps_before + new_step)[..., None]
    usable = beams.alive & (beams.finished | closed)
    values = jnp.where(usable, aggregate(jnp.maximum(scores, 0.0), mask, config.aggregation), -jnp.inf)
    finished = beams.finished | (active & ended)

    text = per_problem(samples.tokens)
    same = (beams.paths[:, :, None] == beams.paths[:, None]) & (text[:, :, None] == text[:, None]).all(-1)
    first = jnp.argmax(same, axis=2).astype(jnp.int32)  # the first candidate that says what this one says
    best, chosen = jax.lax.top_k(jnp.where(first < jnp.arange(wide), values - 2.0, values), config.beam_width)
    kept = (jnp.arange(wide) == chosen[..., None]).any(1) & usable
    tree = beams.tree
    nodes = dict(tokens=per_problem(samples.tokens), lengths=per_problem(samples.lengths), parents=beams.parents,
                 scores=score, values=values, kept=kept, finished=finished & usable)
    tree = dataclasses.replace(tree, **{
        name: jax.lax.dynamic_update_index_in_dim(getattr(tree, name), value, level, 1) for name, value in nodes.items()})

    # Each kept path becomes `expansions` rows; of a finished one only the first row stays, to compete but not to grow.
    parents = jnp.repeat(chosen, config.expansions, axis=1).astype(jnp.int32)
    copy = jnp.arange(wide) % config.expansions
    pick = lambda x: jnp.take_along_axis(x, parents.reshape(problems, wide, *[1] * (x.ndim - 2)), axis=1)  # noqa: E731
    path_finished = pick(finished)
    return _Beams(
        policy=Generation(policy_state.cache.gather(parents), pick(per_problem(policy_state.next_logits)).reshape(
            problems * wide, -1)),
        rewards=rewards.gather(parents), scores=pick(jnp.where(mask, scores, -1.0)), finished=path_finished,
        alive=jnp.repeat(best > -jnp.inf, config.expansions, axis=1) & ~(path_finished & (copy > 0)), parents=parents,
        paths=pick(first), tree=tree,
        policy_tokens=beams.policy_tokens + per_problem(samples.lengths).sum(1),
        reward_tokens=beams.reward_tokens + per_problem(read).sum(1))


def _steps(scores: Array) -> Array:
    """Number of steps of each path."""
    return (scores >= 0).sum(-1)


def _choose(beams: _Beams, count: Array) -> SearchResult:
    tree = beams.tree
    problems, levels, wide = tree.values.shape
    last = jnp.maximum(count - 1, 0)
    values = jax.lax.dynamic_index_in_dim(tree.values, last, 1, keepdims=False)
    finished = jax.lax.dynamic_index_in_dim(tree.finished, last, 1, keepdims=False)
    best = jnp.argmax(jnp.where(finished, values + 2.0, values), axis=1).astype(jnp.int32)
    at = lambda x: jnp.take_along_axis(x, best[:, None], axis=1)[:, 0]  # noqa: E731
    return SearchResult(tree, jnp.full((problems,), last, jnp.int32), best, at(values), at(finished), beams.policy_tokens,
                        beams.reward_tokens, count)
