"""MR-GSM8K and Mr-Ben: is the solution right, and where is its first error? A reward model gives no reasons."""

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
    Read,
    ReadPolicies,
    Scores,
    first_row,
    read_labeled,
)
from jaxprm.evaluation.benchmarks.processbench import by_kind
from jaxprm.evaluation.benchmarks.steps import threshold_curve
from jaxprm.metrics import MrRow, statistic_of_sums
from jaxprm.metrics.first_error import NO_ERROR, best_threshold, first_below
from jaxprm.metrics.mr_score import mr_columns, mr_parts_of_sums, mr_score_of_sums

UNLOCATED = -2
"""First error of a solution that is known to be wrong at a place nobody could name: never found, as published."""

SCORE, MCC, STEP = "MR-Score without reasons", "Matthews correlation", "step accuracy"


def read(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """Graded solutions; those that nobody has called right or wrong do not count."""
    rows = [row for file in files for row in read_labeled(file, (_format(file),), policies)]
    return [Item.of(row, kind=_subject(row), skip=None if _known(row) else "unlabeled") for row in rows]


def _known(read: Read) -> bool:
    return _gold(read.item.labels, read.item.solution.problem.meta) is not None


def _gold(labels, meta) -> int | None:
    """First error of a solution; -1 = right, `UNLOCATED`, None = not known."""
    if labels is not None and labels.first_error is not None:
        return labels.first_error
    verdict = str(meta.get("solution_correct", meta.get("solution_correct_human"))).casefold()
    return {"true": NO_ERROR, "false": UNLOCATED}.get(verdict)


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """Matthews correlation of the verdicts, share of errors located exactly, and their weighted sum without the reasons."""
    gold = [_gold(item.labels, item.meta) for item in items]
    members = by_kind(items)
    thresholds = dict.fromkeys(members, options.threshold.value)
    if options.threshold.kind != "fixed":
        best = {name: _best([scores[index] for index in rows], [gold[index] for index in rows])
                for name, rows in members.items() if options.threshold.kind == "oracle" or name == options.threshold.split}
        thresholds = best if options.threshold.kind == "oracle" else dict.fromkeys(members, best[options.threshold.split])
    guesses = [first_below(row, thresholds[item.kind or "all"]) for item, row in zip(items, scores)]
    columns = mr_columns([MrRow(true == NO_ERROR, None if true == NO_ERROR else true, guess == NO_ERROR,
                                None if guess == NO_ERROR else guess) for true, guess in zip(gold, guesses)])
    groups = np.array([item.group for item in items])

    def statistics(rows) -> dict:
        return {SCORE: statistic_of_sums(columns[rows], mr_score_of_sums, groups[rows]),
                MCC: statistic_of_sums(columns[rows], lambda sums: mr_parts_of_sums(sums)[0], groups[rows]),
                STEP: statistic_of_sums(columns[rows], lambda sums: mr_parts_of_sums(sums)[1], groups[rows])}

    compared = statistics(np.arange(len(items)))
    table = {}
    for name, rows in members.items():
        right = sum(gold[index] == NO_ERROR for index in rows)
        table[name] = {label: options.interval(statistic) for label, statistic in statistics(np.array(rows)).items()}
        table[name] |= {"right": right, "wrong": len(rows) - right, "threshold": thresholds[name]}
    located = [index for index, true in enumerate(gold) if true != UNLOCATED]
    lines = {}
    if {gold[index] == NO_ERROR for index in located} == {True, False}:
        lines["First-error F1"] = threshold_curve([scores[index] for index in located], [gold[index] for index in located])
    settings = {"threshold": str(options.threshold), "thresholds": thresholds,
                "wrong at an unknown step": sum(true == UNLOCATED for true in gold)}
    return Evaluation({name: options.interval(statistic) for name, statistic in compared.items()}, {"subjects": table}, lines,
                      None, compared, settings)


def _best(scores: Scores, gold: Sequence[int]) -> float:
    """The threshold with the best first-error F1; an error at an unknown step cannot say anything about it."""
    known = [index for index, true in enumerate(gold) if true != UNLOCATED]
    return best_threshold([scores[index] for index in known], [gold[index] for index in known])


def _subject(read: Read) -> str | None:
    meta = read.item.solution.problem.meta
    return next((str(meta[name]) for name in ("subject", "Subject", "subset") if meta.get(name)), None)


def _format(file: str | os.PathLike) -> str:
    """The two data sets name their fields differently."""
    first = first_row(file)
    return "mr-ben" if isinstance(first, dict) and "Model_Solution_Steps" in first else "mr-gsm8k"


MR_SCORE = Benchmark(
    name="mr_score", title="MR-GSM8K and Mr-Ben",
    citation="Zeng et al. 2023, MR-GSM8K, arXiv 2312.17080 (github.com/dvlab-research/MR-GSM8K); Zeng et al. 2024, Mr-Ben, "
             "arXiv 2406.13975 (huggingface.co/datasets/Randolphzeng/Mr-Ben)",
    description="Call a solution right or wrong and name its first wrong step (the first whose score is below the threshold). "
                "The third task, the reason, takes half of the weight and is beyond a reward model.",
    data="the files of either data set; or rows with `labels` and `first_error` (and `meta.subject`)",
    headline="MR-Score without reasons: 0.2 max(0, Matthews correlation) + 0.3 step accuracy, at most 0.5",
    read=read, evaluate=evaluate, twin=twins.mr_score)
