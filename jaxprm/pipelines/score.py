"""``jaxprm score``: one score per step for every row of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprm.errors import InputError
from jaxprm.hub.families import Settings
from jaxprm.hub.load import load_prm
from jaxprm.pipelines.step_data import CachedEncoder, refuse_step
from jaxprm.progress import Progress
from jaxprm.records import LabeledSolution, Solution, atomic_write, dump_row, parse_row, read_json_lines
from jaxprm.reports.solutions import render_solutions
from jaxprm.scoring.aggregation import aggregate
from jaxprm.scoring.scorer import Row, StepScorer
from jaxprm.steps.format import StepEncoder


def run(model: str | os.PathLike, input: str | os.PathLike, output: str | os.PathLike, *, family: str | None = None,
        reference: str | os.PathLike | None = None, settings: Settings = Settings(), base: str | os.PathLike | None = None,
        dtype: str = "float32", html: str | os.PathLike | None = None, drop_empty: bool = False, batch_tokens: int = 16_384,
        mesh: jax.sharding.Mesh | None = None, progress: Progress) -> int:
    """Writes every row of ``input`` to ``output`` with ``scores`` (one per step) and ``aggregate``; returns how many.

    Args:
      model: a published checkpoint, a model directory of our own, or the run that trained it (`jaxprm.hub.load.load_prm`).
      input: JSONL rows with ``problem`` (text) and ``steps`` (list of texts); other fields are kept as they are.
      output: is written whole or not at all, as is ``html``.
      family, reference, settings, base, dtype: as in `load_prm`.
      html: a page that shows the steps coloured by score.
      drop_empty: empty steps are not read, their score is null. Otherwise they are refused, or scored by the published
        families, which do so.
      batch_tokens: tokens (padding included) that are scored at a time.
      mesh: devices to score on; ``None`` = one.

    Raises:
      InputError: a model that cannot be read, or a row that cannot be scored; names file, row, field and value.
    """
    loaded = load_prm(model, family, reference, dtype=dtype, settings=settings, base=base, mesh=mesh)
    scorer = StepScorer(loaded.model, loaded.encoder, batch_tokens, mesh)
    rows, items, encoded = _read(Path(input), scorer, drop_empty)
    with progress.stage("score", sum(map(len, encoded)), "texts") as stage:
        scores = scorer.score_rows(encoded, lambda count, tokens: stage.advance(count, tokens=tokens))
    how = loaded.encoder.aggregation
    totals = [float(aggregate(row, np.ones(len(row), bool), how)) for row in scores]

    title = f"Step scores: {Path(input).name}"
    page = render_solutions(items, [row.tolist() for row in scores], aggregates=totals, title=title) if html else None
    with atomic_write(output) as out:
        for row, item, values, total in zip(rows, items, scores, totals):
            out.write(dump_row(row | {"scores": _per_step(row["steps"], item, values), "aggregate": total}) + "\n")
    if page is not None:
        with atomic_write(html) as out:
            out.write(page)
    progress.log(f"{len(rows):,} rows with scores (aggregate: {how}): {output}" + (f", {html}" if html else ""))
    return len(rows)


def _read(path: Path, scorer: StepScorer, drop_empty: bool):
    rows: list[dict[str, Any]] = []
    items: list[LabeledSolution] = []
    encoded: list[list[Row]] = []
    encode = _encode_rows(scorer)
    keep_empty = not drop_empty and not isinstance(scorer.encoder, StepEncoder)
    for number, row in read_json_lines(path):
        item, dropped = parse_row(row, file=path, number=number, drop_empty=drop_empty, keep_empty=keep_empty)
        try:
            encoded.append(encode(item.solution))
        except InputError as error:
            if error.field == "step":
                refuse_step(item, scorer.encoder, path, number, row["steps"])
            raise error.located(file=path, row=number, field=_field(error.field, row["steps"], dropped)) from None
        rows.append(row)
        items.append(item)
    if not rows:
        raise InputError("has no rows", file=path, hint="write one JSON object per line")
    return rows, items, encoded


def _encode_rows(scorer: StepScorer):
    if not isinstance(scorer.encoder, StepEncoder):
        return scorer.encode_rows
    cached = CachedEncoder(scorer.encoder)

    def encode(solution: Solution) -> list[Row]:
        ids, ends = cached.encode(solution.problem.prompt, solution.steps)
        scorer.check_length(ids)
        return [(ids, ends)]

    return encode


def _field(field: str | None, steps: list[str], dropped: int) -> str | None:
    """A step's name as the file counts it: an encoder sees only the steps that were not dropped."""
    if not dropped or field is None or not field.startswith("steps["):
        return field
    kept = [index for index, step in enumerate(steps) if step.strip()]
    return f"steps[{kept[int(field[len('steps['):-1])]}]"


def _per_step(steps: list[str], item: LabeledSolution, scores: np.ndarray) -> list[float | None]:
    """Scores of the steps that were read, None for the empty ones that were dropped."""
    values = iter(scores.tolist())
    every = len(item.solution.steps) == len(steps)
    return [next(values) if every or step.strip() else None for step in steps]
