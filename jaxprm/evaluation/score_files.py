"""Scores that someone else produced: JSON lines ``{"id": ..., "scores": [one number per step]}``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks.base import EMPTY_STEPS, Item
from jaxprm.records import read_json_lines


def named_file(text: str) -> tuple[str, Path]:
    """``NAME=FILE`` or ``FILE`` -> (name, path); a file is named by its path unless it is given a name."""
    name, sign, path = text.partition("=")
    if sign and name and "/" not in name and not Path(text).exists():
        return name, Path(path)
    return text, Path(text)


def read_scores(path: str | os.PathLike, items: Sequence[Item], *, probabilities: bool) -> list[np.ndarray | None]:
    """The scores of every item, in their order; None for an item that does not count and has none.

    Args:
      path: JSON lines; other fields than ``id`` and ``scores`` are not looked at.
      items: of the benchmark, those that do not count included.
      probabilities: whether scores must lie in [0, 1].

    Raises:
      InputError: an id that is missing, unknown or given twice (here or in the benchmark), another number of scores than
        steps, a score that is no finite number or not in its range.
    """
    places: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.id in places:
            raise InputError("stands for two solutions, so that scores cannot be told apart", file=item.file, row=item.row,
                             field="id", value=item.id, hint="give every row an id of its own")
        places[item.id] = index
    found: list[np.ndarray | None] = [None] * len(items)
    for number, row in read_json_lines(path):
        if not isinstance(row, dict):
            raise InputError(f"a row must be a JSON object, not {type(row).__name__}", file=path, row=number,
                             hint='write {"id": ..., "scores": [...]} per line')
        identifier = row.get("id")
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            raise InputError("must be a text or a whole number", file=path, row=number, field="id", value=identifier)
        index = places.get(str(identifier))
        if index is None:
            raise InputError("is no solution of this benchmark", file=path, row=number, field="id", value=identifier,
                             hint=f"its ids look like {', '.join(repr(item.id) for item in items[:2])}")
        if found[index] is not None:
            raise InputError("is given twice", file=path, row=number, field="id", value=identifier)
        found[index] = _scores(row.get("scores"), items[index], path, number, probabilities)
    missing = [item.id for item, scores in zip(items, found) if scores is None and item.skip is None]
    if missing:
        raise InputError(f"has no scores for {len(missing)} of {sum(item.skip is None for item in items)} solutions", file=path,
                         field="id", value=missing[0], hint="every solution needs a row")
    return found


def _scores(values: Any, item: Item, path, number: int, probabilities: bool) -> np.ndarray:
    steps = len(item.solution.steps)
    if not isinstance(values, list):
        raise InputError("must be a list of numbers, one per step", file=path, row=number, field="scores", value=values)
    if len(values) != steps:
        dropped = item.meta.get(EMPTY_STEPS)
        hint = f"{dropped} empty steps were left out" if dropped else "one score per step is needed"
        raise InputError(f"has {len(values)} scores for the {steps} steps of '{item.id}'", file=path, row=number,
                         field="scores", hint=hint)
    for index, value in enumerate(values):
        place = {"file": path, "row": number, "field": f"scores[{index}]", "value": value}
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError("must be a finite number", **place)
        if probabilities and not 0 <= value <= 1:
            raise InputError("must be a probability: this benchmark needs scores in [0, 1]", **place)
    return np.array(values, np.float64)
