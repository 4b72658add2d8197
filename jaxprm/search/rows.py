"""The rows of a search: one step of each is drawn by the policy and read by the reward model.

Arrays are by row [B, R] here and by slot [B, C] in `engine`; ``slots[b, j]`` is the slot of row j of problem b.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.generation.sampler import Generation, SamplingConfig, entropy, generate
from jaxprm.models.cache import KVCache
from jaxprm.models.reward_model import PolicyRewardModel, RewardModel
from jaxprm.models.sharding import batch_parts, is_explicit
from jaxprm.models.transformer import LanguageModel, extend
from jaxprm.scoring.aggregation import AGGREGATIONS, Aggregation
from jaxprm.scoring.incremental import ScoreState, extend_scores
from jaxprm.search.strategies.base import pick


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is static in a compiled search beside the strategy."""

    max_steps: int
    max_step_tokens: int
    sampling: SamplingConfig
    aggregation: Aggregation
    separator_id: int
    end_id: int
    read_back: int
    compacts: bool
    context: int
    shared: bool = False  # the policy is its own reward model

    def __post_init__(self):
        for field in ("max_steps", "max_step_tokens"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.aggregation not in AGGREGATIONS:
            raise InputError(f"must be one of {', '.join(AGGREGATIONS)}", field="aggregation", value=self.aggregation)
        if self.read_back not in (0, 1):
            raise InputError("must be 0 or 1", field="read_back", value=self.read_back)


def check_prompts(lengths: np.ndarray, shape: tuple[int, ...], rules: Rules) -> None:
    """Right-padded prompts of this shape and these lengths leave room for a step, and suit the mesh if there is one.

    Raises:
      InputError: they do not.
    """
    if len(shape) != 2 or lengths.shape != shape[:1] or not shape[0]:
        raise InputError("needs prompts [B, P] and lengths [B] of at least one problem", field="lengths", value=lengths.shape)
    if lengths.min() < 1 or lengths.max() > shape[1]:
        raise InputError(f"must be between 1 and {shape[1]}, the width of the prompts", field="lengths",
                         value=(int(lengths.min()), int(lengths.max())))
    if lengths.max() + rules.max_step_tokens > rules.context:
        raise InputError(f"the prompt of problem {int(lengths.argmax())} and a step of {rules.max_step_tokens} tokens do not "
                         f"fit into the context of {rules.context} tokens that both models have", field="lengths",
                         value=int(lengths.max()), hint="leave the problem out, or use models with a longer context")
    if is_explicit():
        raise InputError("searches do not run with Explicit axes", field="mesh", hint="set jaxprm.models.auto_axes(mesh)")
    if shape[0] % batch_parts():
        raise InputError(f"the mesh splits problems into {batch_parts()} equal parts", field="prompts", value=shape[0],
                         hint="search so many problems at a time that they can be split, or choose another mesh")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Models:
    """Both models of a search."""

    policy: LanguageModel
    reward: RewardModel


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """What both models have read, by row."""

    slots: Int[Array, "B R"]
    policy: Generation
    rewards: ScoreState

    def gather(self, slots: Int[Array, "B N"], sources: Int[Array, "B N"]) -> Rows:
        """Rows of these slots; row j of problem b continues row ``sources[b, j]``."""
        problems, old = self.slots.shape
        logits = pick(self.policy.next_logits.reshape(problems, old, -1), sources).reshape(sources.size, -1)
        return Rows(slots, Generation(self.policy.cache.gather(sources), logits), self.rewards.gather(sources))

    def back_to(self, earlier: Rows) -> Rows:
        """The earlier state in the buffers of this one: what was written since lies behind the lengths and is overwritten."""
        policy, rewards = (dataclasses.replace(new, lengths=old.lengths) for new, old in (
            (self.policy.cache, earlier.policy.cache), (self.rewards.cache, earlier.rewards.cache)))
        return Rows(earlier.slots, Generation(policy, earlier.policy.next_logits),
                    dataclasses.replace(earlier.rewards, cache=rewards))

    def to_slots(self, values: Array, slots: int) -> Array:
        """[B * R, ...] by row -> [B, C, ...] by slot, zero where a slot has no row."""
        problems, width = self.slots.shape
        values = values.reshape(problems, width, *values.shape[1:])
        empty = jnp.zeros((problems, slots, *values.shape[2:]), values.dtype)
        return jax.vmap(lambda slot, row, place: slot.at[place].set(row))(empty, values, self.slots)

    def row_of(self, slots: int) -> Int[Array, "B C"]:
        """The row of each slot that has one, 0 for others."""
        rows = jnp.arange(self.slots.shape[1], dtype=jnp.int32)
        return jax.vmap(lambda place: jnp.zeros((slots,), jnp.int32).at[place].set(rows))(self.slots)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
    """A step (or a part of one) of each slot; zero and False where nothing was drawn.

    tokens int32[B, C, L] and lengths int32[B, C] as the policy wrote them; read int32[B, C]: tokens the reward model read;
    score float32[B, C]; closed: ended by a separator or the end token; ended: by the end token; empty: the end token is all
    there is; log_probs and entropies float32[B, C]: sums over the tokens.
    """

    tokens: Array
    lengths: Array
    read: Array
    score: Array
    closed: Array
    ended: Array
    empty: Array
    log_probs: Array
    entropies: Array

    def then(self, rest: Step) -> Step:
        """This beginning of a step, and the rest where it went on."""
        longer = rest.lengths > 0
        return Step(jnp.concatenate([self.tokens, rest.tokens], axis=-1), self.lengths + rest.lengths, self.read + rest.read,
                    jnp.where(longer, rest.score, self.score), self.closed | rest.closed, self.ended | rest.ended,
                    self.empty | rest.empty, self.log_probs + rest.log_probs, self.entropies + rest.entropies)


def draw_step(models: Models, rows: Rows, keys: jax.Array, drawing: Bool[Array, "B C"], rules: Rules, sampling: SamplingConfig,
              limit: int, before: int = 0, entropies: bool = False, beginnings: bool = False) -> tuple[Step, Rows]:
    """Up to ``limit`` tokens for every slot that is drawing, and its score.

    Args:
      keys: [B]; a slot draws the same whatever rows there are.
      before: tokens of the same step that were drawn already.
      beginnings: the reward model also reads steps that have not ended; otherwise it is spared what is discarded.
    """
    wide = drawing.shape[1]
    row_keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys, rows.slots.shape[1]), rows.slots.reshape(-1))
    samples, policy = generate(models.policy, rows.policy, row_keys, pick(drawing, rows.slots).reshape(-1), sampling, limit,
                               rules.end_id, rules.separator_id, entropies=entropies, before=before)
    last = jnp.take_along_axis(samples.tokens, jnp.maximum(samples.lengths - 1, 0)[:, None], axis=1)[:, 0]
    empty = samples.finished & (samples.lengths == 1) & (before == 0)  # the solution ends, there is no new step
    step_tokens = jnp.where(samples.tokens == rules.end_id, rules.separator_id, samples.tokens)
    closed = (last == rules.separator_id) | samples.finished
    read = jnp.where(empty | ~(closed | beginnings), 0, samples.lengths)
    if rules.shared:
        read = jnp.minimum(read, 1)
        (score, policy), rewards = own_scores(models.reward, policy, step_tokens, samples.lengths, read > 0), rows.rewards
    else:
        # The beginning of a step has no separator to read before.
        back = jnp.where(closed, rules.read_back, 0)
        score, rewards = extend_scores(models.reward, rows.rewards, step_tokens, read, back)
    uncertain = jnp.zeros_like(score) if samples.entropies is None else samples.entropies.sum(1)
    step = Step(samples.tokens, samples.lengths, read, score, closed, samples.finished, empty, samples.log_probs.sum(1),
                uncertain)
    rows = Rows(rows.slots, policy, rewards)
    return jax.tree.map(lambda values: rows.to_slots(values, wide), step), rows


