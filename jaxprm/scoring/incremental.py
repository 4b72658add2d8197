"""Incremental scoring: a reward model that reads each new step once and keeps the rest in its cache."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprm.models.cache import KVCache, empty_cache
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import extend, prefill

_PIECE = 64  # tokens of a step that are read at once, and the least for which a loop is worth while
_LEAST = 16


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

    Long rooms L are read in equal pieces of at most 64 tokens up to the end of the longest step, so that reading costs what
    steps are long and not what they might be; a room without such parts (a prime number) is read at once.

    Args:
      step_tokens: right-padded ids of the step including its separator; needs room for L tokens in the cache.
      lengths: int32[R]; a row of length 0 reads nothing, its score is 0 and its state stays.
      read_back: 0 if the score is read at the step's last token (readout "at"), 1 for the token before it; of all rows, or of
        each.

    Returns:
      float32[R] scores in [0, 1], equal to `score_steps` on the whole solution, and the longer state.
    """
    room = step_tokens.shape[1]
    size, layers = piece(room), model.backbone.layers()

    def read_piece(start, cache, read, last):
        tokens = jax.lax.dynamic_slice_in_dim(step_tokens, start, size, 1)
        hidden, cache = extend(model.backbone, cache, tokens, jnp.clip(lengths - start, 0, size), layers)

        def found(at, before):  # what stands at these places of the step, if they are in this piece
            at = at - start
            return jnp.where(((at >= 0) & (at < size))[:, None], _at(hidden, jnp.minimum(at, size - 1)), before)

        return start + size, cache, found(lengths - 1 - read_back, read), found(lengths - 1, last)

    carry = jnp.int32(0), state.cache, state.last, state.last
    if size == room:
        carry = read_piece(*carry)
    else:
        carry = jax.lax.while_loop(lambda carry: carry[0] < lengths.max(), lambda carry: read_piece(*carry), carry)
    _, cache, read, last = carry
    scores = jnp.where(lengths > 0, model.head.score(model.outputs(read)), 0.0)
    return scores, ScoreState(cache, last, state.tokens_read + lengths.sum().astype(jnp.int32))


def piece(room: int) -> int:
    """Tokens that are read at once of steps of up to ``room`` tokens.

    In:  40   100   256   97
    Out: 40    50    64   97
    """
    return next((room // count for count in range(-(-room // _PIECE), room // _LEAST + 1) if room % count == 0), room)
