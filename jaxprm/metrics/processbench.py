"""ProcessBench (Zheng et al. 2024, arXiv:2412.06559): find the first wrong step, with the threshold protocol said aloud.

The published evaluation turns a reward model into a detector with a threshold, and which one decides several points of
F1. Three protocols, and every result names its own:

  fixed    a number given beforehand (0.5 for probabilities)
  split    the best threshold on one split, used for all the others: what papers do with GSM8K
  oracle   the best threshold of every subset on that subset: an upper bound that no user can reach
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxprm.metrics.bootstrap import Interval, bootstrap_of_sums
from jaxprm.metrics.first_error import NO_ERROR, FirstErrorF1, best_threshold, first_below, first_error_f1

_BOX = re.compile(r"\\boxed\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class ThresholdProtocol:
    """Where the threshold comes from.

    Attributes:
      kind: "fixed", "split" or "oracle".
      value: the threshold of "fixed".
      split: name of the subset on which "split" chooses.
    """

    kind: Literal["fixed", "split", "oracle"] = "fixed"
    value: float = 0.5
    split: str | None = None

    def __post_init__(self):
        if self.kind not in ("fixed", "split", "oracle"):
            raise ValueError(f"unknown threshold protocol {self.kind!r}; use 'fixed', 'split' or 'oracle'")
        if (self.kind == "split") != (self.split is not None):
            raise ValueError(f"protocol {self.kind!r} and split {self.split!r} do not fit: 'split' alone names a split")

    def __str__(self) -> str:
        return {"fixed": f"fixed at {self.value:g}", "split": f"chosen on {self.split}",
                "oracle": "oracle (chosen on each subset itself)"}[self.kind]


@dataclasses.dataclass(frozen=True)
class ProcessBench:
    """The benchmark's numbers, as fractions.

    Attributes:
      subsets: per subset its F1 and the two accuracies.
      thresholds: per subset the threshold that was used; empty for verdicts that need none.
      mean_f1: mean of the subsets' F1, the headline.
      mean_f1_elsewhere: the same without the split that the threshold was chosen on; None unless the protocol is
        "split" and other subsets exist.
      protocol: None for verdicts that need no threshold.
    """

    subsets: dict[str, FirstErrorF1]
    thresholds: dict[str, float]
    mean_f1: float
    mean_f1_elsewhere: float | None
    protocol: ThresholdProtocol | None


def processbench(scores: Mapping[str, Sequence], true: Mapping[str, Sequence[int]],
                 protocol: ThresholdProtocol = ThresholdProtocol()) -> ProcessBench:
    """Both accuracies and F1 of every subset, and the mean F1, of a model that scores steps.

    A step is called wrong where its score is strictly below the threshold; the first such step is the prediction.

    Args:
      scores: per subset (gsm8k, math, ...), per solution, one score per step.
      true: per subset, the 0-based index of each first wrong step, -1 for none.

    Raises:
      ValueError: subsets that differ, solutions without their scores, an index behind the last step, a split that is
        not among the subsets.
    """
    _same_subsets(scores, true)
    if protocol.kind == "split" and protocol.split not in true:
        raise ValueError(f"the threshold is to be chosen on {protocol.split!r}, but the subsets are {', '.join(true)}")
    for name in true:
        for row, (steps, first) in enumerate(zip(scores[name], true[name])):
            if not -1 <= first < len(steps):
                raise ValueError(f"{name} {row}: the first error cannot be step {first} of {len(steps)}")
    if protocol.kind == "oracle":
        thresholds = {name: best_threshold(scores[name], true[name]) for name in true}
    elif protocol.kind == "split":
        thresholds = dict.fromkeys(true, best_threshold(scores[protocol.split], true[protocol.split]))
    else:
        thresholds = dict.fromkeys(true, protocol.value)
    subsets = {name: first_error_f1([first_below(row, thresholds[name]) for row in scores[name]], true[name]) for name in true}
    others = [result.f1 for name, result in subsets.items() if name != protocol.split]
    elsewhere = float(np.mean(others)) if protocol.kind == "split" and others else None
    return ProcessBench(subsets, thresholds, _mean(subsets), elsewhere, protocol)


def processbench_verdicts(predicted: Mapping[str, Sequence[int | None]], true: Mapping[str, Sequence[int]]) -> ProcessBench:
    """The same for a critic that names the step itself (None = no verdict, always wrong)."""
    _same_subsets(predicted, true)
    subsets = {name: first_error_f1(predicted[name], true[name]) for name in true}
    return ProcessBench(subsets, {}, _mean(subsets), None, None)


def first_error_columns(predicted: Sequence[int | None], true: Sequence[int]) -> np.ndarray:
    """float[N, 4] for `f1_of_sums`: found, erroneous, called clean, clean (one row per solution)."""
    gold = np.asarray(true, np.int64)
    match = np.array([index is not None and index == first for index, first in zip(predicted, true)], bool)
    clean = gold == NO_ERROR
    return np.stack([match & ~clean, ~clean, match & clean, clean], axis=1).astype(np.float64)


def f1_of_sums(sums: np.ndarray) -> np.ndarray:
    """ProcessBench's F1 from sums of `first_error_columns`, `[..., 4]` -> `[...]`; nan where a group is empty."""
    found, erroneous, called, clean = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    defined = (erroneous > 0) & (clean > 0)
    first, second = found / np.where(defined, erroneous, 1), called / np.where(defined, clean, 1)
    both = first + second
    return np.where(defined, 2 * first * second / np.where(both > 0, both, 1), np.nan)


def f1_interval(predicted: Sequence[int | None], true: Sequence[int], groups, key, **options) -> Interval:
    """The F1 with its bootstrap interval; `groups` name the problem of each solution."""
    return bootstrap_of_sums(first_error_columns(predicted, true), f1_of_sums, groups, key, **options)


def critique_verdict(text: str) -> int | None:
    """The step that a critique names: the whole number in its last ``\\boxed{}``, None where that is no number."""
    boxes = _BOX.findall(text)
    return _whole(boxes[-1]) if boxes else None


def voted_verdict(texts: Sequence[str]) -> int | None:
    """The most frequent of several critiques' boxed texts, the first of equally frequent ones, as a step.

    Boxes vote as text, and critiques without a box do not vote: the published protocol.
    """
    boxes = [found[-1].strip() for found in map(_BOX.findall, texts) if found]
    return _whole(collections.Counter(boxes).most_common(1)[0][0]) if boxes else None


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _same_subsets(first: Mapping, second: Mapping) -> None:
    if set(first) != set(second) or not first:
        raise ValueError(f"subsets {sorted(first)} and {sorted(second)} must be the same, and at least one")
    for name in second:
        if len(first[name]) != len(second[name]):
            raise ValueError(f"{name}: {len(first[name])} predictions for {len(second[name])} solutions")


def _mean(subsets: Mapping[str, FirstErrorF1]) -> float:
    return float(np.mean([result.f1 for result in subsets.values()]))
