"""ProcessBench: find the first wrong step of competition-level solutions, or say that there is none."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import (
    Benchmark,
    EvaluateOptions,
    Evaluation,
    Item,
    Line,
    Read,
    ReadPolicies,
    Scores,
    read_labeled,
)
from jaxprm.evaluation.benchmarks.steps import threshold_curve
from jaxprm.metrics import GroupStatistic, bootstrap_mean, statistic_of_sums
from jaxprm.metrics.first_error import first_below
from jaxprm.metrics.processbench import f1_of_sums, first_error_columns, processbench

SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
MEAN, ELSEWHERE = "mean F1", "mean F1 elsewhere"


def subset_of(read: Read) -> str:
    """The subset: what the row says, else what its id says (``gsm8k-12``), else the name of its file."""
    stated = read.item.solution.problem.meta.get("subset")
    named = re.fullmatch(rf"({'|'.join(SUBSETS)})-\d+", read.item.id)
    return str(stated) if stated else named[1] if named else Path(read.file).name.split(".")[0]


def read(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """Solutions with a known first error; the others do not count."""
    rows = [row for file in files for row in read_labeled(file, ("processbench",), policies)]
    return [Item.of(row, kind=subset_of(row), skip=None if first_error(row.item.labels) is not None else "unlabeled")
            for row in rows]


def first_error(labels) -> int | None:
    """0-based index of the first wrong step, -1 = none, None = not known."""
    return None if labels is None else labels.first_error


def by_kind(items: Sequence[Item]) -> dict[str, list[int]]:
    """Subset -> indices of its items, in the order of the file."""
    members: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        members.setdefault(item.kind or "all", []).append(index)
    return members


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """Both accuracies and F1 per subset, and the mean F1; thresholds are held fixed when problems are resampled."""
    members = by_kind(items)
    gold = {name: [items[index].labels.first_error for index in rows] for name, rows in members.items()}
    split = {name: [scores[index] for index in rows] for name, rows in members.items()}
    result = processbench(split, gold, options.threshold)
    placed = np.zeros((len(items), len(members), 4))
    for place, (name, rows) in enumerate(members.items()):
        calls = [first_below(row, result.thresholds[name]) for row in split[name]]
        placed[rows, place] = first_error_columns(calls, gold[name])
    groups = [item.group for item in items]
    compared = {MEAN: _mean_f1(placed, groups)}
    others = [place for place, name in enumerate(members) if name != options.threshold.split]
    if options.threshold.kind == "split" and others:
        compared[ELSEWHERE] = _mean_f1(placed[:, others], groups)
    compared |= {f"F1 {name}": _mean_f1(placed[:, [place]], groups) for place, name in enumerate(members)}
    table = {}
    for place, (name, rows) in enumerate(members.items()):
        found, erroneous, called, clean = placed[rows, place].T
        named = np.array([items[index].group for index in rows])
        shares = [bootstrap_mean(hits[of > 0], named[of > 0], options.key, resamples=options.resamples)
                  for hits, of in ((found, erroneous), (called, clean))]
        table[name] = {"F1": options.interval(compared[f"F1 {name}"]), "errors found": shares[0], "clean passed": shares[1],
                       "with error": int(erroneous.sum()), "clean": int(clean.sum()), "threshold": result.thresholds[name]}
    numbers = {name: options.interval(statistic) for name, statistic in compared.items()}
    settings = {"threshold": str(options.threshold), "thresholds": result.thresholds}
    return Evaluation(numbers, {"subsets": table}, _curves(split, gold), None, compared, settings)


def _mean_f1(columns: np.ndarray, groups: Sequence[str]) -> GroupStatistic:
    """The mean over subsets of the F1 of `[N, subsets, 4]` columns; nan where one subset has only one kind of solution."""
    subsets = columns.shape[1]
    return statistic_of_sums(columns.reshape(len(columns), -1),
                             lambda sums: f1_of_sums(sums.reshape(*sums.shape[:-1], subsets, 4)).mean(axis=-1), groups)


def _curves(scores: Mapping[str, Scores], gold: Mapping[str, Sequence[int]]) -> dict[str, Line]:
    """The mean F1 of the subsets against one threshold for all; none where a subset has one kind of solution only."""
    if any(min(true) >= 0 or max(true) < 0 for true in gold.values()):
        return {}
    lines = [threshold_curve(scores[name], gold[name]) for name in gold]
    if any(not np.array_equal(line.x, lines[0].x) for line in lines):
        return {}
    return {"Mean F1": Line("threshold", "mean F1 of the subsets", lines[0].x, np.mean([line.y for line in lines], axis=0),
                            "One threshold for all subsets. Chosen at its highest point, it would flatter.")}


PROCESSBENCH = Benchmark(
    name="processbench", title="ProcessBench",
    citation="Zheng et al. 2024, ProcessBench, arXiv 2412.06559; huggingface.co/datasets/Qwen/ProcessBench",
    description="Find the first wrong step (the first whose score is strictly below the threshold), or call the solution "
                "clean.",
    data="the files of the data set, {id, problem, steps, label}, one per subset; or rows with `labels` and `first_error`",
    headline="mean F1: the mean over subsets of the harmonic mean of two accuracies (errors found exactly, clean ones passed)",
    read=read, evaluate=evaluate, twin=twins.processbench)
