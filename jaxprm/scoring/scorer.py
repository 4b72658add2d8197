"""`StepScorer`: any number of ragged solutions -> one score per step, in order, with few compiled shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxprm.errors import InputError
from jaxprm.models.parameters import batch_sharding, on_mesh
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.sharding import batch_parts, mesh_scope
from jaxprm.models.transformer import LanguageModel
from jaxprm.records import Solution
from jaxprm.scoring.implicit import ImplicitModel, implicit_scores
from jaxprm.scoring.readings import is_bidirectional, pad_bidirectional, reading_encoder
from jaxprm.scoring.steps import score_steps
from jaxprm.steps.batch import StepBatch, pad_solutions

_score_steps = jax.jit(score_steps)
_implicit_scores = jax.jit(implicit_scores)

Row = tuple
"""(ids, ends) or (ids, ends, start): token ids, the index at which each step is read, and for an `ImplicitModel` the first
position whose log-ratio counts. A model that reads in two directions has rows of its own (`BidirectionalReading`)."""

_Model = TypeVar("_Model", RewardModel, LanguageModel, ImplicitModel)
OnBatch = Callable[[int, int], None]


@runtime_checkable
class Encoder(Protocol):
    """Text -> tokens: a `StepEncoder`, or the encoder of a published family.

    It may also have ``encode_rows(problem, steps, reference_answer) -> list[Row]``, where a solution is read in several passes
    or its ends need a start, and ``max_tokens``, a limit of its own on the length of a row.
    """

    def encode(self, problem: str, steps: Sequence[str], /) -> tuple[list[int], list[int]]: ...


def bucket(length: int, smallest: int = 32) -> int:
    """The smallest of 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, ... that holds ``length``: at most a fifth is padding."""
    size = smallest
    while size < length:
        size *= 2
    quarter = max(size // 8, 1)  # of the octave that ends at ``size``
    return size if size == smallest else size - (size - length) // quarter * quarter


def bucket_rows(count: int, most: int, divisor: int = 1) -> int:
    """Rows of a batch that holds ``count <= most`` solutions: ``divisor`` times a power of two, but not above ``most``.

    Few shapes, and a single solution does not pay for a full batch: 1, 2, 4, 8, ..., most.
    """
    size = divisor
    while size < count:
        size *= 2
    return min(size, most)


class StepScorer:
    """A reward model bound to its encoder.

    Args:
      model: a reward model, or the two models of an implicit one.
      encoder: how text becomes tokens and read positions.
      batch_tokens: tokens (padding included) per compiled call; rows per call follow from the length bucket.
      mesh: devices to score on (one process); rows are split over data and fsdp, weights over fsdp and tensor. ``None`` = one
        device.

    Scores in = steps out: every solution gets exactly one score per step, or an `InputError` says why not.
    """

    def __init__(self, model: RewardModel | ImplicitModel, encoder: Encoder, batch_tokens: int = 16_384,
                 mesh: jax.sharding.Mesh | None = None):
        if batch_tokens < 1:
            raise InputError("must be at least 1", field="batch_tokens", value=batch_tokens)
        self.model = _place(model, mesh)
        self.encoder, self.batch_tokens, self.mesh = reading_encoder(model, encoder), batch_tokens, mesh

    def encode(self, solution: Solution, row: int | None = None) -> tuple[list[int], list[int]]:
        """Ids and step ends of a solution.

        Raises:
          InputError: a step that cannot be read, or more tokens than the model's context.
        """
        try:
            ids, ends = self.encoder.encode(solution.problem.prompt, solution.steps)
        except InputError as error:
            raise error.located(row=row) from None
        self.check_length(ids, row)
        return ids, ends

    def encode_rows(self, solution: Solution, row: int | None = None) -> list[Row]:
        """The rows that are read for a solution; together they have one end per step.

        Raises:
          InputError: as `encode`.
        """
        if not hasattr(self.encoder, "encode_rows"):
            return [self.encode(solution, row)]
        try:
            rows = self.encoder.encode_rows(solution.problem.prompt, solution.steps, solution.problem.answer)
        except InputError as error:
            raise error.located(row=row) from None
        for ids, *rest in rows:  # a second reading behind the first one starts at position 0 again
            self.check_length(max(ids[:rest[1]], ids[rest[1]:], key=len) if len(rest) > 2 else ids, row)
        found = sum(len(ends) for _, ends, *_ in rows)
        if found != len(solution.steps):
            raise InputError(f"has {len(solution.steps)} steps, but {found} places to read them", row=row, field="steps")
        return rows

    @property
    def context(self) -> int:
        """The longest row that the model and its family read, in tokens."""
        context = self.model.config.context
        return min(context, getattr(self.encoder, "max_tokens", None) or context)

    def check_length(self, ids: Sequence[int], row: int | None = None) -> None:
        """Raises InputError if a row is longer than `context`."""
        if len(ids) > self.context:
            raise InputError(f"needs {len(ids)} tokens, the model's context is {self.context}", row=row, field="steps",
                             hint="split the solution, or use a model with a longer context")

    def score(self, solutions: Sequence[Solution], on_batch: OnBatch = lambda rows, tokens: None) -> list[np.ndarray]:
        """float32[number of steps] for each solution, in the order given; the model's head says on which scale.

        ``on_batch(rows, tokens)`` is called after each compiled call with what it read (padding not counted).
        """
        return self.score_rows([self.encode_rows(solution, row) for row, solution in enumerate(solutions, 1)], on_batch)

    def score_rows(self, encoded: Sequence[Sequence[Row]],
                   on_batch: OnBatch = lambda rows, tokens: None) -> list[np.ndarray]:
        """As `score`, for solutions that are rows already (`encode_rows`)."""
        values = iter(self.score_ids([row for rows in encoded for row in rows], on_batch))
        return [np.concatenate([next(values) for _ in rows] or [np.zeros(0, np.float32)]) for rows in encoded]

    def score_ids(self, encoded: Sequence[Row], on_batch: OnBatch = lambda rows, tokens: None) -> list[np.ndarray]:
        """As `score`, for single rows of token ids and step ends (sampled on device, say)."""
        lengths: dict[int, list[int]] = {}
        for index, (ids, *_) in enumerate(encoded):
            lengths.setdefault(bucket(len(ids)), []).append(index)
        shards = 1 if self.mesh is None else batch_parts(self.mesh)
        scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(encoded)
        for tokens, members in sorted(lengths.items()):
            # Reading a step costs next to nothing, a compilation costs seconds: one number of steps for all rows of a length.
            steps = bucket(max(len(encoded[i][1]) for i in members), 8)
            most = max(1, self.batch_tokens // tokens // shards) * shards
            for start in range(0, len(members), most):
                chosen = [encoded[i] for i in members[start : start + most]]
                rows = bucket_rows(len(chosen), most, shards)
                starts = np.zeros(rows, np.int32)
                starts[: len(chosen)] = [row[2] if len(row) > 2 else 0 for row in chosen]
                if is_bidirectional(self.model):
                    batch = pad_bidirectional(chosen, tokens, steps, rows)
                else:
                    batch = pad_solutions([row[:2] for row in chosen], tokens, steps, rows)
                result = np.asarray(self._score(batch, starts))
                for row, index in enumerate(members[start : start + most]):
                    scores[index] = result[row, : len(encoded[index][1])]
                on_batch(len(chosen), sum(len(row[0]) for row in chosen))
        return scores

    def _score(self, batch: StepBatch, starts: np.ndarray) -> Float[Array, "B S"]:
        if self.mesh is not None:
            batch, starts = jax.device_put((batch, starts), batch_sharding(self.mesh))
        with mesh_scope(self.mesh):
            if isinstance(self.model, ImplicitModel):
                return _implicit_scores(self.model, batch, starts)
            return _score_steps(self.model, batch)


def _place(model: _Model, mesh: jax.sharding.Mesh | None) -> _Model:
    if isinstance(model, ImplicitModel):
        return dataclasses.replace(model, policy=_place(model.policy, mesh), reference=_place(model.reference, mesh))
    return on_mesh(model, mesh)
