"""Examples with a table of what they are: what fits, what is drawn and how they are labelled is known without reading them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxprm.data.examples import Example
from jaxprm.data.solutions import LabelStatistics

TABLE = np.dtype([("tokens", np.int32), ("steps", np.int32), ("judged", np.int32), ("good", np.int32), ("bad", np.int32),
                  ("labels", np.float64), ("weight", np.float64), ("problem", np.uint64), ("first_error", np.int32),
                  ("file", np.int32), ("row", np.int32)])
"""One entry per example: tokens, steps, judged steps, those labelled 1 and 0, sums of the judged steps' labels and weights,
and its `Origin`."""

UNKNOWN = -2


class Origin(NamedTuple):
    """Where an example comes from, as far as it is known.

    ``problem``: hash of its problem's text. ``first_error``: as in `jaxprm.records.StepLabels`, `UNKNOWN` for None.
    ``file``: index into a list of paths, -1 = unknown. ``row``: 1-based.
    """

    problem: int = 0
    first_error: int = UNKNOWN
    file: int = -1
    row: int = 0


def entry(example: Example, origin: Origin = Origin()) -> tuple:
    """The entry of one step example; an error behind its last step (it was cut) counts as unknown."""
    mask = example["label_mask"]
    labels, steps = example["labels"][mask], len(example["step_ends"])
    first_error = origin.first_error if origin.first_error < steps else UNKNOWN
    return (len(example["tokens"]), steps, len(labels), np.count_nonzero(labels == 1), np.count_nonzero(labels == 0),
            labels.sum(dtype=np.float64), example["weights"][mask].sum(dtype=np.float64), origin.problem, first_error,
            origin.file, origin.row)


class Examples(Sequence):
    """Step examples in memory, see `jaxprm.data.examples.step_example`.

    Args:
      examples: the examples.
      origins: one per example, if they are known.
      files: paths that they refer to.

    Attributes:
      table: `TABLE`[len(self)].
      files: as given.
    """

    def __init__(self, examples: Iterable[Example], origins: Sequence[Origin] | None = None, files: Sequence[str] = ()):
        self._examples = list(examples)
        origins = [Origin()] * len(self._examples) if origins is None else origins
        self.table = np.array([entry(example, origin) for example, origin in zip(self._examples, origins)], TABLE)
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def with_table(examples: Sequence[Example]) -> Sequence[Example]:
    """The examples as they are if they have a table (`Examples`, `jaxprm.data.arrayrecord.ExampleStore`), else with one."""
    return examples if hasattr(examples, "table") else Examples(examples)


def table_statistics(table: np.ndarray) -> LabelStatistics:
    """As `jaxprm.data.solutions.label_statistics`, from a table; problems are counted by their hash."""
    total = {name: int(table[name].sum()) for name in ("steps", "judged", "good", "bad")}
    judged, unknown, clean = total["judged"], *(int((table["first_error"] == value).sum()) for value in (UNKNOWN, -1))
    return LabelStatistics(
        solutions=len(table), problems=len(np.unique(table["problem"])), **total,
        soft=judged - total["good"] - total["bad"], with_error=len(table) - clean - unknown, clean=clean, unknown=unknown,
        max_steps=int(table["steps"].max(initial=0)), mean_label=float(table["labels"].sum()) / judged if judged else 0.0)
