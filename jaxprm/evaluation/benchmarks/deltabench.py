"""DeltaBench: find all wrong sections of long chains of thought."""

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
    read_labeled,
)
from jaxprm.evaluation.benchmarks.processbench import by_kind
from jaxprm.evaluation.benchmarks.steps import roc_and_pr
from jaxprm.metrics import GroupStatistic, auroc_statistic, deltabench, statistic_of_sums
from jaxprm.metrics.deltabench import low_sections

DOMAIN = ("task_l1", "domain", "subset")


def read(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """Chains with at least one wrong section; the benchmark is not defined on the others, which do not count."""
    rows = [row for file in files for row in read_labeled(file, ("deltabench",), policies)]
    return [Item.of(row, kind=_domain(row), skip=_skip(row.item.labels)) for row in rows]


def _domain(read: Read) -> str | None:
    meta = read.item.solution.problem.meta
    return next((str(meta[name]) for name in DOMAIN if meta.get(name)), None)


def _skip(labels) -> str | None:
    if labels is None or all(value is None for value in labels.values):
        return "unlabeled"
    return None if any(value is not None and value < 0.5 for value in labels.values) else "without a wrong section"


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """Precision, recall and F1 of the sections whose score lies a standard deviation below the mean of their own chain."""
    true = [[step for step, value in enumerate(item.labels.values) if value is not None and value < 0.5] for item in items]
    called = [low_sections(row) for row in scores]
    groups = np.array([item.group for item in items])
    dropped, counted = deltabench(called, true), deltabench(called, true, late="count")

    def mean(values: Sequence[float], of=slice(None)) -> GroupStatistic:
        values = np.asarray(values, np.float64)[of]
        return statistic_of_sums(np.stack([values, np.ones(len(values))], axis=1), lambda sums: sums[..., 0] / sums[..., 1],
                                 groups[of])

    f1 = [row.f1 for row in dropped.rows]
    judged = [(score, value >= 0.5, item.group) for item, row in zip(items, scores)
              for score, value in zip(row, item.labels.values) if value is not None]
    flat, right, problems = (np.array(column) for column in zip(*judged))
    compared = {"macro F1": mean(f1), "macro precision": mean([row.precision for row in dropped.rows]),
                "macro recall": mean([row.recall for row in dropped.rows]),
                "macro F1, late calls counted": mean([row.f1 for row in counted.rows]),
                "section AUROC": auroc_statistic(flat, right, problems)}
    numbers = {name: options.interval(statistic) for name, statistic in compared.items()}
    numbers |= {"micro precision": dropped.precision_micro, "micro recall": dropped.recall_micro, "micro F1": dropped.f1_micro}
    table = {name: {"macro F1": options.interval(mean(f1, rows)), "chains": len(rows)} for name, rows in by_kind(items).items()}
    return Evaluation(numbers, {"domains": table}, roc_and_pr(flat, right), None, compared,
                      {"rule": "a section is called wrong where its score is below mean - 1 standard deviation of its chain"})


DELTABENCH = Benchmark(
    name="deltabench", title="DeltaBench",
    citation="He et al. 2025, DeltaBench, arXiv 2502.19361 (github.com/OpenStellarTeam/DeltaBench)",
    description="Find all wrong sections of long chains of thought; calls behind the last wrong section do not count. Scores "
                "need no common scale: each is compared with the mean and spread of its own chain.",
    data="the file of the data set, {question, sections, ..._error_section_numbers}; or rows with `labels`",
    headline="macro F1: the mean over chains of the F1 of the sections called wrong",
    read=read, evaluate=evaluate, twin=twins.deltabench, thresholds=())
