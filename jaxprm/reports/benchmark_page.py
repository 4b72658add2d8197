"""The page of a benchmark: numbers of all systems side by side, paired tests, and curves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxprm.evaluation.benchmarks import Evaluation
from jaxprm.evaluation.benchmarks.base import Number
from jaxprm.metrics import Interval
from jaxprm.reports import figures
from jaxprm.reports.details import Curve, Panel, Reliability
from jaxprm.reports.html import embedded_figure, embedded_panel
from jaxprm.reports.pages import render_page


def render_benchmark(results: Mapping[str, Any]) -> str:
    """One self-contained HTML page from the results of `jaxprm.pipelines.bench.run`; all texts are escaped."""
    sets = [_set(name, part) for name, part in results["sets"].items()]
    twin = results["twin"]
    settings = {"benchmark": results["benchmark"], "threshold": results["threshold"],
                "procedural twin": f"{twin['problems']} problems, seed {twin['seed']}" if twin else None,
                "resamples of the problems": f"{results['resamples']:,}", "neutral ratings count as": results["neutral"],
                "steps behind the first error": results["after_error"],
                "empty steps": "left out" if results["drop_empty"] else "refused",
                "baselines fitted on": ", ".join(results["baselines_from"]),
                "type of the models": results["dtype"] if results["models"] else None}
    settings |= {f"scores of {name}": file for name, file in results["scores"].items() if name != file}
    return render_page("benchmark.html.j2", title=results["title"], headline=results["headline"], citation=results["citation"],
                       settings={name: value for name, value in settings.items() if value}, sets=sets)


def _set(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    systems: dict[str, Evaluation] = part["systems"]
    numbers = dict.fromkeys(number for value in systems.values() for number in value.numbers)
    counts = part["counts"]
    left_out = {reason: count for reason, count in counts.items() if reason not in ("rows", "empty_steps") and count}
    return {
        "name": name, "files": part["files"], "labels": part["labels"], "left_out": left_out,
        "systems": list(systems), "settings": [(key, _settings(value.settings)) for key, value in systems.items()],
        "numbers": [(number, [_cell(value.numbers.get(number)) for value in systems.values()]) for number in numbers],
        "tables": _tables(systems),
        "paired": [{**test, "difference": _cell(test["difference"], "+.3f"), "p_value": _cell(test["p_value"], ".2g")["value"]}
                   for test in part["paired"]],
        "figures": _figures(systems)}


def _tables(systems: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    tables = []
    for title in dict.fromkeys(title for value in systems.values() for title in value.tables):
        for key, value in systems.items():
            rows = value.tables.get(title, {})
            columns = list(dict.fromkeys(column for row in rows.values() for column in row))
            if rows:
                tables.append({"title": title if len(systems) == 1 else f"{title}: {key}", "columns": columns,
                               "rows": [(name, [_cell(row.get(column)) for column in columns]) for name, row in rows.items()]})
    return tables


def _figures(systems: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    found = []
    for title in dict.fromkeys(title for value in systems.values() for title in value.lines):
        lines = {key: value.lines[title] for key, value in systems.items() if title in value.lines}
        first = next(iter(lines.values()))
        curves = [Curve(_short(key, systems), line.x, line.y) for key, line in lines.items()]
        found.append(embedded_panel(Panel(title, first.x_label, first.y_label, curves, first.caption, first.log_x)))
    for key, value in systems.items():
        if value.reliability is not None:
            bins = Reliability(np.nan_to_num(value.reliability.confidence), np.nan_to_num(value.reliability.accuracy),
                               value.reliability.count)
            found.append(embedded_figure(lambda theme, bins=bins: figures.draw_reliability(bins, theme),
                                         f"Reliability diagram of {key}",
                                         f"{key}: on the diagonal a score of 0.8 means that 80 % of such steps are right."))
    return found


def _short(name: str, systems: Collection[str]) -> str:
    """The last part of a path, without options, where that tells the systems apart: legends are narrow."""
    last = {key: key.partition(" --")[0].rstrip("/").rpartition("/")[2] or key for key in systems}
    return last[name] if len(set(last.values())) == len(last) else name


def _settings(settings: Mapping[str, Any]) -> str:
    def show(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {show(entry)}" for name, entry in value.items())
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return "; ".join(f"{name}: {show(value)}" for name, value in settings.items())


def _cell(value: Number, form: str = ".3f") -> dict[str, str]:
    """A number and its interval as texts."""
    if value is None or np.isnan(value.mean if isinstance(value, Interval) else value):
        return {"value": "–", "range": ""}
    if isinstance(value, Interval):
        bounds = "" if np.isnan(value.low) else f"[{value.low:{form}}, {value.high:{form}}]"
        return {"value": f"{value.mean:{form}}", "range": bounds}
    return {"value": f"{value:,}" if isinstance(value, int | np.integer) else f"{value:{form}}", "range": ""}
