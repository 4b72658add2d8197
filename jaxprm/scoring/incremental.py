"""Incremental scoring: a reward model that reads each new step once and keeps the rest in its cache."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprm.models.cache import KVCache, empty_cache
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import extend, prefill


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoreState:
    """What the reward model has read of R = B * W solutions.

    Attributes:
      cache: keys and values.
      last: hidden state of the last token read, where the score of an empty step is read with readout "before".
      tokens_read: int32[], every token it was given, each prompt once.
    """

    cache: KVCache
    last: Float[Array, "R D"]
    tokens_read: Int[Array, ""]

    def gather(self, parents: Int[Array, "B W"]) -> ScoreState:
        """Row (b, w) of the result continues row (b, parents[b, w])."""
        problems, width = parents.shape
        last = self.last.reshape(problems, -1, self.last.shape[1])
        last = jnp.take_along_axis(last, parents[..., None], axis=1).reshape(problems * width, -1)
        return dataclasses.replace(self, cache=self.cache.gather(parents), last=last)


def start_scores(model: RewardModel, prompts: Int[Array, "B P"], lengths: Int[Array, " B"], width: int,
                 capacity: int) -> ScoreState:
    """Reads each prompt once, for ``width`` rows per problem with room for ``capacity`` tokens of solution each."""
    hidden, prompt = prefill(model.backbone, prompts, lengths)
    rows = prompts.shape[0] * width
    last = jnp.repeat(_at(hidden, lengths - 1), width, axis=0, total_repeat_length=rows)
    return ScoreState(empty_cache(model.config, rows, capacity, prompt), last, lengths.sum().astype(jnp.int32))


def _at(hidden: Float[Array, "R L D"], index: Int[Array, " R"]) -> Float[Array, "R D"]:
    return jax.vmap(lambda row, i: row[i])(hidden, jnp.maximum(index, 0))


def extend_scores(model: RewardModel, state: ScoreState, step_tokens: Int[Array, "R L"],
                  lengths: Int[Array, " R"], read_back: int | Int[Array, " R"] = 0) -> tuple[Float[Array, " R"], ScoreState]:
    """Reads one more step per row and returns its score.

    Args:
      step_tokens: right-padded ids of the step including its separator; needs room for L tokens in the cache.
      lengths: int32[R]; a row of length 0 reads nothing, its score is 0 and its state stays.
      read_back: 0 if the score is read at the step's last token (readout "at"), 1 for the token before it; of all rows, or of
        each.

    Returns:
      float32[R] scores in [0, 1], equal to `score_steps` on the whole solution, and the longer state.
    """
    hidden, cache = extend(model.backbone, state.cache, step_tokens, lengths)
    at = lengths - 1 - read_back
    read = jnp.where(at[:, None] >= 0, _at(hidden, at), state.last)
    scores = jnp.where(lengths > 0, model.head.score(model.outputs(read)), 0.0)
    last = jnp.where(lengths[:, None] > 0, _at(hidden, lengths - 1), state.last)
    return scores, ScoreState(cache, last, state.tokens_read + lengths.sum().astype(jnp.int32))
