"""What a format is: a reader of raw rows, the settings it takes, and how labels come about from them.

The same three questions decide what the labels of any step-labelled set mean, and projects answer them differently without
saying so: what a neutral rating counts as, what the steps behind the first wrong one count as, and whether steps are numbered
from 0 or from 1. Here they are settings with a stated default per format, and every solution says in ``labels.made_by`` which
values were used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxprm.data.formats.rows import Fields, OnError, read_rows
from jaxprm.errors import InputError
from jaxprm.records import (
    AfterErrorPolicy,
    LabeledSolution,
    NeutralPolicy,
    Problem,
    Solution,
    StepLabels,
    labels_from_ratings,
)

COMPUTE: Literal["compute"] = "compute"
"""`Row.solution` finds the first error from the labels; ``None`` means unknown."""

_ALLOWED = {"neutral": ("good", "bad", "ignore"), "after_error": ("keep", "ignore", "bad"), "index_base": (0, 1)}
_PROVENANCE = ("neutral", "after_error", "index_base", "bad_at_most")


@dataclasses.dataclass(frozen=True)
class ReadSettings:
    """How the rows of a format are read; ``None`` = the format's default (`Format.defaults` lists what it takes).

    Attributes:
      neutral: how a neutral rating (0) counts: "good", "bad", or "ignore" (not judged).
      after_error: what the steps behind the first wrong one count as: "keep" what the file says, "ignore", or "bad".
      index_base: the number of the first step in the file, 0 or 1.
      bad_at_most: a soft label up to this value counts as a wrong step where the first error is looked for.
      step_tag: the text that ends a step, in formats that mark steps inside one text.
      label_field: the field with the labels, in formats where its name is the annotator's choice.
      problems: the known problem texts, for formats that write problem and first step as one text.
      segmenter: the name of what cuts a solution into steps (`jaxprm.steps.segmenters`), in formats that have it as one text.
    """

    neutral: NeutralPolicy | None = None
    after_error: AfterErrorPolicy | None = None
    index_base: int | None = None
    bad_at_most: float | None = None
    step_tag: str | None = None
    label_field: str | None = None
    problems: ProblemIndex | None = None
    segmenter: str | None = None

    def __post_init__(self):
        for field, allowed in _ALLOWED.items():
            value = getattr(self, field)
            if value is not None and value not in allowed:
                raise InputError(f"must be one of {', '.join(map(str, allowed))}", field=field, value=value)
        if self.bad_at_most is not None and not 0 <= self.bad_at_most < 1:
            raise InputError("must be in [0, 1)", field="bad_at_most", value=self.bad_at_most)
        for field in ("step_tag", "label_field"):
            if getattr(self, field) == "":
                raise InputError("must not be empty", field=field, value="")


class ProblemIndex:
    """Known problem texts, to find where the problem ends in a text that goes on with the first step."""

    _KEY = 16  # characters; problems that begin alike are compared in full, the longest first

    def __init__(self, problems: Sequence[str]):
        self._by_start: dict[str, list[str]] = {}
        known = sorted({problem.strip() for problem in problems} - {""})
        self.fingerprint = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        for problem in known:
            self._by_start.setdefault(problem[:self._KEY], []).append(problem)
        for alike in self._by_start.values():
            alike.sort(key=len, reverse=True)

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> ProblemIndex:
        """Reads ``problem``, ``question`` or ``prompt`` of every row of a file."""
        return cls([_object(value, path, number).text("problem", "question", "prompt") for number, value in read_rows(path)])

    def split(self, text: str) -> tuple[str, str] | None:
        """``problem step`` -> (problem, step), without white space around them; None if no known problem begins the text."""
        text = text.lstrip()
        starts = {text[:self._KEY], *(text[:length] for length in range(1, self._KEY))}
        known = sorted((problem for start in starts for problem in self._by_start.get(start, ())), key=len, reverse=True)
        found = next((problem for problem in known if text.startswith(problem)), None)
        return None if found is None else (found, text[len(found):].strip())


class Row(Fields):
    """One raw row, with the settings in force."""

    def __init__(self, data: Mapping[str, Any], file, number: int, settings: ReadSettings, format: Format):
        super().__init__(data, file, number)
        self.settings, self.format = settings, format

    def identifier(self, *names: str) -> str:
        """The row's own id, else its number."""
        return self.text_or_none(*names) or str(self.number)

    def solution(self, problem: str, steps: Sequence[str], *, ratings: Sequence[int | None] | None = None,
                 soft: Sequence[float | None] | None = None, first_error: int | None | Literal["compute"] = COMPUTE,
                 id: str | None = None, problem_id: str | None = None, answer: str | None = None,
                 final_answer: str | None = None, correct: bool | None = None, generator: str | None = None,
                 meta: Mapping[str, Any] | None = None, made_by: str | None = None) -> LabeledSolution:
        """A labelled solution under the settings in force.

        Args:
          problem, steps: texts. Steps of white space alone are dropped, and counted in ``meta["empty_steps_dropped"]``.
          ratings: -1, 0, 1 or None per step; or
          soft: a number in [0, 1] or None per step. Neither = not labelled.
          first_error: 0-based; -1 = none; None = unknown; `COMPUTE` = from the labels.
          made_by: who made the labels [default: the format's].

        Raises:
          InputError: no steps, labels of another number than steps, a first error outside the steps.
        """
        labels = ratings if ratings is not None else soft
        if labels is not None and len(labels) != len(steps):
            raise self.error(f"has {len(labels)} labels for {len(steps)} steps", hint="the row is broken: one label per step")
        if isinstance(first_error, int) and not -1 <= first_error < len(steps):
            raise self.error(f"says that step index {first_error} (from 0) is wrong, and has {len(steps)} steps",
                             hint="is index_base right?")
        kept = [index for index, step in enumerate(steps) if step.strip()]
        if not kept:
            raise self.error("has no steps" if not steps else "has only empty steps")
        meta = dict(meta or {})
        if len(kept) < len(steps):
            meta["empty_steps_dropped"] = len(steps) - len(kept)
            if isinstance(first_error, int) and first_error >= 0:  # an error at a dropped step moves to the next kept one
                first_error = next((new for new, old in enumerate(kept) if old >= first_error), None)
        provenance = f"{made_by or self.format.made_by}; {self.format.provenance(self.settings)}"
        if labels is None:
            step_labels = None
        elif ratings is not None:
            step_labels = self._hard([ratings[index] for index in kept], first_error, provenance)
        else:
            step_labels = self._soft([soft[index] for index in kept], first_error, provenance)
        base = id or str(self.number)
        return LabeledSolution(
            base, Solution(Problem(problem_id or base, problem, answer, meta), tuple(steps[index] for index in kept),
                           final_answer, correct, generator), step_labels)

    def _hard(self, ratings: list[int | None], first_error, provenance: str) -> StepLabels:
        settings = self.settings
        labels = labels_from_ratings(ratings, neutral=settings.neutral or "good", after_error=settings.after_error or "keep",
                                     first_error=None if first_error == COMPUTE else first_error)
        if first_error is None and labels.first_error == -1:
            labels = dataclasses.replace(labels, first_error=None)
        return dataclasses.replace(labels, made_by=provenance)

    def _soft(self, values: list[float | None], first_error, provenance: str) -> StepLabels:
        for value in values:
            if value is not None and not 0 <= value <= 1:
                raise self.error("must be in [0, 1]", value=value, hint="values on another scale have to be mapped first")
        values = [None if value is None else float(value) for value in values]
        limit = self.settings.bad_at_most or 0.0
        if first_error == COMPUTE:
            wrong = next((index for index, value in enumerate(values) if value is not None and value <= limit), None)
            first_error = wrong if wrong is not None else (None if None in values else -1)
        if first_error is not None and first_error >= 0 and self.settings.after_error in ("ignore", "bad"):
            tail = 0.0 if self.settings.after_error == "bad" else None
            values[first_error + 1:] = [tail] * len(values[first_error + 1:])
        return StepLabels(tuple(values), first_error, provenance)

    def index(self, number: int, steps: int, field: str) -> int:
        """A step number of the file -> its 0-based index, checked against the number of steps."""
        index = number - (self.settings.index_base or 0)
        if not 0 <= index < steps:
            raise self.error(f"is not the number of one of the {steps} steps, which are counted from "
                             f"{self.settings.index_base}", field, value=number, hint="is index_base right?")
        return index


