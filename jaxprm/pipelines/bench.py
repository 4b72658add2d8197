"""``jaxprm bench steps``: how well reward models tell right from wrong steps, beside simple baselines.

Every system is measured on the same rows: those that fit the context of every model.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxprm.data.examples import OverlongPolicy
from jaxprm.data.solutions import SolutionFiles, label_statistics, load_solutions, split_by_problem
from jaxprm.errors import InputError
from jaxprm.evaluation.baselines import fit_position_length, fit_tfidf
from jaxprm.evaluation.results import to_json
from jaxprm.evaluation.steps import StepEvaluation, StepPredictions, evaluate_steps
from jaxprm.hub.load import load_prm
from jaxprm.metrics import Interval
from jaxprm.pipelines.step_data import encode_rows, files_sha256, kept, which_fit
from jaxprm.progress import Progress
from jaxprm.records import AfterErrorPolicy, LabeledSolution, NeutralPolicy, atomic_write
from jaxprm.reports.benchmark import draw_benchmark
from jaxprm.models.reward_model import RewardModel
from jaxprm.scoring.scorer import Row, StepScorer

BENCHMARKS = ("steps",)
RESAMPLING_KEY = 0


@dataclasses.dataclass(frozen=True, eq=False)
class _System:
    """A scorer under test, and the threshold that was chosen for it: (name of the split, predictions or number)."""

    name: str
    calibration: tuple[str, Any] | None
    model: StepScorer | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    baseline: Callable[[Sequence[LabeledSolution]], list[np.ndarray]] | None = None


def run(name: str, models: Sequence[str | os.PathLike], data: Sequence[str | os.PathLike], *,
        baselines_from: Sequence[str | os.PathLike] = (), neutral: NeutralPolicy | None = None,
        after_error: AfterErrorPolicy = "keep", drop_empty: bool = False, overlong: OverlongPolicy = "error",
        json_path: str | os.PathLike | None = None, plot: str | os.PathLike | None = None,
        progress: Progress) -> dict[str, Any]:
    """Evaluates models on labelled files, prints a table, and returns (and writes) every number.

    AUROC, AUROC within position, first-error F1 at 0.5 and at a threshold chosen on other problems, and ECE, with 95 %
    intervals from resampling problems. A prefix that many rows share is judged once.

    Args:
      name: one of `BENCHMARKS`.
      models: directories that say how they are read: of our own models, their runs, exports, and published models whose family
        is certain. Their scores must be probabilities.
      data: labelled files; rows without a judged step are left out and counted.
      baselines_from: files to fit the two baselines on. Where the first model held out problems of its training files,
        they are left out here too, and the baselines' thresholds are chosen on them.
      neutral: how a neutral rating counts; by default as when the models were trained, "good" if none of them says.
      after_error: what steps behind the first wrong one count as.
      drop_empty: leave out empty steps instead of refusing the file.
      overlong: "error", or "drop" (and count) solutions longer than the context of one of the models.
      json_path: where to write the numbers, all or nothing.
      plot: where to write a PNG with AUROC within position and first-error F1 of all systems.

    Raises:
      InputError: bad input, in one line with file, row, field and value.
    """
    if name not in BENCHMARKS:
        raise InputError(f"no such benchmark; known: {', '.join(BENCHMARKS)}", value=name)
    if overlong not in ("error", "drop"):
        raise InputError("must be error or drop: half a solution has another first error", field="overlong",
                         value=overlong)
    systems = [_model(path) for path in models]
    neutral = neutral or _neutral(systems)
    policies = {"neutral": neutral, "after_error": after_error, "drop_empty_steps": drop_empty}
    sources = [SolutionFiles((os.fspath(path),), **policies) for path in data]
    loaded = [load_solutions(source) for source in sources]  # all of them first: bad input should not cost a fit
    if baselines_from:
        held_out = float(systems[0].info.get("held_out") or 0.0)
        systems += _baselines(SolutionFiles(tuple(map(os.fspath, baselines_from)), **policies), held_out, progress)

    sets: dict[str, Any] = {}
    for source, (items, counts) in zip(sources, loaded):
        file = source.files[0]
        encoded, fits = _encode(systems, items, source, overlong)
        chosen = kept(items, fits)
        if not chosen:
            raise InputError(f"none of its {len(items)} labelled solutions fits the models' context", file=file)
        evaluated = {system.name: _evaluate(system, chosen, kept(ids, fits) if ids else None, Path(file).name, progress)
                     for system, ids in zip(systems, encoded)}
        sets[file] = {"sha256": files_sha256(source)[file],
                      "counts": dataclasses.asdict(counts) | {"overlong": int((~fits).sum())},
                      "labels": label_statistics(chosen), "systems": evaluated}
    results = {"benchmark": name, "neutral": neutral, "after_error": after_error, "drop_empty": drop_empty,
               "overlong": overlong, "baselines_from": [os.fspath(path) for path in baselines_from],
               "models": {system.name: system.info for system in systems if system.model}, "sets": sets}
    if plot is not None:
        _draw(sets, plot)
    if json_path is not None:
        with atomic_write(json_path) as out:
            json.dump(to_json(results), out, indent=2, ensure_ascii=False, allow_nan=False)
            out.write("\n")
    console = Console(markup=False)
    for file, result in sets.items():
        console.print(_table(file, result))
    return results


def _model(path: str | os.PathLike) -> _System:
    loaded = load_prm(path)
    if not isinstance(loaded.model, RewardModel) or loaded.model.head.config.kind in ("value", "difference"):
        raise InputError("its scores are no probabilities, which this benchmark needs", file=path)
    threshold = loaded.info.get("threshold")
    calibration = (threshold["chosen_on"], threshold["value"]) if threshold else None
    return _System(os.fspath(path), calibration, StepScorer(loaded.model, loaded.encoder), loaded.info)


def _neutral(systems: Sequence[_System]) -> NeutralPolicy:
    formats = [getattr(system.model.encoder, "format", None) for system in systems]
    policies = {step_format.neutral for step_format in formats if step_format is not None} or {"good"}
    if len(policies) > 1:
        raise InputError(f"the models were trained with different policies ({', '.join(sorted(policies))})",
                         field="neutral", hint="choose one with --neutral")
    return policies.pop()


def _baselines(source: SolutionFiles, held_out: float, progress: Progress) -> list[_System]:
    train, other = split_by_problem(load_solutions(source)[0], held_out)
    systems = []
    with progress.stage("fit the baselines", 3, "baselines") as stage:
        for fit in (lambda items: fit_position_length(items, look_ahead=False), fit_position_length, fit_tfidf):
            baseline = fit(train)
            calibration = None
            if any(item.labels.first_error is not None for item in other):
                calibration = ("held-out problems of the files it was fitted on",
                               StepPredictions.from_solutions(other, baseline(other)))
            systems.append(_System(baseline.name, calibration, baseline=baseline))
            stage.advance()
    return systems


def _encode(systems: Sequence[_System], items: Sequence[LabeledSolution], source: SolutionFiles,
            overlong: OverlongPolicy) -> tuple[list[list[list[Row]] | None], np.ndarray]:
    """Token ids for every model (None for a baseline), and which solutions fit all of them."""
    encoded, fits = [], np.ones(len(items), bool)
    for system in systems:
        encoded.append(encode_rows(items, system.model, source) if system.model else None)
        if system.model:
            longest = [max(((ids, ends) for ids, ends, *_ in rows), key=lambda row: len(row[0])) for rows in encoded[-1]]
            fits &= which_fit(longest, system.model.context, None, overlong, source)
    return encoded, fits


def _evaluate(system: _System, items: Sequence[LabeledSolution], encoded: Sequence[Sequence[Row]] | None, name: str,
              progress: Progress) -> StepEvaluation:
    count = len(items) if encoded is None else sum(map(len, encoded))
    with progress.stage(f"{system.name} on {name}", count, "texts") as stage:
        if system.model is None:
            scores = system.baseline(items)
            stage.advance(len(items))
        else:
            scores = system.model.score_rows(encoded, lambda count, tokens: stage.advance(count, tokens=tokens))
    predictions = StepPredictions.from_solutions(items, scores)
    return evaluate_steps(predictions, RESAMPLING_KEY, calibration=system.calibration)


def _table(file: str, result: dict[str, Any]) -> Table:
    """One set: a column per system, so that it fits a narrow terminal."""
    labels, counts, systems = result["labels"], result["counts"], result["systems"]
    table = Table(title=f"{_short(file)}: {labels.solutions:,} solutions of {labels.problems:,} problems "
                        f"(left out: {counts['unlabeled']:,} unlabelled, {counts['overlong']:,} too long)",
                  caption="value [95 % interval]", title_justify="left", caption_justify="left")
    table.add_column("")
    for system in systems:
        table.add_column(system, overflow="fold")
    values = list(systems.values())
    table.add_row("AUROC", *(_text(value.auroc) for value in values))
    table.add_row("AUROC within position", *(_text(value.auroc_within_position) for value in values))
    for index, name in enumerate(("first-error F1 at 0.5", "first-error F1 at chosen threshold")):
        rows = [value.first_error[index] if index < len(value.first_error) else None for value in values]
        table.add_row(name, *("-" if row is None else _text(row.f1) for row in rows))
        table.add_row("  errors found / clean passed", *(
            "-" if row is None else f"{row.acc_error.mean:.2f} / {row.acc_clean.mean:.2f}" for row in rows))
    table.add_row("ECE", *(_text(value.ece) for value in values))
    return table


def _text(value: Interval) -> str:
    return "undefined" if np.isnan(value.mean) else f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _short(file: str) -> str:
    return Path(file).name.removesuffix(".gz").removesuffix(".jsonl")


def _draw(sets: dict[str, Any], path: str | os.PathLike) -> None:
    auroc = {_short(file): {name: value.auroc_within_position for name, value in result["systems"].items()}
             for file, result in sets.items()}
    f1 = {_short(file): {name: value.first_error[-1].f1 for name, value in result["systems"].items()}
          for file, result in sets.items()}
    image = draw_benchmark({"AUROC within step position": auroc, "first-error F1 at the chosen threshold": f1},
                           chance={"AUROC within step position": 0.5})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(image)
    os.replace(temporary, path)
