"""`StepScorer`: any number of ragged solutions -> one score per step, in order, with few compiled shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxprm.errors import InputError
from jaxprm.models.reward_model import RewardModel
from jaxprm.records import Solution
from jaxprm.scoring.steps import score_steps
from jaxprm.steps.batch import StepBatch, pad_solutions
from jaxprm.steps.format import StepEncoder

_score_steps = jax.jit(score_steps)


def bucket(length: int, smallest: int = 32) -> int:
    """The smallest of 32, 48, 64, 96, 128, 192, ... that holds ``length``: at most a third of a row is padding."""
    size = smallest
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


class StepScorer:
    """A reward model bound to its encoder.

    Args:
      model: the reward model.
      encoder: its step format and tokenizer.
      batch_tokens: tokens (padding included) per compiled call; rows per call follow from the length bucket.

    Scores in = steps out: every solution gets exactly one score per step, or an `InputError` says why not.
    """

    def __init__(self, model: RewardModel, encoder: StepEncoder, batch_tokens: int = 16_384):
        if batch_tokens < 1:
            raise InputError("must be at least 1", field="batch_tokens", value=batch_tokens)
        self.model, self.encoder, self.batch_tokens = model, encoder, batch_tokens

    def encode(self, solution: Solution, row: int | None = None) -> tuple[list[int], list[int]]:
        """Ids and step ends of a solution.

        Raises:
          InputError: an empty step, a step that contains the separator, or more tokens than the model's context.
        """
        try:
            ids, ends = self.encoder.encode(solution.problem.prompt, solution.steps)
        except InputError as error:
            raise InputError(error.message, row=row, field=error.field, hint=error.hint) from None
        context = self.model.config.context
        if len(ids) > context:
            raise InputError(f"needs {len(ids)} tokens, the model's context is {context}", row=row, field="steps",
                             hint="split the solution, or use a model with a longer context")
        return ids, ends

    def score(self, solutions: Sequence[Solution],
              on_batch: Callable[[int, int], None] = lambda solutions, tokens: None) -> list[np.ndarray]:
        """float32[number of steps] in [0, 1] for each solution, in the order given.

        ``on_batch(solutions, tokens)`` is called after each compiled call with what it scored (padding not counted).
        """
        return self.score_ids([self.encode(solution, row) for row, solution in enumerate(solutions, 1)], on_batch)

    def score_ids(self, encoded: Sequence[tuple[Sequence[int], Sequence[int]]],
                  on_batch: Callable[[int, int], None] = lambda solutions, tokens: None) -> list[np.ndarray]:
        """As `score`, for solutions that are token ids and step ends already (sampled on device, say)."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for index, (ids, ends) in enumerate(encoded):
            shapes.setdefault((bucket(len(ids)), bucket(len(ends), 8)), []).append(index)
        scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(encoded)
        for (tokens, steps), members in sorted(shapes.items()):
            rows = max(1, self.batch_tokens // tokens)
            for start in range(0, len(members), rows):
                chosen = members[start : start + rows]
                batch = pad_solutions([encoded[i] for i in chosen], tokens, steps, rows)
                result = np.asarray(self._score(batch))
                for row, index in enumerate(chosen):
                    scores[index] = result[row, : len(encoded[index][1])]
                on_batch(len(chosen), sum(len(encoded[i][0]) for i in chosen))
        return scores

    def _score(self, batch: StepBatch) -> jax.Array:
        return _score_steps(self.model, batch)