@dataclasses.dataclass(frozen=True)
class Format:
    """A step-labelled file format.

    Attributes:
      name: as given on the command line.
      description: what a row is and what its labels mean, in a line.
      citation: paper or project, and where its files come from.
      made_by: who makes the labels of this format, unless the row says it.
      read: one raw row -> its labelled solutions; raises `InputError` for a row that it cannot read.
      defaults: the settings that this format takes, with their defaults; others are refused.
    """

    name: str
    description: str
    citation: str
    made_by: str
    read: Callable[[Row], Iterator[LabeledSolution]]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def resolve(self, settings: ReadSettings = ReadSettings()) -> ReadSettings:
        """Fills in the defaults.

        Raises:
          InputError: a setting without effect on this format.
        """
        given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        for name, value in given.items():
            if value is not None and name not in self.defaults:
                raise InputError(f"has no effect on the format '{self.name}'", field=name,
                                 hint=f"it takes {', '.join(self.defaults) or 'no settings'}")
        return ReadSettings(**{name: self.defaults.get(name) if value is None else value for name, value in given.items()})

    def provenance(self, settings: ReadSettings) -> str:
        """The settings that decide what a label means, for ``made_by``."""
        parts = [f"{name}={getattr(settings, name)}" for name in _PROVENANCE if name in self.defaults]
        return ", ".join([f"format={self.name}", *parts])


def read_format(path: str | os.PathLike, format: Format, settings: ReadSettings = ReadSettings(), *,
                on_error: OnError | None = None, first: int = 1) -> Iterator[tuple[int, list[LabeledSolution]]]:
    """Streams a file: (row number, the labelled solutions of that row; a row of a tree or of a pair has several).

    See `read_raw`.
    """
    return ((number, items) for number, _, items in read_raw(path, format, settings, on_error=on_error, first=first))


def read_raw(path: str | os.PathLike, format: Format, settings: ReadSettings = ReadSettings(), *,
             on_error: OnError | None = None,
             first: int = 1) -> Iterator[tuple[int, dict[str, Any], list[LabeledSolution]]]:
    """As `read_format`, with the raw row between the two, for tools that pass rows on as they are.

    Args:
      on_error: called with the error of every row that cannot be read, which is left out as a whole; ``None`` = the first
        one raises.
      first: rows before this one are passed over.
    """
    settings = format.resolve(settings)
    path = Path(path)
    for number, value in read_rows(path, on_error, first):
        try:
            row = Row(_object(value, path, number).data, path, number, settings, format)
            items = list(format.read(row))
        except InputError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield number, value, items


def _object(value: Any, path, number: int) -> Fields:
    if not isinstance(value, dict):
        hint = "is this the right file?"
        if isinstance(value, list):
            hint = "a file that holds all rows in one JSON array must be named .json"
        raise InputError(f"a row must be a JSON object, not {type(value).__name__}", file=path, row=number, hint=hint)
    return Fields(value, path, number)
