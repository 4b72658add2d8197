"""Labelled files as a pipeline needs them: encoded once, refused with file and row, each prefix weighed once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxprm.data.examples import OverlongPolicy
from jaxprm.data.rows import located, rows_sha256
from jaxprm.data.solutions import SolutionFiles
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution
from jaxprm.scoring.scorer import Row, StepScorer
from jaxprm.steps.format import StepEncoder

Encoded = tuple[list[int], list[int]]
"""Token ids of a solution and the index of the token at which each step is read."""


_CACHED_STEPS = 1 << 18


class CachedEncoder(StepEncoder):
    """A `StepEncoder` that remembers the steps it has encoded: candidate files repeat each prefix dozens of times."""

    def __init__(self, encoder: StepEncoder):
        super().__init__(encoder.format, encoder.tokenizer)
        self._known: dict[str, list[int]] = {}

    def encode_step(self, step: str) -> list[int]:
        if step not in self._known:
            if len(self._known) >= _CACHED_STEPS:  # repetitions stand close together: starting anew costs little
                self._known.clear()
            self._known[step] = super().encode_step(step)
        return self._known[step]


Place = tuple[str | None, int | None]
"""File and 1-based row of a solution, None for one that was made."""


def encode_steps(items: Sequence[LabeledSolution], encoder: StepEncoder, places: Sequence[Place]) -> list[Encoded]:
    """Token ids and step ends of solutions; ``places``: where they stand, for errors.

    Raises:
      InputError: a step that cannot be encoded; it names file, row, step and value.
    """
    cached, encoded = CachedEncoder(encoder), []
    for item, place in zip(items, places):
        try:
            encoded.append(cached.encode(item.solution.problem.prompt, item.solution.steps))
        except InputError:
            refuse_step(item, encoder, *place)
    return encoded


def encode_rows(items: Sequence[LabeledSolution], scorer: StepScorer, places: Sequence[Place]) -> list[list[Row]]:
    """As `encode_steps`, for any encoder: the rows that are read for each solution, of any length."""
    if isinstance(scorer.encoder, StepEncoder):
        return [[row] for row in encode_steps(items, scorer.encoder, places)]
    encoded = []
    for item, (file, row) in zip(items, places):
        problem = item.solution.problem
        try:
            encoded.append(scorer.encoder.encode_rows(problem.prompt, item.solution.steps, problem.answer))
        except InputError as error:
            raise error.located(file=file, row=row) from None
    return encoded


def refuse_step(item: LabeledSolution, encoder: StepEncoder, file: str | Path | None, row: int | None,
                steps: Sequence[str] | None = None) -> NoReturn:
    """Raises the InputError of the first step that ``encoder`` refuses, with its place and text.

    ``steps``: as the file has them, where the empty ones were dropped from ``item``.
    """
    for index, step in enumerate(item.solution.steps if steps is None else steps):
        try:
            if step.strip():
                encoder.encode_step(step)
        except InputError as error:
            raise InputError(error.message, file=file, row=row, field=f"steps[{index}]", value=step,
                             hint=error.hint) from None
    raise AssertionError(f"every step of {item.id} can be encoded")


def which_fit(encoded: Sequence[Encoded], tokens: int, steps: int | None, policy: OverlongPolicy,
              places: Sequence[Place]) -> np.ndarray:
    """Which solutions have at most ``tokens`` tokens and ``steps`` steps (None = any number): one bool each.

    Raises:
      InputError: one does not and ``policy`` is "error"; it names file and row.
    """
    fits = np.array([len(ids) <= tokens and (steps is None or len(ends) <= steps) for ids, ends in encoded], bool)
    if policy == "error" and not fits.all():
        index = int(np.argmin(fits))
        ids, ends = encoded[index]
        file, row = places[index]
        room = f"room is for {tokens} tokens" + (f" and {steps} steps" if steps is not None else "")
        raise InputError(f"has {len(ids)} tokens and {len(ends)} steps; {room}", file=file, row=row, field="steps",
                         hint="use a model (and rows) with more room, or another overlong policy (drop)")
    return fits


def prefix_weights(items: Sequence[LabeledSolution]) -> list[np.ndarray]:
    """Weights with which each judged prefix (problem and all steps up to here) counts once: float32[steps] each.

    A file with one row per candidate (PRM800K expanded) repeats the steps before it in every row: the first step of a
    solution comes dozens of times and is always right, a wrong step once. A prefix that n rows share weighs 1 / n in
    each of them.

        rows (x; a, b), (x; a, c)  ->  [1/2, 1], [1/2, 1]
    """
    prefixes = [prefix_digests(item) for item in items]
    counts = Counter(prefix for item, row in zip(items, prefixes) if item.labels
                     for prefix, label in zip(row, item.labels.values) if label is not None)
    return [np.array([1 / max(counts[prefix], 1) for prefix in row], np.float32) for row in prefixes]


def prefix_digests(item: LabeledSolution) -> list[bytes]:
    """A hash of the problem and all steps up to here, per step."""
    digest = hashlib.blake2b(item.solution.problem.prompt.encode(), digest_size=16)
    prefixes = []
    for step in item.solution.steps:
        digest.update(b"\x1e" + step.encode())
        prefixes.append(digest.digest())
    return prefixes


def files_sha256(source: SolutionFiles) -> dict[str, str]:
    """Path as given -> SHA-256 of the file."""
    return {path: rows_sha256(located(path)) for path in source.all_files}


def kept(values: Sequence, mask: np.ndarray) -> list:
    """The values where ``mask``."""
    return [value for value, keep in zip(values, mask) if keep]
