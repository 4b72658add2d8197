"""How models that do not read a solution once, from left to right, read one: rows of `StepScorer` for these models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxprm.models.reward_model import RewardModel
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.steps.batch import StepBatch, pad_solutions
from jaxprm.steps.format import StepEncoder


class _Reading:
    """A `StepEncoder` with rows of another form; everything else is the encoder's own."""

    def __init__(self, encoder: StepEncoder):
        self._encoder = encoder

    def __getattr__(self, name: str):
        return getattr(self._encoder, name)


class ImplicitReading(_Reading):
    """For an `ImplicitModel` of our own: log-ratios count from the first token of the solution to the one where a step is read.

        tokens  q ? a | b |      prompt of 2, step ends [3, 5]
        row     start 1, ends [2, 4]: position t stands for the prediction of token t + 1 (see `implicit_scores`)
    """

    def encode_rows(self, problem: str, steps: Sequence[str], reference_answer: str | None) -> list[tuple]:
        del reference_answer
        ids, ends = self._encoder.encode(problem, steps)
        return [(ids, [end - 1 for end in ends], len(self._encoder.encode_prompt(problem)) - 1)]


class BidirectionalReading(_Reading):
    """For a head that reads in two directions: the solution, and behind it the same problem with the steps in reverse.

    A row is ``(ids, ends, start, backward_ends)``: the second reading begins at ``start``; ``backward_ends`` are in the order
    in which that reading comes to them, the last step first.
    """

    def encode_rows(self, problem: str, steps: Sequence[str], reference_answer: str | None) -> list[tuple]:
        del reference_answer
        return [both_directions(self._encoder, problem, steps)]


def both_directions(encoder: StepEncoder, problem: str,
                    steps: Sequence[str]) -> tuple[list[int], list[int], int, list[int]]:
    """The row of `BidirectionalReading` for one solution."""
    ids, ends = encoder.encode(problem, steps)
    backward, backward_ends = encoder.encode(problem, tuple(steps)[::-1])
    return [*ids, *backward], ends, len(ids), [len(ids) + end for end in backward_ends]


def reading_encoder(model, encoder):
    """The encoder that gives the rows which ``model`` reads: ``encoder`` itself for most models."""
    if not isinstance(encoder, StepEncoder):
        return encoder
    if isinstance(model, ImplicitModel):
        return ImplicitReading(encoder)
    return BidirectionalReading(encoder) if is_bidirectional(model) else encoder


def is_bidirectional(model) -> bool:
    """Whether a model reads solutions in both directions."""
    return isinstance(model, RewardModel) and model.head.config.direction != "forward"


def pad_bidirectional(encoded: Sequence[tuple], tokens: int, steps: int, rows: int) -> StepBatch:
    """As `pad_solutions`, for rows of `BidirectionalReading`; the scores of n steps come first, in their order.

    ``steps``: of one direction; the batch has twice as many places.
    """
    batch = pad_solutions([(ids, [*ends, *backward]) for ids, ends, _, backward in encoded], tokens, 2 * steps, rows)
    segments, positions = batch.segment_ids.copy(), batch.positions.copy()
    partners = np.zeros(batch.step_ends.shape, np.int32)
    for row, (ids, ends, start, backward) in enumerate(encoded):
        segments[row, start : len(ids)] = 2
        positions[row, start:] -= start
        count = len(ends) + len(backward)
        partners[row, :count] = np.arange(count)[::-1]
    return StepBatch(batch.tokens, positions, segments, batch.step_ends, batch.step_mask, batch.labels, batch.label_mask,
                     batch.weights, partners=partners)
