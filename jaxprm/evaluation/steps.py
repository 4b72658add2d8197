"""How well step scores tell right from wrong steps: one evaluation of a labelled set, every number with an interval.

Steps of one problem are not independent, so all intervals resample whole problems. Two thresholds are kept apart: a
*fixed* one, and one *chosen* on another split that has to be named; a threshold chosen on the evaluated set itself
would flatter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxprm.errors import InputError
from jaxprm.evaluation.distinct import distinct_steps
from jaxprm.metrics import (
    NO_ERROR,
    Calibration,
    Interval,
    best_threshold,
    bootstrap_auroc,
    bootstrap_interval,
    bootstrap_mean,
    expected_calibration_error,
    first_below,
    first_error_f1,
)
from jaxprm.records import LabeledSolution


@dataclasses.dataclass(frozen=True, eq=False)
class StepPredictions:
    """Scores and labels of a set of solutions; one entry per solution in every field.

    Attributes:
      scores: float[number of steps] each, probability that the step is right.
      labels: label per step in [0, 1], or None where not judged; a label counts as right from 0.5 on.
      first_errors: 0-based index of the first wrong step, -1 = none, None = unknown (left out of the first-error F1).
      problems: the problem of each solution: what the bootstrap resamples.
      kinds: the kind of error planted at ``first_errors``, None for a solution without one; or None for a set without
        kinds.

    Raises:
      InputError: fields differ in length, a score is not a probability, a planted kind without a first error.
    """

    scores: Sequence[np.ndarray | Sequence]
    labels: Sequence[Sequence[float | int | None]]
    first_errors: Sequence[int | None]
    problems: Sequence[str]
    kinds: Sequence[str | None] | None = None

    def __post_init__(self):
        object.__setattr__(self, "scores", [np.asarray(row, np.float64) for row in self.scores])
        for field in ("labels", "first_errors", "problems", "kinds"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.scores):
                raise InputError(f"has {len(values)} entries for {len(self.scores)} solutions", field=field)
        for row, (scores, labels, first) in enumerate(zip(self.scores, self.labels, self.first_errors), 1):
            if scores.shape != (len(labels),):
                raise InputError(f"has {len(labels)} labels for {scores.size} scores", row=row, field="labels")
            outside = scores[~((scores >= 0) & (scores <= 1))]
            if outside.size:
                raise InputError("must be a probability", row=row, field="scores", value=float(outside[0]))
            if first is not None and not NO_ERROR <= first < len(labels):
                raise InputError(f"is not a step index ({len(labels)} steps)", row=row, field="first_errors",
                                 value=first)
            if self.kinds is not None and self.kinds[row - 1] is not None and (first is None or first == NO_ERROR):
                raise InputError("is given for a solution without a first error", row=row, field="kinds",
                                 value=self.kinds[row - 1])

    @classmethod
    def from_solutions(cls, items: Sequence[LabeledSolution], scores: Sequence[np.ndarray | Sequence],
                       kinds: Sequence[str | None] | None = None, *, distinct: bool = True) -> StepPredictions:
        """From labelled solutions and one list of scores for each. Solutions with the same prompt are one problem.

        ``distinct``: a prefix that several rows share is judged once (see `distinct_steps`), or in each of them. First
        errors and planted kinds belong to rows and are not touched.
        """
        for row, item in enumerate(items, 1):
            if item.labels is None:
                raise InputError("has no labels", row=row, field="labels", hint="evaluate labelled solutions only")
        labels = [item.labels.values for item in items]
        if distinct:
            labels = [[None] * len(row) for row in labels]
            for row, step in distinct_steps(items):
                labels[row][step] = items[row].labels.values[step]
        return cls(scores, labels, [item.labels.first_error for item in items],
                   [" ".join(item.solution.problem.prompt.split()) for item in items], kinds)


@dataclasses.dataclass(frozen=True)
class PositionRow:
    """AUROC among the steps at one 0-based position, with the number of right and wrong steps there."""

    position: int
    auroc: Interval
    right: int
    wrong: int


@dataclasses.dataclass(frozen=True)
class FirstErrorRow:
    """First-error F1 (ProcessBench) at one threshold: "the first step that scores strictly below it is wrong".

    ``chosen_on`` is ``"fixed"`` or the name of the split the threshold was chosen on; ``acc_error`` and ``acc_clean``
    are the shares of the ``erroneous`` and ``clean`` solutions that are judged exactly; ``f1`` is their harmonic mean.
    """

    threshold: float
    chosen_on: str
    f1: Interval
    acc_error: Interval
    acc_clean: Interval
    erroneous: int
    clean: int


@dataclasses.dataclass(frozen=True)
class KindRow:
    """Planted errors of one kind.

    Attributes:
      kind: the name of the kind.
      count: planted errors of this kind.
      caught: share whose step scores below the fixed threshold.
      located: share where that step is the first below it.
      auroc: probability that a planted step scores below a random right step of the whole set; needs no threshold.
    """

    kind: str
    count: int
    caught: Interval
    located: Interval
    auroc: Interval


@dataclasses.dataclass(frozen=True)
class StepEvaluation:
    """Result of `evaluate_steps`; ``right`` is the share of right steps among the judged ones."""

    solutions: int
    problems: int
    judged: int
    right: float
    auroc: Interval
    auroc_within_position: Interval
    positions: tuple[PositionRow, ...]
    ece: Interval
    calibration: Calibration
    first_error: tuple[FirstErrorRow, ...]
    kinds: tuple[KindRow, ...]


def evaluate_steps(predictions: StepPredictions, key: int | tuple[int, ...], *, threshold: float = 0.5,
                   calibration: tuple[str, StepPredictions | float] | None = None, bins: int = 10,
                   resamples: int = 1000) -> StepEvaluation:
    """AUROC (plain and within position), ECE, first-error F1 and planted errors by kind, each with a 95 % interval.

    Args:
      predictions: scores and labels.
      key: seed of the bootstrap.
      threshold: fixed threshold of the first-error F1 and of planted errors.
      calibration: (name, predictions of another split); a second row of the F1 then uses the threshold that is best
        there. A number instead of predictions is a threshold that was chosen on that split before.
      bins: equal-width bins of the reliability table and the ECE.
      resamples: how often problems are resampled.

    Raises:
      InputError: no step is judged, or the calibration split has no name or no solution with a known first error.
    """
    groups, group = np.unique(np.asarray(predictions.problems, str), return_inverse=True)
    steps = judged_steps(predictions)
    scores, labels, positions, problem = steps.scores, steps.labels, steps.positions, steps.problems
    right = labels >= 0.5
    options = {"key": key, "resamples": resamples}

    table = []
    for position in np.unique(positions):
        here = positions == position
        if 0 < right[here].sum() < here.sum():
            value = bootstrap_auroc(scores[here], right[here], problem[here], **options)
            table.append(PositionRow(int(position), value, int(right[here].sum()), int((~right[here]).sum())))
    reliability = expected_calibration_error(scores, labels, bins)
    fixed = [(threshold, "fixed")]
    if calibration is not None:
        fixed.append((_choose(*calibration), calibration[0]))
    return StepEvaluation(
        solutions=len(predictions.scores), problems=len(groups), judged=len(labels), right=float(right.mean()),
        auroc=bootstrap_auroc(scores, right, problem, **options),
        auroc_within_position=bootstrap_auroc(scores, right, problem, positions=positions, **options),
        positions=tuple(table), calibration=reliability,
        ece=_ece_interval(reliability, scores, labels, problem, options),
        first_error=tuple(_first_error(predictions, group, *chosen, options) for chosen in fixed),
        kinds=_planted(predictions, group, threshold, scores[right], problem[right], options))


@dataclasses.dataclass(frozen=True, eq=False)
class JudgedSteps:
    """The judged steps of all solutions, one entry per step: score, label, 0-based position, and number of the problem."""

    scores: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    problems: np.ndarray


def judged_steps(predictions: StepPredictions) -> JudgedSteps:
    """The steps that have a label.

    Raises:
      InputError: there is none.
    """
    group = np.unique(np.asarray(predictions.problems, str), return_inverse=True)[1]
    lengths = [len(row) for row in predictions.scores]
    labels = np.array([np.nan if label is None else label for row in predictions.labels for label in row], np.float64)
    judged = ~np.isnan(labels)
    if not judged.any():
        raise InputError("no step is judged", field="labels", hint="evaluate a set with step labels")
    positions = np.concatenate([np.arange(length) for length in lengths])
    return JudgedSteps(np.concatenate(predictions.scores)[judged], labels[judged], positions[judged],
                       np.repeat(group, lengths)[judged])


def _choose(name: str, predictions: StepPredictions | float) -> float:
    if not name or name == "fixed":
        raise InputError("needs the name of the split", field="calibration", value=name)
    if not isinstance(predictions, StepPredictions):
        return float(predictions)
    known = [row for row, first in enumerate(predictions.first_errors) if first is not None]
    if not known:
        raise InputError("has no solution with a known first error", field="calibration", value=name)
    return best_threshold([predictions.scores[row] for row in known], [predictions.first_errors[row] for row in known])


def _ece_interval(calibration: Calibration, scores, labels, problem, options) -> Interval:
    """ECE is sum_b |sum over the bin (label - score)| / N: sums per problem and bin are all a resample needs."""
    bins, problems = len(calibration.count), problem.max() + 1
    index = np.clip(np.searchsorted(calibration.edges, scores, side="right") - 1, 0, bins - 1)
    gaps = np.bincount(problem * bins + index, labels - scores, minlength=problems * bins).reshape(problems, bins)
    sizes = np.bincount(problem, minlength=problems)
    some = np.flatnonzero(sizes)
    return bootstrap_interval(lambda rows: np.abs(gaps[some[rows]].sum(axis=0)).sum() / sizes[some[rows]].sum(), some,
                              **options)


def _first_error(predictions: StepPredictions, group, threshold: float, chosen_on: str, options) -> FirstErrorRow:
    known = np.array([first is not None for first in predictions.first_errors], bool)
    gold = np.array([first for first in predictions.first_errors if first is not None], np.int64)
    guess = np.array([first_below(row, threshold) for row, keep in zip(predictions.scores, known) if keep], np.int64)
    problem, hit, clean = group[known], guess == gold, gold == NO_ERROR
    sums = np.stack([np.bincount(problem, weights, minlength=group.max() + 1)
                     for weights in (hit & ~clean, ~clean, hit & clean, clean)], axis=1)

    def f1(rows):
        found, erroneous, passed, innocent = sums[rows].sum(axis=0)
        if not erroneous or not innocent:
            return None
        error, passed = found / erroneous, passed / innocent
        return 2 * error * passed / (error + passed) if error + passed else 0.0

    whole = first_error_f1(guess, gold)
    shares = [bootstrap_mean(hit[side], problem[side], **options) for side in (~clean, clean)]
    return FirstErrorRow(float(threshold), chosen_on, bootstrap_interval(f1, np.arange(len(sums)), **options), *shares,
                         erroneous=whole.erroneous, clean=whole.clean)


def _planted(predictions: StepPredictions, group, threshold: float, right_scores, right_problem,
             options) -> tuple[KindRow, ...]:
    rows = []
    for kind in sorted({kind for kind in predictions.kinds or () if kind is not None}):
        members = np.array([row for row, name in enumerate(predictions.kinds) if name == kind])
        planted = np.array([predictions.scores[row][predictions.first_errors[row]] for row in members])
        located = [first_below(predictions.scores[row], threshold) == predictions.first_errors[row] for row in members]
        labels = np.repeat([True, False], [len(right_scores), len(planted)])
        area = bootstrap_auroc(np.append(right_scores, planted), labels, np.append(right_problem, group[members]),
                               **options)
        rows.append(KindRow(kind, len(members), bootstrap_mean(planted < threshold, group[members], **options),
                            bootstrap_mean(located, group[members], **options), area))
    return tuple(rows)
