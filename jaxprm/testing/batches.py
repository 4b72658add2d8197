"""Random encoded solutions, one per row or packed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxprm.steps import StepBatch


@dataclasses.dataclass(frozen=True)
class EncodedSolution:
    """Token ids, the index of each step's read-out token, and a label per step (``None`` = not judged)."""

    ids: tuple[int, ...]
    step_ends: tuple[int, ...]
    labels: tuple[float | None, ...]


def random_solutions(seed: int | tuple[int, ...], count: int, vocab_size: int = 20, prompt: tuple[int, int] = (1, 5),
                     steps: tuple[int, int] = (1, 4), step_tokens: tuple[int, int] = (1, 4), separator_id: int = 2,
                     readout: str = "at") -> list[EncodedSolution]:
    """Solutions of random lengths (inclusive ranges); a step is ``step_tokens`` ids from 3 on and the separator."""
    rng = np.random.default_rng(seed)
    between = lambda bounds: int(rng.integers(bounds[0], bounds[1] + 1))  # noqa: E731
    found = []
    for _ in range(count):
        ids = rng.integers(3, vocab_size, between(prompt)).tolist()
        ends = []
        for _ in range(between(steps)):
            ids += [*rng.integers(3, vocab_size, between(step_tokens)).tolist(), separator_id]
            ends.append(len(ids) - (2 if readout == "before" else 1))
        labels = tuple(None if rng.random() < 0.2 else float(rng.integers(2)) for _ in ends)
        found.append(EncodedSolution(tuple(ids), tuple(ends), labels))
    return found


def pack_solutions(solutions: Sequence[EncodedSolution], per_row: int, tokens: int, steps: int,
                   rows: int | None = None) -> StepBatch:
    """``per_row`` solutions behind each other in every row, in order; ``per_row = 1`` gives one per row.

    A label that is ``None`` becomes ``label_mask`` False. Rows beyond the solutions are empty.
    """
    groups = [solutions[start : start + per_row] for start in range(0, len(solutions), per_row)]
    rows = len(groups) if rows is None else rows
    whole = lambda size, kind: np.zeros((rows, size), kind)  # noqa: E731
    ids, positions, segments = whole(tokens, np.int32), whole(tokens, np.int32), whole(tokens, np.int32)
    ends, step_mask, label_mask = whole(steps, np.int32), whole(steps, bool), whole(steps, bool)
    labels, weights = whole(steps, np.float32), whole(steps, np.float32)
    for row, group in enumerate(groups):
        at = step = 0
        for segment, solution in enumerate(group, 1):
            size, count = len(solution.ids), len(solution.step_ends)
            ids[row, at : at + size] = solution.ids
            positions[row, at : at + size] = np.arange(size)
            segments[row, at : at + size] = segment
            ends[row, step : step + count] = at + np.array(solution.step_ends)
            step_mask[row, step : step + count] = True
            label_mask[row, step : step + count] = [label is not None for label in solution.labels]
            labels[row, step : step + count] = [label or 0.0 for label in solution.labels]
            weights[row, step : step + count] = 1.0
            at, step = at + size, step + count
    return StepBatch(ids, positions, segments, ends, step_mask, labels, label_mask, weights)
