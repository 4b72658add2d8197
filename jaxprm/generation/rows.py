"""Sampled tokens on device -> rows that models can read: where steps end, which step a token belongs to."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.generation.sampler import Samples
from jaxprm.steps.batch import StepBatch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SolutionRows:
    """Prompts and their sampled solutions, one solution per row.

    Attributes:
      batch: as a reward model reads them: an end token that closes a step stands as the separator. Labels are unset.
      tokens: int32[R, T], as the policy wrote them.
      generated: bool[R, T], tokens of the solution (the end token included).
      step_of_token: int32[R, T], step that a generated token belongs to, -1 elsewhere.
      log_probs: float32[R, T] of the generated tokens when they were drawn, 0 elsewhere.
      complete: bool[R], the solution has ended and all its steps fit into the S places.
    """

    batch: StepBatch
    tokens: Int[Array | np.ndarray, "R T"]
    generated: Bool[Array | np.ndarray, "R T"]
    step_of_token: Int[Array | np.ndarray, "R T"]
    log_probs: Float[Array | np.ndarray, "R T"]
    complete: Bool[Array | np.ndarray, " R"]


def solution_rows(prompts: Int[Array, "B P"], lengths: Int[Array, " B"], samples: Samples, *, separator_id: int,
                  end_id: int, steps: int, read_back: int = 0) -> SolutionRows:
    """Puts each sample behind its prompt, without a gap, and finds its steps.

        prompt [q ?], P = 3; sample [a | b E .]        (| = separator, E = end)
        tokens         [q ? a | b E .]
        step_of_token  [- - 0 0 1 1 -]
        batch.tokens   [q ? a | b | .]
        step_ends      [3 5]

    A step ends at a separator, or at an end token with text before it; text that stops without either (cut off at the
    length limit) is no step. An empty step (a separator right behind a separator) is a step.

    Args:
      prompts, lengths: right-padded prompts; R = B * W samples follow them.
      steps: S, places for steps; further ones are left out and the row is not ``complete``.
      read_back: 1 if scores are read before the separator (readout "before").
    """
    rows, room = samples.tokens.shape
    width, size = rows // prompts.shape[0], prompts.shape[1] + room
    starts = jnp.repeat(lengths, width, total_repeat_length=rows)[:, None]
    column = jnp.arange(size, dtype=jnp.int32)
    generated = (column >= starts) & (column < starts + samples.lengths[:, None])
    source = jnp.clip(column - starts, 0, room - 1)
    sampled = jnp.take_along_axis(samples.tokens, source, axis=1)
    prompt = jnp.pad(jnp.repeat(prompts, width, axis=0, total_repeat_length=rows), ((0, 0), (0, room)))
    tokens = jnp.where(generated, sampled, jnp.where(column < starts, prompt, 0))

    separator = generated & (tokens == separator_id)
    first = generated & jnp.pad(separator[:, :-1] | (column[1:] == starts), ((0, 0), (1, 0)))  # first token of a step
    end = generated & (tokens == end_id) & ~first
    ends = separator | end
    before = jnp.cumsum(ends, axis=1) - ends  # steps closed before this token
    index = jnp.where(generated, before, -1).astype(jnp.int32)
    # Column of the s-th step end: ends sorted to the front, the rest pushed behind the row.
    order = jnp.sort(jnp.where(ends, column, size), axis=1)[:, :steps].astype(jnp.int32)
    order = jnp.pad(order, ((0, 0), (0, max(0, steps - size))), constant_values=size)
    step_mask = order < size
    count = ends.sum(axis=1)
    batch = StepBatch(
        tokens=jnp.where(end, separator_id, tokens), positions=jnp.broadcast_to(column, tokens.shape),
        segment_ids=(generated | (column < starts)).astype(jnp.int32),
        step_ends=jnp.where(step_mask, order - read_back, 0), step_mask=step_mask,
        labels=jnp.zeros((rows, steps), jnp.float32), label_mask=jnp.zeros((rows, steps), bool),
        weights=jnp.ones((rows, steps), jnp.float32))
    drawn = jnp.where(generated, jnp.take_along_axis(samples.log_probs, source, axis=1), 0.0)
    return SolutionRows(batch, tokens, generated, jnp.where(index < count[:, None], index, -1), drawn,
                        samples.finished & (count <= steps))
