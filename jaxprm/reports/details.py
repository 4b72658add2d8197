"""What a report shows besides the headline numbers: curves, tables and scored solutions, as plain data.

Everything here is made of texts and numbers, so that a stage of a run can store its share as JSON
(`ReportDetails.to_json`) and a resumed run can still draw it. A part that was not measured stays at its empty default
and its section is left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprm.errors import InputError
from jaxprm.evaluation.results import to_json

Numbers = Sequence | np.ndarray
"""One-dimensional numbers; stored as a tuple."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line with an optional confidence band. ``x``, ``y``, ``low`` and ``high`` have one length; one point is a
    marker."""

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None

    def __post_init__(self):
        _freeze(self, "x", "y", "low", "high")
        for field in ("y", "low", "high"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.x):
                raise InputError(f"has {len(values)} values for {len(self.x)} points of x", field=f"Curve.{field}")
        if (self.low is None) != (self.high is None):
            raise InputError("needs both low and high, or neither", field="Curve.low", value=self.low)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes: labels with units, curves, a sentence below (``caption``), and whether x is logarithmic (base
    2)."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    caption: str = ""
    log_x: bool = False

    def __post_init__(self):
        _freeze(self, "curves")


@dataclasses.dataclass(frozen=True)
class Bar:
    """A value with its interval (in the unit of its axis) and the number of cases behind it."""

    name: str
    mean: float
    low: float
    high: float
    count: int | None = None


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram: mean predicted probability, observed share of right steps, number of steps."""

    predicted: Numbers
    observed: Numbers
    count: Numbers

    def __post_init__(self):
        _freeze(self, "predicted", "observed", "count")
        if not len(self.predicted) == len(self.observed) == len(self.count):
            raise InputError("predicted, observed and count must have one length", field="Reliability.count",
                             value=self.count)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of steps, ``counts[exact][estimated]`` with 0 = wrong and 1 = right."""

    counts: Sequence[Sequence[int]]
    threshold: float

    def __post_init__(self):
        object.__setattr__(self, "counts", tuple(tuple(row) for row in self.counts))
        if [len(row) for row in self.counts] != [2, 2]:
            raise InputError("must be a 2 x 2 table", field="Confusion.counts", value=self.counts)


@dataclasses.dataclass(frozen=True)
class ScoredSolution:
    """A solution with one score per step, to be shown step by step.

    Attributes:
      problem: text of the problem.
      steps: text of each step.
      scores: score per step; probability that it is right (``None``: not scored). Values outside [0, 1] are coloured
        as the nearer end, and printed as they are.
      labels: label per step in [0, 1] (``None``: not judged), or ``None`` altogether.
      first_error: 0-based index of the first wrong step, -1 = no wrong step, ``None`` = unknown.
      answer: final answer of the solution.
      reference: right answer.
      correct: whether the final answer is right.
      aggregate: score of the whole solution.
      title: a short heading, as "chosen by the PRM".
    """

    problem: str
    steps: Sequence[str]
    scores: Sequence
    labels: Sequence | None = None
    first_error: int | None = None
    answer: str | None = None
    reference: str | None = None
    correct: bool | None = None
    aggregate: float | None = None
    title: str = ""

    def __post_init__(self):
        _freeze(self, "steps", "scores", "labels")
        for field in ("scores", "labels"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.steps):
                raise InputError(f"has {len(values)} values for {len(self.steps)} steps",
                                 field=f"ScoredSolution.{field}")
        if self.first_error is not None and not -1 <= self.first_error < len(self.steps):
            raise InputError(f"is not a step index (there are {len(self.steps)} steps)",
                             field="ScoredSolution.first_error", value=self.first_error)


@dataclasses.dataclass(frozen=True)
class ReportDetails:
    """Everything `build_report` draws besides ``results.json``.

    Attributes:
      title: heading of the report.
      introduction: one paragraph for readers who see the project for the first time.
      settings: what was run, shown as a table (``{"policy": "2 layers, width 128", "machine": "2 CPU cores"}``).
      accuracy_by_samples: accuracy against N, one curve per way of choosing (y and band: fraction of problems).
      accuracy_by_tokens: the same against policy tokens per problem; beam search is a curve of one or more points here.
      reliability: calibration of the step scores.
      auroc_by_position: step AUROC against the 1-based step number, with its band.
      planted_errors: share of planted errors that the PRM catches, by kind (fraction).
      confusion: Monte-Carlo against exact labels.
      agreement_by_threshold: share of agreeing labels against the threshold on the Monte-Carlo value.
      training: panels of training curves (loss against update, ...).
      rl_curves: panels of the RL runs (pass@1 against update, ...); the bars come from ``results["rl"]``.
      examples: solutions to show step by step.
    """

    title: str = "jaxprm report"
    introduction: str = ""
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    accuracy_by_samples: Sequence[Curve] = ()
    accuracy_by_tokens: Sequence[Curve] = ()
    reliability: Reliability | None = None
    auroc_by_position: Curve | None = None
    planted_errors: Sequence[Bar] = ()
    confusion: Confusion | None = None
    agreement_by_threshold: Curve | None = None
    training: Sequence[Panel] = ()
    rl_curves: Sequence[Panel] = ()
    examples: Sequence[ScoredSolution] = ()

    def __post_init__(self):
        _freeze(self, "accuracy_by_samples", "accuracy_by_tokens", "planted_errors", "training", "rl_curves",
                "examples")

    def to_json(self) -> dict[str, Any]:
        """Nested dicts and lists for ``json.dump``; NaN becomes ``None``."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ReportDetails:
        """The inverse of `to_json`; absent keys take their defaults.

        Raises:
          InputError: an unknown key, or a value that does not fit.
        """
        values = dict(data)
        unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise InputError("is not a field of ReportDetails", field=min(unknown))
        for key, make in (("accuracy_by_samples", _curve), ("accuracy_by_tokens", _curve), ("training", _panel),
                          ("rl_curves", _panel), ("planted_errors", _bar),
                          ("examples", lambda row: ScoredSolution(**row))):
            if key in values:
                values[key] = tuple(make(row) for row in values[key])
        for key, make in (("auroc_by_position", _curve), ("agreement_by_threshold", _curve),
                          ("reliability", lambda row: Reliability(**row)), ("confusion", lambda row: Confusion(**row))):
            if values.get(key) is not None:
                values[key] = make(values[key])
        return cls(**values)


def _freeze(instance, *fields: str) -> None:
    """Lists (and NumPy arrays) become tuples of Python values."""
    for field in fields:
        values = getattr(instance, field)
        if values is not None:
            values = values.tolist() if hasattr(values, "tolist") else values
            object.__setattr__(instance, field, tuple(v.item() if hasattr(v, "item") else v for v in values))


def _nan(values: Sequence | None):
    return None if values is None else tuple(math.nan if value is None else value for value in values)


def _bar(row: dict) -> Bar:
    return Bar(**(row | {key: math.nan if row[key] is None else row[key] for key in ("mean", "low", "high")}))


def _curve(row: dict) -> Curve:
    return Curve(**(row | {key: _nan(row.get(key)) for key in ("x", "y", "low", "high")}))


def _panel(row: dict) -> Panel:
    return Panel(**(row | {"curves": tuple(_curve(curve) for curve in row["curves"])}))
