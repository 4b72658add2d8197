"""The device form of step-labelled solutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepBatch:
    """B rows of T tokens with up to S steps each; a row may hold several solutions (packing).

    Attributes:
      tokens: int32[B, T].
      positions: int32[B, T], position within the token's own solution.
      segment_ids: int32[B, T], 0 = padding, 1.. = the solutions of the row.
      step_ends: int32[B, S], index (in the row) of the token whose hidden state carries the score of step s.
      step_mask: bool[B, S], which of the S places hold a step.
      labels: float32[B, S] in [0, 1], read only where ``label_mask``.
      label_mask: bool[B, S].
      weights: float32[B, S].
      values: float32[B, S] in [0, 1], a second label: will the solution end well? For objectives with two heads.
      groups: int32[B, S]; steps with equal numbers, in any row of the batch, are compared by objectives that do so.
      partners: int32[B, S], place among the S at which the same step is read in the other direction, see `RewardModel.outputs`.
      step_starts: int32[B, S], index of the first token of step s.
      reference: float32[B, S], log-probability of the tokens of step s under a reference model, nats.
    """

    tokens: Int[Array | np.ndarray, "B T"]
    positions: Int[Array | np.ndarray, "B T"]
    segment_ids: Int[Array | np.ndarray, "B T"]
    step_ends: Int[Array | np.ndarray, "B S"]
    step_mask: Bool[Array | np.ndarray, "B S"]
    labels: Float[Array | np.ndarray, "B S"]
    label_mask: Bool[Array | np.ndarray, "B S"]
    weights: Float[Array | np.ndarray, "B S"]
    values: Float[Array | np.ndarray, "B S"] | None = None
    groups: Int[Array | np.ndarray, "B S"] | None = None
    partners: Int[Array | np.ndarray, "B S"] | None = None
    step_starts: Int[Array | np.ndarray, "B S"] | None = None
    reference: Float[Array | np.ndarray, "B S"] | None = None

    def arrays(self) -> dict[str, Array | np.ndarray]:
        """The fields that are there, by name: the form in which `jaxprm.training.fit` gets batches."""
        return {name: value for name, value in vars(self).items() if value is not None}


def pad_solutions(encoded: Sequence[tuple[Sequence[int], Sequence[int]]], tokens: int, steps: int,
                  rows: int | None = None) -> StepBatch:
    """One solution per row, padded on the right; rows beyond the given solutions are empty. Labels are left unset.

    Args:
      encoded: (ids, step_ends) of each solution, as `StepEncoder.encode` gives them.
      tokens, steps, rows: the shape to fill.

    Raises:
      InputError: a solution has more tokens or steps than fit.
    """
    rows = len(encoded) if rows is None else rows
    ids = np.zeros((rows, tokens), np.int32)
    segments = np.zeros((rows, tokens), np.int32)
    ends = np.zeros((rows, steps), np.int32)
    mask = np.zeros((rows, steps), bool)
    for row, (solution, solution_ends) in enumerate(encoded):
        if len(solution) > tokens or len(solution_ends) > steps:
            raise InputError(f"has {len(solution)} tokens and {len(solution_ends)} steps; room is for {tokens} and {steps}",
                             row=row + 1)
        ids[row, : len(solution)] = solution
        segments[row, : len(solution)] = 1
        ends[row, : len(solution_ends)] = solution_ends
        mask[row, : len(solution_ends)] = True
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), ids.shape)
    return StepBatch(ids, positions, segments, ends, mask, np.zeros((rows, steps), np.float32), np.zeros_like(mask),
                     np.ones((rows, steps), np.float32))
