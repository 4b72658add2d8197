"""What ``jaxprm bench`` prints: a column per system, so that a table fits a narrow terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxprm.evaluation.benchmarks import BENCHMARKS, Evaluation
from jaxprm.evaluation.benchmarks.base import Number
from jaxprm.metrics import Interval


def print_results(results: Mapping[str, Any]) -> None:
    """Numbers of every set, its subsets, and the paired tests of the headline."""
    console = Console(markup=False, highlight=False)
    for name, part in results["sets"].items():
        console.print(_numbers(results, name, part))
        for title in dict.fromkeys(title for value in part["systems"].values() for title in value.tables):
            if title != "by position of the step":  # dozens of rows: in the JSON and on the page
                console.print(_subsets(title, part["systems"]))
        if part["paired"]:
            console.print(_paired(part["paired"], part["systems"]))
    if results["threshold"] is not None:
        console.print(f"threshold: {results['threshold']}")


def print_benchmarks() -> None:
    """``jaxprm bench --list``."""
    console = Console(markup=False, highlight=False)
    for benchmark in BENCHMARKS.values():
        lines = Table(show_header=False, box=None, title=f"{benchmark.name}: {benchmark.title}", title_justify="left")
        for label, text in (("", benchmark.description), ("data", benchmark.data), ("headline", benchmark.headline),
                            ("threshold", ", ".join(benchmark.thresholds) or "not needed"),
                            ("twin", "yes: --twin N needs no files" if benchmark.twin else "no"),
                            ("citation", benchmark.citation)):
            lines.add_row(label, text)
        console.print(lines)
        console.print()


def text_of(value: Number) -> str:
    """A number as tables show it."""
    if value is None or np.isnan(value.mean if isinstance(value, Interval) else value):
        return "undefined"
    if isinstance(value, Interval):
        return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.3f}"


def short_name(file: str) -> str:
    """The name of a file without its folder and endings."""
    return Path(file).name.removesuffix(".gz").removesuffix(".jsonl")


def left_out(counts: Mapping[str, int]) -> str:
    """What does not count, and why."""
    names = {"unlabeled": "unlabelled", "overlong": "too long"}
    reasons = [(name, count) for name, count in counts.items() if name not in ("rows", "empty_steps")]
    return ", ".join(f"{count:,} {names.get(name, name)}" for name, count in reasons)


def _numbers(results: Mapping[str, Any], name: str, part: Mapping[str, Any]) -> Table:
    labels, systems = part["labels"], part["systems"]
    table = Table(title=f"{short_name(name)}: {labels.solutions:,} solutions of {labels.problems:,} problems "
                        f"(left out: {left_out(part['counts'])})",
                  caption="value [95 % interval]", title_justify="left", caption_justify="left")
    for heading in ("", *systems):
        table.add_column(heading, overflow="fold")
    for number in dict.fromkeys(number for value in systems.values() for number in value.numbers):
        cells = (text_of(value.numbers[number]) if number in value.numbers else "-" for value in systems.values())
        table.add_row(number, *cells)
    return table


def _subsets(title: str, systems: Mapping[str, Evaluation]) -> Table:
    """All columns in which something is defined for one system, the first one for each of several."""
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    first = next(value.tables[title] for value in systems.values() if title in value.tables)
    columns = list(dict.fromkeys(column for row in first.values() for column in row))
    if len(systems) == 1:
        columns = [column for column in columns if {text_of(row.get(column)) for row in first.values()} != {"undefined"}]
        for column in columns:
            table.add_column(column, overflow="fold")
        for name, row in first.items():
            table.add_row(name, *(text_of(row[column]) if column in row else "-" for column in columns))
        return table
    for system in systems:
        table.add_column(f"{columns[0]}, {system}", overflow="fold")
    for name in first:
        table.add_row(name, *(text_of(value.tables[title][name][columns[0]]) for value in systems.values()))
    return table


def _paired(tests: list[Mapping[str, Any]], systems: Mapping[str, Evaluation]) -> Table:
    headline = next(iter(systems.values())).headline.strip()
    shown = [test for test in tests if test["number"] == headline]
    table = Table(title=f"{headline}: differences, paired by problem", caption="p-values are not corrected for their number",
                  title_justify="left", caption_justify="left")
    for column in ("first", "second", "first - second [95 % interval]", "p"):
        table.add_column(column, overflow="fold")
    for test in shown:
        table.add_row(test["first"], test["second"], text_of(test["difference"]), p_text(test["p_value"]))
    return table


def p_text(value: float) -> str:
    """A p-value as tables show it."""
    return "undefined" if np.isnan(value) else f"{value:.2g}"
