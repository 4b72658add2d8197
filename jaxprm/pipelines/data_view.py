"""``jaxprm data view``: solutions of any format as a page, each step coloured by its label, or by scores from a file."""

from __future__ import annotations

import os
from pathlib import Path

from jaxprm.data.tools import Errors, Source
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, atomic_write, read_json_lines
from jaxprm.reports.solutions import render_solutions

ONLY = ("all", "error", "clean", "unlabeled", "soft")


def run(source: Source, output: str | os.PathLike, *, limit: int = 100, only: str = "all", contains: str | None = None,
        scores: str | os.PathLike | None = None, errors: Errors | None = None) -> int:
    """Writes the page; returns how many solutions it shows.

    Args:
      limit: at most so many solutions, the first that fit.
      only: "error" (with a wrong step), "clean" (known to have none), "unlabeled" (no step judged), "soft" (with a label
        strictly between 0 and 1), or "all".
      contains: only solutions with this text in problem or steps.
      scores: JSON lines ``{"id", "scores": [number or null per step]}``; steps are then coloured by these and labels marked
        beside them. Solutions without scores are left out.

    Raises:
      InputError: a bad row, scores of another number than steps, nothing to show.
    """
    if only not in ONLY:
        raise InputError(f"must be one of {', '.join(ONLY)}", field="only", value=only)
    if limit < 1:
        raise InputError("must be at least 1", field="limit", value=limit)
    given = None if scores is None else _scores(Path(scores))
    items, values = [], []
    for _, _, found in source.rows(errors):
        for item in found:
            if not _fits(item, only, contains) or (given is not None and item.id not in given):
                continue
            row = given[item.id] if given is not None else item.labels.values if item.labels else ()
            steps = len(item.solution.steps)
            if row and len(row) != steps:
                raise InputError(f"has {len(row)} scores for {steps} steps", file=scores, field="scores", value=item.id,
                                 hint="scores must come from the same file, read with the same settings")
            items.append(item)
            values.append(tuple(row) or (None,) * steps)
        if len(items) >= limit:
            break
    if not items:
        raise InputError("has nothing to show", file=", ".join(map(str, source.paths)),
                         hint="check --only, --contains and the ids of --scores")
    names = ", ".join(Path(path).name for path in source.paths)
    title = f"{names}: coloured by {'label' if given is None else 'score'}"
    with atomic_write(output) as out:
        out.write(render_solutions(items[:limit], values[:limit], title=title, limit=limit))
    return min(len(items), limit)


def _fits(item: LabeledSolution, only: str, contains: str | None) -> bool:
    if contains is not None and not any(contains in text for text in (item.solution.problem.prompt, *item.solution.steps)):
        return False
    values, wrong = (item.labels.values, item.labels.first_error) if item.labels else ((), None)
    return {"all": True, "error": wrong is not None and wrong >= 0, "clean": wrong == -1,
            "unlabeled": all(value is None for value in values),
            "soft": any(value not in (None, 0.0, 1.0) for value in values)}[only]


def _scores(path: Path) -> dict[str, list[float | None]]:
    given: dict[str, list[float | None]] = {}
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or "id" not in row or not isinstance(row.get("scores"), list):
            raise InputError('must be {"id": ..., "scores": [number per step]}', file=path, row=number)
        for index, score in enumerate(row["scores"]):
            if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
                raise InputError("must be a number or null", file=path, row=number, field=f"scores[{index}]", value=score)
        given[str(row["id"])] = row["scores"]
    return given
