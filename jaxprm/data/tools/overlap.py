"""Contamination: which rows share their problem's word sequences with a benchmark."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from jaxprm.data.tools.minhash import ngram_hashes
from jaxprm.data.tools.source import Errors, Source, refuse_same, write_line
from jaxprm.errors import InputError
from jaxprm.records import atomic_write


@dataclasses.dataclass(frozen=True)
class OverlapCounts:
    """What was found.

    Attributes:
      rows, contaminated: rows of the data, and those that cover a benchmark problem.
      benchmark, touched: distinct problems of the benchmark, and those covered by some row.
      examples: (place of the row, its problem, benchmark problem, share of the latter's n-grams), the first few.
    """

    rows: int
    contaminated: int
    benchmark: int
    touched: int
    examples: tuple[dict[str, Any], ...]


def overlap(source: Source, benchmark: Source, *, size: int = 8, threshold: float = 0.5, solutions: bool = False,
            output: str | os.PathLike | None = None, errors: Errors | None = None, shown: int = 10) -> OverlapCounts:
    """Compares the problems of ``source`` with those of ``benchmark``; the benchmark's n-grams are held in memory.

    A row is contaminated if it contains at least ``threshold`` of the distinct ``size``-grams (words and signs, case ignored)
    of a benchmark problem. A problem with fewer words than ``size`` counts as one n-gram, and is found only if the row's
    problem is as short and equal.

    Args:
      solutions: look for benchmark problems in the steps of a row, too.
      output: also write the raw rows that are not contaminated.

    Raises:
      InputError: a setting out of range, a bad row, a benchmark without problems, an output that is also read.
    """
    if size < 1:
        raise InputError("must be at least 1", field="size", value=size)
    if not 0 < threshold <= 1:
        raise InputError("must be in (0, 1]", field="threshold", value=threshold)
    if output is not None:
        refuse_same(output, (*source.paths, *benchmark.paths))
    problems = list(dict.fromkeys(items[0].solution.problem.prompt for _, _, items in benchmark.rows() if items))
    if not problems:  # nothing would be found, which is easily taken for "clean"
        raise InputError("has no problems", file=", ".join(map(str, benchmark.paths)), hint="is this the right benchmark?")
    sizes = np.zeros(len(problems), np.int64)
    where: dict[int, list[int]] = {}
    for index, problem in enumerate(problems):
        grams = ngram_hashes(problem, size)
        sizes[index] = len(grams)
        for gram in grams.tolist():
            where.setdefault(gram, []).append(index)
    touched = np.zeros(len(problems), bool)
    examples: list[dict[str, Any]] = []
    rows = contaminated = 0

    def clean(place: tuple[int, int], items) -> bool:
        nonlocal contaminated
        grams = set(ngram_hashes(items[0].solution.problem.prompt, size).tolist())
        if solutions:
            for item in items:
                grams.update(ngram_hashes("\n".join(item.solution.steps), size).tolist())
        shared: dict[int, int] = {}
        for gram in grams:
            for index in where.get(gram, ()):
                shared[index] = shared.get(index, 0) + 1
        covered = {index: count / sizes[index] for index, count in shared.items() if count >= threshold * sizes[index]}
        if not covered:
            return True
        contaminated += 1
        touched[list(covered)] = True
        if len(examples) < shown:
            best = max(covered, key=lambda index: (covered[index], -index))
            examples.append({"row": f"{source.paths[place[0]]}:{place[1]}", "problem": items[0].solution.problem.prompt,
                             "benchmark": problems[best], "share": round(float(covered[best]), 4)})
        return False

    with atomic_write(output) if output is not None else _Nothing() as out:
        for place, raw, items in source.rows(errors):
            if not items:
                continue
            rows += 1
            if clean(place, items) and out is not None:
                write_line(out, raw)
    return OverlapCounts(rows, contaminated, len(problems), int(touched.sum()), tuple(examples))


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception) -> None:
        return None
