"""Answering only where confident: how far the step scores of a solution know when their verdict is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import Benchmark, EvaluateOptions, Evaluation, Item, Line, Scores
from jaxprm.evaluation.benchmarks.processbench import by_kind, read
from jaxprm.evaluation.benchmarks.steps import thin
from jaxprm.metrics import (
    GroupStatistic,
    coverage_at_risk,
    risk_coverage,
    selective_accuracy,
    statistic_of_rows,
)

AREA = "area under risk and coverage"
COVERAGES = (1.0, 0.8, 0.5)
RISKS = (0.05, 0.1, 0.2)


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """A solution is called right where its lowest step score reaches the threshold.

    Confidence is the distance to the threshold, divided by the room on that side: 0 at the threshold, 1 at a score of 0 or 1.
    (Our own definition.)
    """
    lowest = np.array([np.min(row) for row in scores])
    clean = np.array([item.labels.first_error == -1 for item in items], bool)
    members = by_kind(items)
    thresholds = _thresholds(members, lowest, clean, options)
    limit = np.empty(len(items))
    for name, rows in members.items():
        limit[rows] = thresholds[name]
    called = lowest >= limit
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.nan_to_num(np.where(called, (lowest - limit) / (1 - limit), (limit - lowest) / limit), nan=0.0)
    right = called == clean
    groups = np.array([item.group for item in items])

    def statistic(measure, rows=slice(None)) -> GroupStatistic:
        sure, hits = confidence[rows], right[rows]
        return statistic_of_rows(lambda drawn: measure(sure[drawn], hits[drawn]), groups[rows])

    compared = {AREA: statistic(_area)}
    for coverage in COVERAGES:
        compared[f"accuracy at {coverage:.0%} coverage"] = statistic(
            lambda sure, hits, coverage=coverage: selective_accuracy(sure, hits, coverage))
    for risk in RISKS:
        compared[f"coverage at {risk:.0%} risk"] = statistic(lambda sure, hits, risk=risk: coverage_at_risk(sure, hits, risk))
    table = {name: {AREA: options.interval(statistic(_area, rows)),
                    "accuracy": float(right[rows].mean()), "solutions": len(rows), "threshold": thresholds[name]}
             for name, rows in members.items()}
    curve = risk_coverage(confidence, right)
    keep = thin(curve.coverage)
    lines = {"Risk and coverage": Line("share of the solutions that are judged (coverage)", "share of wrong verdicts (risk)",
                                       curve.coverage[keep], curve.risk[keep],
                                       "The surest verdicts first; a model that knows its errors starts low.")}
    settings = {"threshold": str(options.threshold), "thresholds": thresholds}
    return Evaluation({name: options.interval(value) for name, value in compared.items()}, {"subsets": table}, lines, None,
                      compared, settings)


def _area(confidence: np.ndarray, right: np.ndarray) -> float:
    return risk_coverage(confidence, right).area


def _thresholds(members, lowest: np.ndarray, clean: np.ndarray, options: EvaluateOptions) -> dict[str, float]:
    protocol = options.threshold
    if protocol.kind == "fixed":
        return dict.fromkeys(members, protocol.value)
    if protocol.kind == "split":
        return dict.fromkeys(members, _most_accurate(lowest[members[protocol.split]], clean[members[protocol.split]]))
    return {name: _most_accurate(lowest[rows], clean[rows]) for name, rows in members.items()}


def _most_accurate(lowest: np.ndarray, clean: np.ndarray) -> float:
    """The threshold of "at least" with the most right verdicts, of equally good ones the middle: midpoints and both ends."""
    known = np.unique(lowest)
    candidates = np.concatenate([known[:1], (known[:-1] + known[1:]) / 2, [np.nextafter(known[-1], np.inf)]])
    passed, caught = (np.searchsorted(np.sort(lowest[side]), candidates) for side in (clean, ~clean))
    hits = caught - passed
    best = np.flatnonzero(hits == hits.max())
    return float(candidates[best[(len(best) - 1) // 2]])


SELECTIVE = Benchmark(
    name="selective", title="Risk and coverage",
    citation="Geifman and El-Yaniv 2017, arXiv 1705.08500 (risk and coverage); El-Yaniv and Wiener 2010, JMLR 11",
    description="Call whole solutions right or wrong by their lowest step score, the surest first: how accurate is a model "
                "that may decline to answer?",
    data="as processbench: solutions with a known first error",
    headline="area under risk and coverage: mean share of wrong verdicts over all coverages (lower is better)",
    read=read, evaluate=evaluate, twin=twins.processbench, probabilities=True)
