"""What a benchmark is: files (or a procedural twin) to items, items and step scores to numbers with intervals.

Whoever made the scores, a model or someone else, a benchmark sees one list of numbers per item. Everything that is uncertain
is a `GroupStatistic` of problems, which gives its interval and, for two models on the same items, their paired test.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprm.data.formats import FORMATS, Format, ReadSettings, read_format
from jaxprm.data.formats.rows import read_rows as read_raw_rows
from jaxprm.data.record_file import is_record_file
from jaxprm.data.rows import located, read_rows
from jaxprm.data.tfds import parse as parse_tfds
from jaxprm.errors import InputError
from jaxprm.metrics import Calibration, GroupStatistic, Interval, ThresholdProtocol
from jaxprm.records import AfterErrorPolicy, LabeledSolution, NeutralPolicy, Solution, StepLabels, parse_row

Number = Interval | float | int | None
"""A number of a benchmark; None or nan where it is not defined on the data."""


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One solution of a benchmark.

    Attributes:
      id: unique in the benchmark; scores from files are matched by it.
      group: names the problem: what the bootstrap resamples.
      solution: what is scored, step by step.
      labels: what is known of its steps, None where only the final answer is judged.
      kind: the subset or class it belongs to.
      meta: what else the benchmark needs.
      skip: why it is in the file but does not count ("unlabeled"), None = it counts.
      file, row: where it stands, for errors; None for an item that was made.
    """

    id: str
    group: str
    solution: Solution
    labels: StepLabels | None = None
    kind: str | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    skip: str | None = None
    file: str | None = None
    row: int | None = None

    @classmethod
    def of(cls, read: Read, *, group: str | None = None, kind: str | None = None, skip: str | None = None) -> Item:
        """From a row that was read. Solutions with the same problem text are one group unless ``group`` says otherwise."""
        problem = read.item.solution.problem
        return cls(read.item.id, " ".join(problem.prompt.split()) if group is None else group, read.item.solution,
                   read.item.labels, kind, problem.meta, skip, read.file, read.row)

    @property
    def labeled(self) -> LabeledSolution:
        """The record it was made of."""
        return LabeledSolution(self.id, self.solution, self.labels)


@dataclasses.dataclass(frozen=True)
class ReadPolicies:
    """How ratings of files become labels; see `jaxprm.records.labels_from_ratings`."""

    neutral: NeutralPolicy = "good"
    after_error: AfterErrorPolicy = "keep"
    drop_empty: bool = False


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """How an evaluation is made.

    Attributes:
      threshold: where the threshold on step scores comes from.
      key: seed of the bootstrap.
      resamples: how often problems are resampled.
      chosen: a threshold that was chosen for this model beforehand, and the name of the split it was chosen on.
    """

    threshold: ThresholdProtocol = ThresholdProtocol()
    key: int = 0
    resamples: int = 1000
    chosen: tuple[str, float] | None = None

    def interval(self, statistic: GroupStatistic) -> Interval:
        """A statistic with its 95 % interval."""
        return statistic.interval(self.key, resamples=self.resamples)


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A curve of one model; models of one report share the axes. ``log_x``: x doubles from point to point."""

    x_label: str
    y_label: str
    x: np.ndarray
    y: np.ndarray
    caption: str = ""
    log_x: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a benchmark says of one model.

    Attributes:
      numbers: name -> number, the headline first.
      tables: title -> row (subset, class) -> column -> number.
      lines: title of a panel -> the curve.
      reliability: bins of a reliability diagram, where scores are probabilities.
      compared: those of ``numbers`` that are statistics of problems; two models are compared by them.
      settings: what the numbers depend on beside scores and labels: thresholds and how they were chosen.
      details: further results for the JSON output, a dataclass or a mapping.
    """

    numbers: dict[str, Number]
    tables: dict[str, dict[str, dict[str, Number]]] = dataclasses.field(default_factory=dict)
    lines: dict[str, Line] = dataclasses.field(default_factory=dict)
    reliability: Calibration | None = None
    compared: dict[str, GroupStatistic] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    details: Any = None

    @property
    def headline(self) -> str:
        """The name of the first number."""
        return next(iter(self.numbers))


