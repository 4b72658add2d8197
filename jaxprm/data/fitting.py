"""Examples made to fit a row: by their table alone, so that stored examples are not read for it, and counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxprm.data.example_table import Origin, entry, with_table
from jaxprm.data.examples import Example, FitCounts, OverlongPolicy
from jaxprm.errors import InputError


class FittedExamples(Sequence):
    """The examples that fit a row of ``row_tokens`` tokens and ``row_steps`` steps, by index.

    Args:
      examples: step examples, in memory or stored.
      overlong: what becomes of one that does not fit: "error"; "drop"; or "truncate", which keeps the leading steps that fit
        as a whole (and drops the example if not even its first step does).

    Attributes:
      counts: how many fitted, were cut, or left out.
      table: `jaxprm.data.example_table.TABLE` of these examples, after cutting.

    Raises:
      InputError: an example is too long and the policy is "error"; it names file and row where they are known.
    """

    def __init__(self, examples: Sequence[Example], row_tokens: int, row_steps: int, overlong: OverlongPolicy = "error"):
        if overlong not in ("error", "drop", "truncate"):
            raise InputError("must be one of error, drop, truncate", field="overlong", value=overlong)
        self._examples = with_table(examples)
        table = self._examples.table
        outside = np.flatnonzero((table["tokens"] > row_tokens) | (table["steps"] > row_steps))
        if overlong == "error" and len(outside):
            self._refuse(int(outside[0]), row_tokens, row_steps)
        self._steps: dict[int, int] = {}  # index of an example that is cut -> steps that are kept
        self.table = table
        if len(outside):
            self.table, keep = np.array(table), np.ones(len(table), bool)
            for index in outside.tolist():
                # tokens  p p a a ; b b b ;    row_tokens 7: the second step ends at 8, so the row is  p p a a ;
                ends = self._examples[index]["step_ends"] if overlong == "truncate" else np.zeros(0, np.int32)
                steps = min(int(np.searchsorted(ends, row_tokens)), row_steps)
                if steps:
                    self._steps[index] = steps
                    self.table[index] = self._entry(index)
                else:
                    keep[index] = False
            self._indices = np.flatnonzero(keep)
            self.table = self.table[keep]
        else:
            self._indices = None
        self.counts = FitCounts(len(self) - len(self._steps), len(self._steps), len(table) - len(self))

    def __len__(self) -> int:
        return len(self._examples) if self._indices is None else len(self._indices)

    def __getitem__(self, index: int) -> Example:
        if self._indices is not None:
            index = int(self._indices[index])
        return self._cut(index)

    def _cut(self, index: int) -> Example:
        example = self._examples[index]
        steps = self._steps.get(index)
        if steps is None:
            return example
        end = example["step_ends"][steps - 1] + 1
        return {name: array[:end] if name == "tokens" else array[:steps] for name, array in example.items()}

    def _entry(self, index: int) -> tuple:
        old = self._examples.table[index]
        return entry(self._cut(index), Origin(*(old[name] for name in Origin._fields)))

    def _refuse(self, index: int, row_tokens: int, row_steps: int) -> None:
        size = self._examples.table[index]
        hint = "use longer rows, or overlong = 'truncate' or 'drop'"
        if size["file"] >= 0:
            raise InputError(f"has {size['tokens']} tokens and {size['steps']} steps; room is for {row_tokens} tokens and "
                             f"{row_steps} steps", field="steps", hint=hint, row=int(size["row"]),
                             file=self._examples.files[size["file"]])
        raise InputError(f"example {index} has {size['tokens']} tokens (a row has {row_tokens}) and {size['steps']} steps "
                         f"(a row has {row_steps})", hint=hint)
