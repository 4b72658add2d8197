"""Right and wrong steps of any labelled file: the general benchmark of step scores."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import (
    Benchmark,
    EvaluateOptions,
    Evaluation,
    Item,
    Line,
    ReadPolicies,
    Scores,
    read_labeled,
)
from jaxprm.evaluation.steps import FirstErrorRow, StepEvaluation, StepPredictions, evaluate_steps, judged_steps
from jaxprm.metrics import auroc_statistic, average_precision_statistic, statistic_of_sums
from jaxprm.metrics.first_error import best_threshold, first_below
from jaxprm.metrics.processbench import f1_of_sums, first_error_columns

WITHIN, AUROC, AUPRC = "AUROC within position", "AUROC", "AUPRC of wrong steps"
FIXED, CHOSEN = "first-error F1 at {:g}", "first-error F1 at chosen threshold"
ITSELF = "the evaluated set itself (oracle)"


def read(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """Every solution; those without a judged step do not count."""
    rows = [row for file in files for row in read_labeled(file, (), policies)]
    return [Item.of(row, skip=None if _judged(row.item.labels) else "unlabeled") for row in rows]


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """AUROC and AUPRC of steps, first-error F1 and ECE. A prefix that many solutions share is judged once."""
    predictions = StepPredictions.from_solutions([item.labeled for item in items], scores)
    chosen, fixed = options.chosen, options.threshold.value
    if options.threshold.kind == "oracle":
        chosen = (ITSELF, _best(predictions))
    result = evaluate_steps(predictions, options.key, threshold=fixed, calibration=chosen, resamples=options.resamples)
    steps = judged_steps(predictions)
    right, groups = steps.labels >= 0.5, steps.problems
    compared = {WITHIN: auroc_statistic(steps.scores, right, groups, steps.positions),
                AUROC: auroc_statistic(steps.scores, right, groups),
                AUPRC: average_precision_statistic(-steps.scores, ~right, groups)}
    numbers = {WITHIN: result.auroc_within_position}
    for row in reversed(result.first_error):
        name = FIXED.format(fixed) if row.chosen_on == "fixed" else CHOSEN
        numbers |= {name: row.f1, **_accuracies(name, row)}
        compared[name] = first_error_statistic(predictions, row.threshold)
    numbers |= {AUROC: result.auroc, AUPRC: options.interval(compared[AUPRC]), "ECE": result.ece}
    table = {str(row.position + 1): {"AUROC": row.auroc, "right": row.right, "wrong": row.wrong} for row in result.positions}
    return Evaluation(numbers, {"by position of the step": table}, roc_and_pr(steps.scores, right) | f1_curve(predictions),
                      result.calibration, compared, _thresholds(result), result)


def first_error_statistic(predictions: StepPredictions, threshold: float):
    """The first-error F1 at a threshold as a statistic of problems; solutions with an unknown first error do not count."""
    guesses = [first_below(scores, threshold) for scores in predictions.scores]
    known = np.array([first is not None for first in predictions.first_errors], float)
    columns = first_error_columns(guesses, [-2 if first is None else first for first in predictions.first_errors])
    return statistic_of_sums(columns * known[:, None], f1_of_sums, predictions.problems)


def roc_and_pr(scores: np.ndarray, right: np.ndarray) -> dict[str, Line]:
    """The two curves of "a step below the threshold is wrong", over all thresholds; none where a class is empty."""
    if right.all() or not right.any():
        return {}
    order = np.argsort(scores, kind="stable")
    scores, wrong = scores[order], ~right[order]
    last = np.append(scores[1:] != scores[:-1], True)
    found, called = np.cumsum(wrong)[last], np.flatnonzero(last) + 1
    recall, alarms = found / wrong.sum(), (called - found) / (~wrong).sum()
    keep = thin(recall + alarms)
    return {
        "ROC": Line("right steps called wrong", "wrong steps found", np.append(0.0, alarms[keep]), np.append(0.0, recall[keep]),
                    "One point per threshold on the score of a step; a guess lies on the diagonal."),
        "Precision and recall": Line("recall of wrong steps", "precision", recall[keep], (found / called)[keep],
                                     "Of the steps called wrong, how many are; by how many of all wrong ones are found.")}


def f1_curve(predictions: StepPredictions) -> dict[str, Line]:
    """First-error F1 against the threshold."""
    known = [row for row, first in enumerate(predictions.first_errors) if first is not None]
    true = [predictions.first_errors[row] for row in known]
    if not any(first >= 0 for first in true) or not any(first < 0 for first in true):
        return {}
    return {"First-error F1": threshold_curve([predictions.scores[row] for row in known], true)}


def threshold_curve(scores: Scores, true: Sequence[int], points: int = 101) -> Line:
    """First-error F1 at equally spaced thresholds between the lowest and the highest score, or between 0 and 1."""
    values = np.concatenate([np.asarray(row, np.float64) for row in scores])
    low, high = (0.0, 1.0) if values.min() >= 0 and values.max() <= 1 else (values.min(), values.max())
    thresholds = np.linspace(low, high, points)
    curve = [float(f1_of_sums(first_error_columns([first_below(row, threshold) for row in scores], true).sum(axis=0)))
             for threshold in thresholds]
    return Line("threshold", "F1", thresholds, np.array(curve),
                "Harmonic mean of the errors located exactly and of the right solutions passed, by threshold.")


def thin(position: np.ndarray, most: int = 400) -> np.ndarray:
    """Indices of at most so many points of a curve, evenly along ``position`` (rising), the last one included."""
    places = np.searchsorted(position, np.linspace(position[0], position[-1], most))
    return np.unique(np.append(places, len(position) - 1))


def _judged(labels) -> bool:
    return labels is not None and any(value is not None for value in labels.values)


def _best(predictions: StepPredictions) -> float:
    known = [row for row, first in enumerate(predictions.first_errors) if first is not None]
    if not known:
        return float("nan")
    return best_threshold([predictions.scores[row] for row in known], [predictions.first_errors[row] for row in known])


def _accuracies(name: str, row: FirstErrorRow) -> dict:
    return {f"  errors found ({name.removeprefix('first-error F1 ')})": row.acc_error,
            f"  clean passed ({name.removeprefix('first-error F1 ')})": row.acc_clean}


def _thresholds(result: StepEvaluation) -> dict:
    return {"thresholds": {row.chosen_on: row.threshold for row in result.first_error}}


STEPS = Benchmark(
    name="steps", title="Right and wrong steps",
    citation="AUROC and AUPRC as usual; within position: our own definition; first-error F1: Zheng et al. 2024, ProcessBench, "
             "arXiv 2412.06559",
    description="Any labelled file: do scores tell right from wrong steps, also among steps at the same position, and where is "
                "the first wrong one? Every file is a set of its own.",
    data="rows with `problem`, `steps` and `labels` (`jaxprm data convert` makes them from every format)",
    headline="AUROC within position: probability that a right step scores above a wrong one at the same position",
    read=read, evaluate=evaluate, twin=twins.steps, thresholds=("fixed", "oracle"), probabilities=True, per_file=True)
