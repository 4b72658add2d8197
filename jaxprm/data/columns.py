"""The columns of step examples on their way through the packer, which takes arrays of one number type, and back.

Beside the columns of `jaxprm.data.examples`, step examples may have these, each with one entry per step:

    values       float32   second label in [0, 1]: will the solution end well?
    groups       int32     steps with equal numbers are compared
    partners     int32     place in the example at which the same step is read in the other direction
    step_starts  int32     index of the step's first token
    reference    float32   log-probability of the step's tokens under a reference model, nats
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxprm.data.examples import Example
from jaxprm.errors import InputError

POSITIONS = ("step_ends", "step_starts")
"""Columns that point at tokens."""

SOLUTION_START = np.int32(1 << 30)
"""Flag in a token id of an example with several solutions (`jaxprm.data.bundles`): a solution begins here. A feature of its own
would cost the packer time for every example."""

_ALWAYS = ("step_ends", "labels", "label_mask", "weights")
_MORE = ("values", "groups", "partners", "step_starts", "reference")
_FLOATS = ("labels", "weights", "values", "reference")


def column_dtypes(more: Sequence[str] = ()) -> dict[str, np.dtype]:
    """Name -> type in a batch, of the columns that every step example has and of those of ``more``."""
    names = (*_ALWAYS, "step_mask", *more)
    return {name: np.dtype(np.float32 if name in _FLOATS else bool if name.endswith("mask") else np.int32) for name in names}


def column_names(example: Example) -> tuple[str, ...]:
    """The columns of an example, in the order in which `stack_columns` has them."""
    return (*_ALWAYS, *(name for name in _MORE if name in example))


def stack_columns(example: Example, names: Sequence[str]) -> np.ndarray:
    """int32[s, columns]; floats as bits.

    Raises:
      InputError: the example lacks one.
    """
    for name in names:
        if name not in example:
            raise InputError(f"is missing in an example, the first one has {', '.join(names)}", field=name)
    columns = [example[name].view(np.int32) if name in _FLOATS else example[name].astype(np.int32) for name in names]
    return np.stack(columns, axis=1)


def batch_columns(packed: Mapping[str, np.ndarray], starts: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of a packed batch, [B, S] each, with ``step_mask``.

    Args:
      packed: ``steps`` int32[B, S, columns] of examples behind each other, ``steps_segment_ids`` (0 = none) and
        ``steps_positions`` (within the example).
      starts: int32[B, examples + 1], index of the first token of each example; column 0 belongs to no example.
      names: of the columns.
    """
    columns = {name: np.ascontiguousarray(packed["steps"][..., i]) for i, name in enumerate(names)}
    segments = packed["steps_segment_ids"]
    step_mask = segments > 0
    offset = np.take_along_axis(starts, segments, axis=1)
    for name in POSITIONS:
        if name in columns:
            columns[name] = np.where(step_mask, columns[name] + offset, 0)
    if "partners" in columns:
        # places in the row   0 1 2 3 4, positions in their examples 0 1 2 0 1: the examples begin at places 0 0 0 3 3
        first = np.arange(segments.shape[1], dtype=np.int32) - packed["steps_positions"]
        columns["partners"] = np.where(step_mask, columns["partners"] + first, 0)
    columns |= {name: columns[name].view(np.float32) for name in _FLOATS if name in columns}
    return columns | {"step_mask": step_mask, "label_mask": columns["label_mask"].astype(bool)}


def single_solutions(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Examples with several solutions taken apart: each solution becomes a segment with positions of its own.

    In:   tokens [5* 6 5* 8 0], segment_ids [1 1 1 1 0]      * begins a solution; an example without marks is one
    Out:  tokens [5 6 5 8 0],   segment_ids [1 1 2 2 0], positions [0 1 0 1 0]
    """
    marked = (batch["tokens"] & SOLUTION_START) > 0
    if not marked.any():
        return dict(batch)
    real = batch["segment_ids"] > 0
    begins = real & ((batch["positions"] == 0) | marked)
    place = np.arange(real.shape[1], dtype=np.int32)
    start = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    return {"tokens": batch["tokens"] & ~SOLUTION_START,
            "segment_ids": np.where(real, np.cumsum(begins, axis=1, dtype=np.int32), 0),
            "positions": np.where(real, place - start, 0).astype(np.int32)}