def own_scores(model: PolicyRewardModel, state: Generation, step_tokens: Int[Array, "R L"], lengths: Int[Array, " R"],
               read: Bool[Array, " R"]) -> tuple[Float[Array, " R"], Generation]:
    """Scores of steps that the same model has just written: their last tokens alone are read once more, as the separator where
    a step was closed by the end token. Equal to `extend_scores` with readout "at"; 0 for rows that do not ``read``."""
    last = jnp.take_along_axis(step_tokens, jnp.maximum(lengths - 1, 0)[:, None], axis=1)
    count = read.astype(jnp.int32)
    before = dataclasses.replace(state.cache, lengths=state.cache.lengths - count)
    hidden, cache = extend(model.backbone, before, last, count)
    return jnp.where(read, model.head.score(model.outputs(hidden[:, 0])), 0.0), Generation(cache, state.next_logits)


def no_scores(rows: int) -> ScoreState:
    """What stands for the reward model's state where the policy is its own."""
    none = jnp.zeros((rows,), jnp.int32)
    return ScoreState(KVCache((), (), none), none[:, None].astype(jnp.float32), jnp.int32(0))


def next_entropies(rows: Rows, slots: int) -> Array:
    """Entropy float32[B, C] of the token that comes next, nats."""
    return rows.to_slots(entropy(rows.policy.next_logits), slots)
