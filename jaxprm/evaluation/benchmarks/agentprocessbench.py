"""AgentProcessBench: right, neutral and wrong steps of agents that use tools; numbers in `jaxprm.metrics.agent_process`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import (
    Benchmark,
    EvaluateOptions,
    Evaluation,
    Item,
    Number,
    ReadPolicies,
    Scores,
    read_labeled,
)
from jaxprm.metrics import auroc_statistic, statistic_of_sums
from jaxprm.metrics.agent_process import agent_process_of_sums, ternary, trace_columns

NAMES = ("step accuracy", "trace accuracy", "first-error accuracy", "step accuracy without neutral steps")


def read(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """Traces with their three kinds of ratings in ``meta["ratings"]``: 1, 0, -1 or None, whatever ``policies.neutral`` makes of
    a neutral step in the labels. A trace without any rating does not count.

    A step is a message of the agent and what comes back before its next one (see `jaxprm.data.formats.agents`).
    """
    items = []
    for path in files:
        # What differs between the two readings is neutral.
        good, bad, asked = (read_labeled(path, ("agentprocessbench",), dataclasses.replace(policies, neutral=neutral))
                            for neutral in ("good", "bad", policies.neutral))
        for high, low, read_item in zip(good, bad, asked, strict=True):
            pairs = [] if high.item.labels is None else list(zip(high.item.labels.values, low.item.labels.values))
            ratings = [None if first is None else round(first + second) - 1 for first, second in pairs]
            source = read_item.item.solution.problem.meta.get("data_source")
            item = Item.of(read_item, kind=None if source is None else str(source),
                           skip="unlabeled" if set(ratings) <= {None} else None)
            items.append(dataclasses.replace(item, meta={**item.meta, "ratings": ratings}))
    return items


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """The published accuracies with one threshold: a step is wrong below it and right from it on, and never called neutral (our
    own reading, see `ternary`). The AUROC tells right from wrong steps and needs no threshold."""
    threshold = options.threshold.value
    labels = [item.meta["ratings"] for item in items]
    predicted = [ternary(row, threshold) for row in scores]
    groups = [item.group for item in items]
    columns = trace_columns(predicted, labels)

    def accuracies(chosen: Sequence[int]):
        return {name: statistic_of_sums(columns[chosen], lambda sums, place=place: agent_process_of_sums(sums)[..., place],
                                        [groups[index] for index in chosen]) for place, name in enumerate(NAMES)}

    everything = list(range(len(items)))
    decided = [(score, rating > 0, groups[index]) for index in everything
               for score, rating in zip(scores[index], labels[index]) if rating]
    values, right, groups_of_steps = zip(*decided) if decided else ((), (), ())
    compared = accuracies(everything) | {
        "AUROC of right and wrong steps": auroc_statistic(values, np.array(right, bool), groups_of_steps)}
    numbers: dict[str, Number] = {name: options.interval(statistic) for name, statistic in compared.items()}
    kinds = sorted({item.kind for item in items if item.kind is not None})
    tables: dict[str, dict[str, dict[str, Number]]] = {}
    if len(kinds) > 1:
        tables["by source"] = {kind: {name: options.interval(statistic) for name, statistic in accuracies(
            [index for index in everything if items[index].kind == kind]).items()} for kind in kinds}
    counts = {name: sum(rating == value for row in labels for rating in row)
              for name, value in (("right", 1), ("neutral", 0), ("wrong", -1))}
    return Evaluation(numbers, tables, compared=compared, settings={"threshold": threshold, "steps": counts})


AGENTPROCESSBENCH = Benchmark(
    name="agentprocessbench",
    title="AgentProcessBench",
    citation="Fan et al. 2026, AgentProcessBench, arXiv 2603.14465; huggingface.co/datasets/LulaCola/AgentProcessBench (MIT; "
             "evaluation: github.com/RUCBM/AgentProcessBench)",
    description="Label every step of a tool-using agent's trace as right, neutral or wrong, and find the first wrong one. A "
                "reward model of two kinds never says neutral, and misses these steps.",
    data="The data set's JSON lines ({messages, step_labels}), or our own rows with labels 1, 0, -1 or null.",
    headline="step accuracy: share of the labelled steps whose label is predicted, pooled over the traces",
    read=read, evaluate=evaluate, twin=twins.agentprocessbench, thresholds=("fixed",))
