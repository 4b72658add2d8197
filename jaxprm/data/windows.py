"""Windows of two steps as lessons of their own (HRM, 2025): a coarse judgement beside that of every single step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, StepLabels


def merged_windows(items: Sequence[LabeledSolution], probability: float, key: int | tuple[int, ...],
                   joiner: str = " ") -> list[tuple[int, LabeledSolution]]:
    """Copies of solutions in which two consecutive steps are written as one step.

    Each solution is chosen with ``probability``; the window is uniform among the pairs whose second step is judged. Only the
    merged step is judged in the copy, with the label of its second step: what the pair as a whole has come to, so that an
    error that the next step repairs is no error of the pair. (The authors relabel the merged node of a search tree from its
    leaves, which are those of the second step.)

        steps a b c, labels 1 0 1, window (b, c)  ->  steps a "b c", labels None 1

    Args:
      items: labelled solutions.
      probability: in [0, 1].
      key: seed; the result for solution i depends on the key, i and the solution alone.
      joiner: stands between the two texts.

    Returns:
      (index of the solution, copy) of those that were chosen and have such a pair.
    """
    if not 0 <= probability <= 1:
        raise InputError("must be a probability", field="probability", value=probability)
    found = []
    for index, item in enumerate(items):
        labels = item.labels.values if item.labels else ()
        pairs = [second for second in range(1, len(labels)) if labels[second] is not None]
        rng = np.random.default_rng(np.append(np.asarray(key), index))
        if not pairs or rng.random() >= probability:
            continue
        second = pairs[int(rng.integers(len(pairs)))]
        steps = item.solution.steps
        steps = (*steps[: second - 1], steps[second - 1] + joiner + steps[second], *steps[second + 1 :])
        values = tuple([labels[second] if place == second - 1 else None for place in range(len(steps))])
        copy = LabeledSolution(f"{item.id}/window-{second - 1}", dataclasses.replace(item.solution, steps=steps),
                               StepLabels(values, None, f"{item.labels.made_by}; two steps merged"))
        found.append((index, copy))
    return found
