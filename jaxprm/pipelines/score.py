"""``jaxprm score``: one score per step for every row of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.errors import InputError
from jaxprm.hub.directory import load_reward_model
from jaxprm.pipelines.step_data import CachedEncoder, refuse_step
from jaxprm.progress import Progress
from jaxprm.records import LabeledSolution, atomic_write, dump_row, parse_row, read_json_lines
from jaxprm.reports.solutions import render_solutions
from jaxprm.scoring.aggregation import aggregate
from jaxprm.scoring.scorer import StepScorer


def run(model: str | os.PathLike, input: str | os.PathLike, output: str | os.PathLike, *,
        html: str | os.PathLike | None = None, drop_empty: bool = False, batch_tokens: int = 16_384,
        progress: Progress) -> int:
    """Writes every row of ``input`` to ``output`` with ``scores`` (one per step) and ``aggregate``; returns how many.

    Args:
      model: a model directory, or the run that trained it.
      input: JSONL rows with ``problem`` (text) and ``steps`` (list of texts); other fields are kept as they are.
      output: is written whole or not at all, as is ``html``.
      html: a page that shows the steps coloured by score.
      drop_empty: the model does not read empty steps, their score is null; otherwise they are refused.
      batch_tokens: tokens (padding included) that are scored at a time.

    Raises:
      InputError: a model that cannot be read, or a row that cannot be scored; names file, row, field and value.
    """
    loaded = load_reward_model(model)
    rows, items, encoded = _read(Path(input), CachedEncoder(loaded.encoder), loaded.model.config.context, drop_empty)
    scorer = StepScorer(loaded.model, loaded.encoder, batch_tokens)
    with progress.stage("score", len(items), "solutions") as stage:
        scores = scorer.score_ids(encoded, lambda count, tokens: stage.advance(count, tokens=tokens))
    how = loaded.encoder.format.aggregation
    totals = [float(aggregate(row, np.ones(len(row), bool), how)) for row in scores]

    title = f"Step scores: {Path(input).name}"
    page = render_solutions(items, [row.tolist() for row in scores], aggregates=totals, title=title) if html else None
    with atomic_write(output) as out:
        for row, values, total in zip(rows, scores, totals):
            out.write(dump_row(row | {"scores": _per_step(row["steps"], values), "aggregate": total}) + "\n")
    if page is not None:
        with atomic_write(html) as out:
            out.write(page)
    progress.log(f"{len(rows):,} rows with scores (aggregate: {how}): {output}" + (f", {html}" if html else ""))
    return len(rows)


def _read(path: Path, encoder: CachedEncoder, context: int, drop_empty: bool):
    rows: list[dict[str, Any]] = []
    items: list[LabeledSolution] = []
    encoded = []
    for number, row in read_json_lines(path):
        item, _ = parse_row(row, file=path, number=number, drop_empty=drop_empty)
        try:
            ids, ends = encoder.encode(item.solution.problem.prompt, item.solution.steps)
        except InputError:
            refuse_step(item, encoder, path, number, row["steps"])
        if len(ids) > context:
            raise InputError(f"need {len(ids)} tokens with the problem, the model's context is {context}", file=path,
                             row=number, field="steps", hint="split the solution, or use a model with a longer context")
        rows.append(row)
        items.append(item)
        encoded.append((ids, ends))
    if not rows:
        raise InputError("has no rows", file=path, hint="write one JSON object per line")
    return rows, items, encoded


def _per_step(steps: list[str], scores: np.ndarray) -> list[float | None]:
    """Scores of the steps that were read, None for the empty ones."""
    values = iter(scores.tolist())
    return [next(values) if step.strip() else None for step in steps]
