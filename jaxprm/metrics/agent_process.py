"""AgentProcessBench (Fan et al. 2026, arXiv:2603.14465): three kinds of steps in the traces of agents that use tools.

Humans call a step right (1), neutral (0: it explores, and neither helps nor harms) or wrong (-1). The published evaluation
compares labels; three numbers follow its code. How the score of a reward model becomes one of three labels is not defined
there: `ternary` is our own reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxprm.metrics.first_error import NO_ERROR


@dataclasses.dataclass(frozen=True)
class AgentProcess:
    """The numbers; nan without a labelled step or a trace.

    Attributes:
      step_accuracy: share of the labelled steps, pooled over the traces, whose label is predicted (the headline).
      trace_accuracy: share of the traces with every label predicted.
      first_error_accuracy: share of the traces whose first wrong step is predicted, "there is none" included.
      decided_accuracy: share of the right and wrong steps, without the neutral ones, whose label is predicted (ours: what a
        model of two labels can reach).
    """

    step_accuracy: float
    trace_accuracy: float
    first_error_accuracy: float
    decided_accuracy: float


def agent_process(predicted: Sequence[Sequence[int]], labels: Sequence[Sequence[int | None]]) -> AgentProcess:
    """The numbers from predicted labels.

    Args:
      predicted: per trace, per step, -1, 0 or 1; read where the step is labelled.
      labels: the same of humans, None = not labelled.

    Raises:
      ValueError: lengths that differ, a label that is none.
    """
    return AgentProcess(*agent_process_of_sums(trace_columns(predicted, labels).sum(axis=0)).tolist())


def trace_columns(predicted: Sequence[Sequence[int]], labels: Sequence[Sequence[int | None]]) -> Float[np.ndarray, "N 7"]:
    """What every trace adds to the sums of `agent_process_of_sums`: steps predicted, steps, trace predicted, first error
    predicted, 1, decided steps predicted, decided steps."""
    if len(predicted) != len(labels):
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} traces")
    rows = []
    for number, (guess, gold) in enumerate(zip(predicted, labels)):
        if len(guess) != len(gold):
            raise ValueError(f"trace {number} has {len(guess)} predictions for {len(gold)} steps")
        known = [step for step, label in enumerate(gold) if label is not None]
        if not {guess[step] for step in known} | {gold[step] for step in known} <= {-1, 0, 1}:
            raise ValueError(f"trace {number} has a label other than -1, 0 and 1")
        match = [guess[step] == gold[step] for step in known]
        decided = [hit for hit, step in zip(match, known) if gold[step]]
        first = [next((step for step in known if kind[step] == -1), NO_ERROR) for kind in (guess, gold)]
        rows.append([sum(match), len(match), all(match), first[0] == first[1], 1, sum(decided), len(decided)])
    return np.array(rows, np.float64).reshape(-1, 7)


def agent_process_of_sums(sums: np.ndarray) -> np.ndarray:
    """`[..., 7]` sums of `trace_columns` -> `[..., 4]` in the order of `AgentProcess`; nan where a denominator is 0."""
    steps, labelled, whole, first, traces, sides, decided = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.stack([steps / labelled, whole / traces, first / traces, sides / decided], axis=-1)


def ternary(scores: Float[np.ndarray, " S"] | Sequence[float], wrong_below: float,
            right_from: float | None = None) -> list[int]:
    """Labels from scores: -1 below `wrong_below`, 1 from `right_from` on, 0 between the two.

    Our own reading. Without `right_from` no step is ever called neutral, which is what a reward model of right and wrong says.

    Raises:
      ValueError: bounds in the wrong order, a score that is not a number.
    """
    right_from = wrong_below if right_from is None else right_from
    if not wrong_below <= right_from:
        raise ValueError(f"steps cannot be wrong below {wrong_below:g} and right from {right_from:g} on")
    scores = np.asarray(scores, np.float64)
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    return (np.where(scores < wrong_below, -1, np.where(scores < right_from, 0, 1))).tolist()
