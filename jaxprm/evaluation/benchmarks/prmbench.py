"""PRMBench: every step of solutions into which one of nine kinds of errors was edited."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from jaxprm.data.formats import FORMATS, read_raw
from jaxprm.data.formats.base import Row
from jaxprm.data.rows import located
from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import (
    Benchmark,
    EvaluateOptions,
    Evaluation,
    Item,
    Read,
    ReadPolicies,
    Scores,
    is_own_form,
    read_labeled,
    read_settings,
)
from jaxprm.evaluation.benchmarks.steps import roc_and_pr
from jaxprm.metrics import GroupStatistic, PrmbenchRow, expected_calibration_error, prmbench, statistic_of_sums
from jaxprm.metrics.prmbench import CLASSES, DIMENSIONS, ORIGINAL, best_prmscore_threshold, count_columns, prmscore_of_sums

SCORE = "PRMScore"
TWIN = "original"
"""Field of an item's meta that names its unedited twin."""


def read(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """Edited solutions, and as twins the originals of those with an edit of class "redundency", as published.

    In the project's own form a row without a class is an original; every one of them counts as a twin.
    """
    return [_item(row) for file in files for row in _rows(located(file), policies)]


def _rows(file: str, policies: ReadPolicies) -> Iterator[Read]:
    if is_own_form(file):
        yield from read_labeled(file, (), policies)
        return
    edited, original = FORMATS["prmbench"], FORMATS["prmbench-original"]
    for number, raw, items in read_raw(file, edited, read_settings(edited, policies)):
        yield from (Read(item, file, number) for item in items)
        if raw.get("classification") == "redundency":
            row = Row(raw, file, number, original.resolve(), original)
            yield from (Read(item, file, number) for item in original.read(row))


def _item(read: Read) -> Item:
    problem, labels = read.item.solution.problem, read.item.labels
    error = functools.partial(InputError, file=read.file, row=read.row)
    if labels is None or None in labels.values:
        raise error("must judge every step", field="labels", hint="PRMBench counts all of them")
    kind = problem.meta.get("error_type") or problem.meta.get("classification") or ORIGINAL
    if kind not in (*CLASSES, ORIGINAL):
        raise error("is not a class of PRMBench", field="meta.error_type", value=kind,
                    hint=f"the classes are {', '.join(CLASSES)}")
    if kind == ORIGINAL and labels.first_error != -1:
        raise error("is missing in a solution with wrong steps", field="meta.error_type",
                    hint=f"it must be one of {', '.join(CLASSES)}")
    # An edit may change the question, too: the problem is the one it was before.
    question = problem.meta.get("original_question") or problem.prompt
    item = Item.of(read, group=" ".join(str(question).split()), kind=kind)
    index = str(problem.meta.get("idx") or read.item.id)
    for prefix in (f"{kind}_", "redundency_" if kind == ORIGINAL else ""):  # "circular_7" is an edit of number 7
        index = index.removeprefix(prefix)
    return dataclasses.replace(item, meta={**item.meta, TWIN: f"{problem.meta.get('split') or ''}/{index}"})


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """PRMScore overall, per dimension and class; the unedited twins are no part of the totals."""
    wrong = [np.array([value < 0.5 for value in item.labels.values], bool) for item in items]
    threshold = _threshold(items, scores, wrong, options)
    calls = [np.asarray(row, np.float64) > threshold for row in scores]
    rows = [PrmbenchRow(item.kind, bad.tolist(), call.tolist(), item.meta[TWIN])
            for item, bad, call in zip(items, wrong, calls)]
    result, columns = prmbench(rows), count_columns(rows)
    groups, kinds = np.array([item.group for item in items]), np.array([item.kind for item in items])
    planted = kinds != ORIGINAL

    compared = {SCORE: _of_classes(columns * planted[:, None], groups)}
    for dimension, names in DIMENSIONS.items():
        present = [name for name in names if (kinds == name).any()]
        if present:
            compared[f"  {dimension}"] = _mean_of_classes(columns, kinds, present, groups)
    table = {}
    for name in (*CLASSES, ORIGINAL):
        here = kinds == name
        if not here.any():
            continue
        found = result.classes[name]
        score = _of_classes(columns[here], groups[here], f1_alone=name in ("multi_solutions", ORIGINAL))
        table[name] = {"PRMScore": None if name == ORIGINAL else options.interval(score), "F1": found.counts.f1,
                       "negative F1": found.negative_f1, "accuracy": found.counts.accuracy,
                       "first error found": found.first_error, "similarity": found.similarity, "solutions": int(here.sum())}
    total = result.total
    numbers = {name: options.interval(statistic) for name, statistic in compared.items()}
    numbers |= {"F1": total.f1, "negative F1": total.negative_f1, "first error found": total.first_error,
                "similarity": total.similarity}
    flat, right = (np.concatenate([part for part, keep in zip(parts, planted) if keep])
                   for parts in (scores, [~bad for bad in wrong]))
    probable = flat.min() >= 0 and flat.max() <= 1
    settings = {"threshold": str(options.threshold), "thresholds": {"all": threshold}}
    return Evaluation(numbers, {"classes": table}, roc_and_pr(flat, right),
                      expected_calibration_error(flat, right) if probable else None, compared, settings)


def _threshold(items, scores, wrong, options: EvaluateOptions) -> float:
    protocol = options.threshold
    if protocol.kind == "fixed":
        return protocol.value
    used = [index for index, item in enumerate(items)
            if item.kind != ORIGINAL and (protocol.kind == "oracle" or item.kind == protocol.split)]
    return best_prmscore_threshold([scores[index] for index in used], [wrong[index] for index in used])


def _of_classes(columns: np.ndarray, groups, f1_alone: bool = False) -> GroupStatistic:
    return statistic_of_sums(columns, _f1_of_sums if f1_alone else prmscore_of_sums, groups)


def _mean_of_classes(columns: np.ndarray, kinds: np.ndarray, names: Sequence[str], groups) -> GroupStatistic:
    """The mean of the classes' PRMScores (multi_solutions has no wrong step: its F1)."""
    placed = np.concatenate([columns * (kinds == name)[:, None] for name in names], axis=1)

    def mean(sums: np.ndarray) -> np.ndarray:
        parts = np.moveaxis(sums.reshape(*sums.shape[:-1], len(names), 4), -2, 0)
        values = np.stack([_f1_of_sums(part) if name == "multi_solutions" else prmscore_of_sums(part)
                           for name, part in zip(names, parts)])
        known = ~np.isnan(values)
        return np.where(known.any(axis=0), np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)

    return statistic_of_sums(placed, mean, groups)


def _f1_of_sums(sums: np.ndarray) -> np.ndarray:
    tp, fp, _, fn = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    under = 2 * tp + fp + fn
    return np.where(under > 0, 2 * tp / np.where(under > 0, under, 1), np.nan)


PRMBENCH = Benchmark(
    name="prmbench", title="PRMBench",
    citation="Song et al. 2025, PRMBench, arXiv 2501.03124; huggingface.co/datasets/hitsmy/PRMBench_Preview",
    description="Judge every step of solutions with edits of nine classes: a step is called right where its score is above the "
                "threshold.",
    data="the file of the data set; or rows with `labels` and `meta.error_type`, and the originals",
    headline="PRMScore: mean of the F1 of right and of wrong steps, from the counts of all nine classes",
    read=read, evaluate=evaluate, twin=twins.prmbench)
