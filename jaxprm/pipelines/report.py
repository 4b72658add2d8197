"""``jaxprm report``: a run directory's ``report.html`` from the files that its stages have written so far.

    config.json, status.json     what was run, and which stages are finished
    metrics.jsonl                curves; also those in folders of single stages
    results.json, examples.json  the final numbers and some scored solutions, where training has ended
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.evaluation.steps import FirstErrorRow, KindRow, PositionRow, StepEvaluation
from jaxprm.metrics import Calibration, Interval
from jaxprm.pipelines.train_data import in_words
from jaxprm.progress import duration
from jaxprm.records import atomic_write
from jaxprm.reports.details import Panel, ScoredSolution
from jaxprm.reports.training import metric_panels, render_training_report
from jaxprm.run_directory import RunDirectory, config_from_json
from jaxprm.training import read_metrics

HELD_OUT = "held-out problems of the training files"
EXAMPLES = "examples.json"


def run(path: str | os.PathLike) -> Path:
    """Writes the report of a run that is finished, killed or still under way, and returns its path.

    Raises:
      InputError: this is no run directory, or its config is not one of this version.
    """
    directory = RunDirectory.existing(path)
    if directory.config["class"] == "jaxprm.pipelines.quickstart.Quickstart" and directory.state == "finished":
        from jaxprm.pipelines import quickstart_report  # which imports all of the loop

        seconds = {name: facts["seconds"] for name, facts in directory.stages.items() if name != "report"}
        quickstart_report.write(config_from_json(directory.config), directory, seconds)
    else:
        write(directory)
    return directory.report


def write(directory: RunDirectory) -> None:
    """Writes the report of a training run, or of a part of a longer one."""
    page = _page(directory)
    with atomic_write(directory.report) as out:
        out.write(page)


def write_examples(path: Path, examples: Sequence[ScoredSolution]) -> None:
    """Keeps scored solutions for the report."""
    with atomic_write(path / EXAMPLES) as out:
        json.dump([dataclasses.asdict(example) for example in examples], out, ensure_ascii=False)


def _page(directory: RunDirectory) -> str:
    """The page of a training run; a run with several stages shows the curves of each."""
    path = directory.path
    results = json.loads(directory.results.read_text(encoding="utf-8")) if directory.results.is_file() else {}
    held_out = results.get("held_out")
    examples = json.loads((path / EXAMPLES).read_text(encoding="utf-8")) if (path / EXAMPLES).is_file() else []
    panels: list[Panel] = []
    for metrics in sorted(path.glob("*/**/metrics.jsonl")):
        panels += metric_panels(read_metrics(metrics), f"{metrics.parent.relative_to(path)}: ")
    lines = read_metrics(directory.metrics)
    introduction = "" if results else (f"This run has not ended; its last logged step is {lines[-1]['step']:,}."
                                       if lines else "This run has not ended.")
    return render_training_report(
        f"Training of {path.name}", _settings(directory, results), None if held_out is None else evaluation(held_out),
        lines, measured_on=HELD_OUT, examples=[ScoredSolution(**row) for row in examples], introduction=introduction,
        panels=panels)


def _settings(directory: RunDirectory, results: dict[str, Any]) -> dict[str, str]:
    config, stages = directory.config, directory.stages
    settings: dict[str, str] = {}
    if config["class"] == "jaxprm.pipelines.train_prm.TrainPRM":
        data, counts, model = config["data"], stages.get("data"), config["model"]
        sources = data.get("mixture") or [data]
        settings = {"files": ", ".join(dict.fromkeys(file for source in sources for file in source["files"])),
                    "ratings": f"neutral = {data['neutral']}, after the first error = {data['after_error']}",
                    "objective": config["objective"]}
        if counts is not None:
            lines = in_words(counts, config["row_tokens"], config["row_steps"])
            settings |= {"trained on": f"{_size(counts['train'])}, {counts['train_weight']:,.0f} labels", "lengths": lines[0],
                         **({"mixture": "; ".join(lines[1:])} if lines[1:] else {}), "held out": _size(counts["held_out"])}
        settings |= {"architecture": "that of the initial model" if model is None else _fields(model),
                     "optimiser steps": f"{config['training']['steps']:,}"}
    if "seed" in config:
        settings["seed"] = str(config["seed"])
    seconds = results.get("seconds") or {name: facts["seconds"] for name, facts in stages.items() if "seconds" in facts}
    return settings | {"configuration": directory.config_sha256[:16],
                       "time": ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())}


def _fields(config: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in config.items() if name != "class" and value not in (None, [], False))


def _size(counts: dict[str, int]) -> str:
    return f"{counts['solutions']:,} solutions of {counts['problems']:,} problems"


def evaluation(data: dict[str, Any]) -> StepEvaluation:
    """The inverse of `jaxprm.evaluation.results.to_json` for an evaluation; ``null`` becomes NaN."""
    def interval(row) -> Interval:
        return Interval(*(_number(row[name]) for name in ("mean", "low", "high")))

    def row(kind, values):
        return kind(**{name: interval(value) if isinstance(value, dict) else value for name, value in values.items()})

    table = data["calibration"]
    floats = {name: np.array([_number(value) for value in table[name]], np.float64) for name in
              ("edges", "confidence", "accuracy")}
    calibration = Calibration(_number(table["error"]), **floats, count=np.array(table["count"], np.int64))
    nested = {"positions": PositionRow, "first_error": FirstErrorRow, "kinds": KindRow}
    return StepEvaluation(**{
        name: calibration if name == "calibration" else tuple(row(nested[name], item) for item in value) if name in nested
        else interval(value) if isinstance(value, dict) else value for name, value in data.items()})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