Scores = Sequence[np.ndarray]
"""float64[number of steps] per item, in the order of the items."""


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """A benchmark.

    Attributes:
      name: as given on the command line.
      title: as its authors call it.
      citation: paper and where its files come from.
      description: a line or two: what is asked of a model.
      data: which files it reads.
      headline: the number to quote, and what it means.
      read: files and policies to items; raises `InputError` with file, row, field and value.
      evaluate: items, one list of scores each, and options to numbers.
      twin: a procedural benchmark of the same form on the embedded tasks: (seed, number of problems) to items.
      thresholds: the kinds of threshold protocol it takes; empty = it needs no threshold.
      probabilities: whether scores must lie in [0, 1].
      per_file: whether every file is a set of its own, with numbers of its own.
    """

    name: str
    title: str
    citation: str
    description: str
    data: str
    headline: str
    read: Callable[[Sequence[str | os.PathLike], ReadPolicies], list[Item]]
    evaluate: Callable[[Sequence[Item], Scores, EvaluateOptions], Evaluation]
    twin: Callable[[int, int], list[Item]] | None = None
    thresholds: tuple[str, ...] = ("fixed", "split", "oracle")
    probabilities: bool = False
    per_file: bool = False

    def check(self, items: Sequence[Item], protocol: ThresholdProtocol) -> None:
        """Raises InputError if items and threshold protocol do not fit."""
        if protocol.kind not in self.thresholds and protocol != ThresholdProtocol():
            takes = f"it takes {', '.join(self.thresholds)}" if self.thresholds else "it needs no threshold"
            raise InputError(f"'{self.name}' does not take this kind of threshold", field="threshold", value=protocol.kind,
                             hint=takes)
        kinds = list(dict.fromkeys(item.kind or "all" for item in items))
        if protocol.kind == "split" and protocol.split not in kinds:
            raise InputError("is not a subset of this benchmark", field="threshold", value=f"split:{protocol.split}",
                             hint=f"there are {', '.join(kinds)}")


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """A solution of a file and where it stands (1-based row)."""

    item: LabeledSolution
    file: str
    row: int


def first_row(path: str | os.PathLike) -> Any:
    """The first row of a file, by which its form is told.

    Raises:
      InputError: the file cannot be read, or has no rows.
    """
    path = located(path)
    for _, value in _raw_rows(path):
        return value
    raise InputError("has no rows", file=path)


def is_own_form(path: str | os.PathLike) -> bool:
    """Whether the rows have ``labels`` or ``soft_labels``: the project's own form. Raises as `first_row`."""
    first = first_row(path)
    return isinstance(first, dict) and not first.keys().isdisjoint(("labels", "soft_labels"))


def _raw_rows(path: str | os.PathLike):
    """Raw rows of any file that is read here: what `jaxprm.data.rows` knows, and JSON arrays."""
    if parse_tfds(path) is not None or is_record_file(path):
        return read_rows(path)
    return read_raw_rows(path)


def read_labeled(path: str | os.PathLike, formats: Sequence[str], policies: ReadPolicies) -> list[Read]:
    """The solutions of a file in the project's own form (rows with ``labels`` or ``soft_labels``), or in that of a benchmark.

    Args:
      path: JSON lines, a JSON array, ArrayRecord, or a TFDS dataset (see `jaxprm.data.rows`).
      formats: formats of `jaxprm.data.formats` that rows in any other form are read as, one after another; empty: the
        project's own form alone.

    Raises:
      InputError: a row that cannot be read, or none.
    """
    path = located(path)
    if formats and not is_own_form(path):
        return [Read(item, path, row) for name in formats for row, items in read_format(
            path, FORMATS[name], read_settings(FORMATS[name], policies)) for item in items]
    found = []
    for row, value in _raw_rows(path):
        item, empty = parse_row(value, file=path, number=row, neutral=policies.neutral, after_error=policies.after_error,
                                drop_empty=policies.drop_empty)
        if empty:
            meta = item.solution.problem.meta | {EMPTY_STEPS: empty}
            problem = dataclasses.replace(item.solution.problem, meta=meta)
            item = dataclasses.replace(item, solution=dataclasses.replace(item.solution, problem=problem))
        found.append(Read(item, path, row))
    return found


EMPTY_STEPS = "empty_steps_dropped"
"""Field of ``meta`` in which readers say how many empty steps they have left out."""


def read_settings(format: Format, policies: ReadPolicies) -> ReadSettings:
    """The policies that a format takes; the others have no effect on it."""
    given = {"neutral": policies.neutral, "after_error": policies.after_error}
    return ReadSettings(**{name: value for name, value in given.items() if name in format.defaults})
