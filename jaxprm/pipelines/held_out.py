"""Numbers of the held-out problems while a reward model is being trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprm.data.examples import Example
from jaxprm.data.pipeline import StepDataset
from jaxprm.evaluation.steps import StepPredictions
from jaxprm.metrics import auroc, expected_calibration_error, first_below, first_error_f1
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.objectives.loss import Loss
from jaxprm.records import LabeledSolution
from jaxprm.training import on_one_device

THRESHOLD = 0.5


def held_out_numbers(score: Callable[[Any], list[np.ndarray]], items: Sequence[LabeledSolution], examples: Sequence[Example],
                     loss_function: Callable[..., Loss], *, row_tokens: int, row_steps: int,
                     batch_rows: int) -> Callable[[Any], dict[str, float]]:
    """A function from a model to its numbers on the held-out problems: those of the final evaluation, without intervals.

    ``step_auroc``, ``first_error_f1`` (at 0.5), ``ece`` (both of probabilities), and ``loss``: the objective's mean, over
    batches of the size that is trained on. NaN where a number is not defined: one class only, no first errors, scores that
    are no probabilities. Every process computes all of it.

    Args:
      score: (model) -> scores in [0, 1] of the steps of every solution.
      items: the held-out solutions.
      examples: the same as training examples, with their weights.
      loss_function: (model, batch) -> Loss.
      row_tokens, row_steps, batch_rows: size of a batch.
    """
    dataset = StepDataset(examples, row_tokens=row_tokens, row_steps=row_steps, batch_rows=batch_rows, seed=None, epochs=1)
    batches = list(dataset)
    compiled = jax.jit(loss_function)

    def numbers(model) -> dict[str, float]:
        model = with_parameters(model, on_one_device(parameters(model)))
        loss = Loss.zero()
        for batch in batches:
            loss = loss + compiled(model, batch)
        return {**_of_scores(items, score(model)), "loss": float(loss.mean()) if loss.weight > 0 else np.nan}

    return numbers


def _of_scores(items: Sequence[LabeledSolution], scores: Sequence[np.ndarray]) -> dict[str, float]:
    flat = np.concatenate(scores)
    if not ((flat >= 0) & (flat <= 1)).all():
        return dict.fromkeys(("step_auroc", "first_error_f1", "ece"), np.nan)
    predictions = StepPredictions.from_solutions(items, scores)
    labels = np.array([np.nan if label is None else label for row in predictions.labels for label in row], np.float64)
    judged = ~np.isnan(labels)
    probabilities, labels = np.concatenate(predictions.scores)[judged], labels[judged]
    right = labels >= 0.5
    known = [(first_below(row, THRESHOLD), first) for row, first in zip(predictions.scores, predictions.first_errors)
             if first is not None]
    both = {first < 0 for _, first in known} == {True, False}
    return {"step_auroc": float(auroc(probabilities, right)) if 0 < right.sum() < len(right) else np.nan,
            "first_error_f1": first_error_f1(*zip(*known)).f1 if both else np.nan,
            "ece": expected_calibration_error(probabilities, labels).error if len(labels) else np.nan}
