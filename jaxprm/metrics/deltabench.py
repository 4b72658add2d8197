"""DeltaBench (He et al. 2025, arXiv:2502.19361): all wrong sections of long chains of thought."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxprm.metrics.bootstrap import Interval, bootstrap_mean

_FIELD = re.compile(r"Error Section Number:[ \t]*([^\n]*)")


@dataclasses.dataclass(frozen=True)
class SectionScore:
    """One solution: precision, recall and F1 of the sections called wrong; 0.0 where a denominator is empty."""

    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    fn: int


@dataclasses.dataclass(frozen=True)
class Deltabench:
    """The benchmark's numbers.

    Attributes:
      rows: of every solution.
      precision_macro, recall_macro, f1_macro: means over solutions; `f1_macro` is the headline.
      precision_micro, recall_micro, f1_micro: of the pooled counts; 0.0 where a denominator is empty.
    """

    rows: tuple[SectionScore, ...]
    precision_macro: float
    recall_macro: float
    f1_macro: float
    precision_micro: float
    recall_micro: float
    f1_micro: float

    def f1_interval(self, groups, key, **options) -> Interval:
        """The macro F1 with its bootstrap interval; `groups` name the problem of each solution."""
        return bootstrap_mean([row.f1 for row in self.rows], groups, key, **options)


def deltabench(predicted: Sequence[Sequence[int]], true: Sequence[Sequence[int]], *, late: str = "drop") -> Deltabench:
    """All numbers from the sections called wrong and those that are.

    Args:
      predicted: per solution, numbers of the sections called wrong (any base, the same as `true`).
      true: per solution, the wrong ones; at least one each, as in the data.
      late: "drop" leaves out predictions behind the last wrong section, as the published evaluation does, so that a
        model is not charged for false alarms there; "count" counts them as false alarms. Scores compare within one of
        the two only.

    Raises:
      ValueError: lengths that differ, a solution without a wrong section, an unknown `late`.
    """
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} solutions")
    if late not in ("drop", "count"):
        raise ValueError(f"late must be 'drop' or 'count', not {late!r}")
    rows = tuple(_row(set(guess), set(gold), late, number) for number, (guess, gold) in enumerate(zip(predicted, true)))
    macro = [float(np.mean([getattr(row, name) for row in rows])) if rows else float("nan")
             for name in ("precision", "recall", "f1")]
    tp, fp, fn = (sum(getattr(row, name) for row in rows) for name in ("tp", "fp", "fn"))
    return Deltabench(rows, *macro, *_precision_recall_f1(tp, fp, fn))


def low_sections(scores: Float[np.ndarray, " S"] | Sequence[float], deviations: float = 1.0) -> list[int]:
    """0-based sections whose score lies more than so many standard deviations below the mean of its own solution.

    The benchmark's rule for reward models, whose scores have no common threshold. Constant scores call nothing wrong.
    """
    scores = np.asarray(scores, np.float64)
    if not len(scores):
        return []
    return np.flatnonzero(scores < scores.mean() - deviations * scores.std()).tolist()


def critique_sections(text: str) -> list[int]:
    """The section numbers that a critique in the benchmark's output format names.

      In:   "Conclusion: yes\\nError Section Number: section 4\\n..."
      Out:  [4]

    The first whole number after every "Error Section Number:", -1 (which matches nothing) where there is none; the
    empty list unless the conclusion is "yes".
    """
    conclusion = re.search(r"Conclusion:[ \t]*(\w+)", text)
    if conclusion is None or conclusion.group(1).lower() != "yes":
        return []
    numbers = (re.search(r"[0-9]+", field) for field in _FIELD.findall(text))
    return [int(number.group()) if number else -1 for number in numbers]


def _row(predicted: set[int], true: set[int], late: str, number: int) -> SectionScore:
    if not true:
        raise ValueError(f"solution {number} has no wrong section; DeltaBench is not defined there")
    if late == "drop":
        predicted = {section for section in predicted if section <= max(true)}
    tp = len(predicted & true)
    fp, fn = len(predicted) - tp, len(true) - tp
    return SectionScore(*_precision_recall_f1(tp, fp, fn), tp, fp, fn)


def _precision_recall_f1(tp: int, fp: int, fn: int) -> tuple[float, float, float]:
    return (tp / (tp + fp) if tp else 0.0, tp / (tp + fn) if tp else 0.0, 2 * tp / (2 * tp + fp + fn) if tp else 0.0)
