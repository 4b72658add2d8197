"""``jaxprm search``: one or more searches over a file of problems, resumable, with results, trees and a page.

    RUN/searched.jsonl      a row per search and problem: the chosen solution, and the tree (`jaxprm.search.searched`)
    RUN/searched.jsonl.part the same while the run is under way, in the order in which batches were done
    RUN/results.json        accuracy and cost of every search, with intervals
    RUN/report.html         these numbers, and the trees
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxprm.data.rows import located, read_rows, rows_sha256
from jaxprm.errors import InputError, Stopped
from jaxprm.evaluation.results import to_json
from jaxprm.evaluation.searches import SearchSummary, compare_searches, is_right, summarise_search
from jaxprm.metrics import Interval
from jaxprm.models.sharding import auto_axes, make_mesh
from jaxprm.pipelines.search_config import NamedSearch, Search
from jaxprm.progress import Progress
from jaxprm.records import Problem, atomic_write, dump_row
from jaxprm.reports.search_tree import render_searches
from jaxprm.run_directory import RunDirectory
from jaxprm.search.searched import Searched, read_searched, searched_row
from jaxprm.search.searcher import Searcher
from jaxprm.training.stopping import StopSignal

RESAMPLING_KEY = 0

Found = dict[str, dict[str, Searched]]
"""Search -> id of a problem -> what it found."""


def run(config: Search, run_directory: RunDirectory, progress: Progress, *, output: str | os.PathLike | None = None,
        html: str | os.PathLike | None = None) -> Path:
    """Runs what is not done yet, writes results and the page, and returns its path.

    A problem that an endpoint gave nothing for is tried again by the next call.

    Args:
      config: the searches and their problems.
      run_directory: where the run is kept.
      progress: shows how far it is.
      output, html: also write the rows of problems with at least one step, and the page, here.

    Raises:
      InputError: a model, a problem or an earlier row that cannot be read, or problems that have changed since the run began.
      Stopped: by SIGTERM, with everything saved.
    """
    problems = _problems(config)
    path = located(config.input)
    digest = rows_sha256(path)
    known = run_directory.finished("problems")
    if known is not None and known["sha256"] != digest:
        raise InputError("has changed since this run began", file=path, field="input",
                         hint="choose another directory with --run, or delete this one")
    rows = run_directory.path / "searched.jsonl"
    partial = rows.with_name(f"{rows.name}.part")
    found = _known(config, problems, rows if rows.is_file() else partial, not rows.is_file())
    left = [search for search in config.searches if len(found[search.name]) < len(problems)]
    for search in left:
        search.check()
    searcher = _open(config, left[0]) if left else None
    run_directory.finish("problems", sha256=digest, problems=len(problems))  # not before: a bad model must not hold the place
    if left:
        with _Journal(partial, found) as journal, StopSignal() as stop:
            rows.unlink(missing_ok=True)
            for search in left:
                searcher = searcher or _open(config, search)
                _search(search.name, searcher, problems, found[search.name], journal, stop, progress)
                searcher = None  # the models of one search at a time
    ordered = {name: [some[problem.id] for problem in problems] for name, some in found.items()}
    _write_rows(rows, ordered)
    partial.unlink(missing_ok=True)
    if output is not None:  # for readers of solutions: without problems that have none
        _write_rows(Path(output), {name: [one for one in some if one.steps(one.chosen)] for name, some in ordered.items()})

    summaries = {name: summarise_search(some, RESAMPLING_KEY, resamples=config.resamples) for name, some in ordered.items()}
    first, *others = ordered
    differences = {name: compare_searches(ordered[name], ordered[first], RESAMPLING_KEY, resamples=config.resamples)
                   for name in others}
    _write_results(config, run_directory, ordered, summaries, differences)
    page = render_searches(ordered, summaries, differences=differences, limit=config.show,
                           title=f"Search: {Path(config.input).name}")
    for place in (run_directory.report, html):
        if place is not None:
            with atomic_write(place) as out:
                out.write(page)
    run_directory.finish_run()
    for line in _unanswered(ordered):
        progress.log(line)
    Console(markup=False).print(_table(summaries, differences))
    return run_directory.report


def _open(config: Search, search: NamedSearch) -> Searcher:
    return search.open(config.judge, config.grading, config.mesh and auto_axes(make_mesh(*config.mesh)))


def _search(name: str, searcher: Searcher, problems: Sequence[Problem], known: dict[str, Searched], journal: _Journal,
            stop: StopSignal, progress: Progress) -> None:
    way = "compiled" if searcher.compiled else "through text"
    with progress.stage(f"{name} ({way})", len(problems), "problems", len(known)) as stage:

        def on_batch(batch: list[Searched]) -> None:
            known.update((one.problem.id, one) for one in batch)
            journal.write(name, batch)
            shown = {"right": f"{sum(map(is_right, known.values()))} of {len(known)}"}
            stage.advance(len(batch), tokens=sum(one.costs.policy_tokens for one in batch), **shown)
            if stop.requested(len(known)):
                raise Stopped(f"stopped after {len(known)} of {len(problems)} problems of '{name}'; the same command goes on")

        searcher.run([problem for problem in problems if problem.id not in known], on_batch)


def _problems(config: Search) -> list[Problem]:
    """The distinct problems of the input, in its order, each checked as far as it can be before any model is read."""
    path, problems = located(config.input), {}
    for number, row in read_rows(path):
        if config.limit and len(problems) >= config.limit:
            break
        problem = _problem(row, path, number)
        earlier = problems.setdefault(problem.id, problem)
        if earlier.prompt != problem.prompt:
            raise InputError("stands for two different problems", file=path, row=number, field="id", value=problem.id,
                             hint="give each problem an id of its own")
        if earlier is problem:
            try:
                config.judge(problem, ())
            except InputError as error:
                raise error.located(file=path, row=number) from None
    if not problems:
        raise InputError("has no problems", file=path, field="input", hint="write one JSON object with 'problem' per line")
    return list(problems.values())


def _problem(row: Any, path: str, number: int) -> Problem:
    if not isinstance(row, dict):
        raise InputError(f"a row must be a JSON object, not {type(row).__name__}", file=path, row=number)
    prompt = row.get("problem")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("must be a text" if "problem" in row else "is missing", file=path, row=number, field="problem",
                         **({"value": prompt} if "problem" in row else {}), hint="each row needs 'problem' (text)")
    answer, meta = row.get("answer"), row.get("meta") or {}
    if not isinstance(answer, str | int | float | None) or isinstance(answer, bool):
        raise InputError("must be a text or a number", file=path, row=number, field="answer", value=answer)
    if not isinstance(meta, dict):
        raise InputError("must be a JSON object", file=path, row=number, field="meta", value=meta)
    name = next((row[key] for key in ("problem_id", "id") if row.get(key) is not None), number)
    return Problem(str(name), prompt, None if answer is None else str(answer), meta)


def _known(config: Search, problems: Sequence[Problem], path: Path, damaged_end: bool) -> Found:
    """What earlier calls have found, without problems that an endpoint gave nothing for."""
    found: Found = {search.name: {} for search in config.searches}
    ids = {problem.id for problem in problems}
    for number, row in _lines(path, damaged_end) if path.is_file() else ():
        name, one = read_searched(row, file=path, number=number)
        if name in found and one.problem.id in ids and not _unreached(one):
            found[name][one.problem.id] = one
    return found


def _lines(path: Path, damaged_end: bool) -> Iterator[tuple[int, Any]]:
    """Rows of a file of our own; one at the end that a killed run has cut off is left out."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line or (number == len(lines) and damaged_end):
            continue
        try:
            yield number, json.loads(line)
        except ValueError:
            raise InputError("is not valid JSON", file=path, row=number, hint="the file is damaged; delete it") from None


def _unreached(found: Searched) -> bool:
    return found.chosen is None and any(warning.startswith("endpoint:") for warning in found.warnings)


class _Journal:
    """Appends what is found, so that a killed run loses one batch at most."""

    def __init__(self, path: Path, found: Found):
        self._path, self._found = path, found

    def __enter__(self) -> _Journal:
        # Whole again, from what could be read: a line that was cut off must not stay in the middle.
        with atomic_write(self._path) as out:
            for name, some in self._found.items():
                out.writelines(dump_row(searched_row(one, name)) + "\n" for one in some.values())
        self._out = open(self._path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_) -> None:
        self._out.close()

    def write(self, name: str, batch: Sequence[Searched]) -> None:
        self._out.writelines(dump_row(searched_row(one, name)) + "\n" for one in batch)
        self._out.flush()
        os.fsync(self._out.fileno())


def _write_rows(path: Path, found: dict[str, list[Searched]]) -> None:
    with atomic_write(path) as out:
        for name, some in found.items():
            out.writelines(dump_row(searched_row(one, name)) + "\n" for one in some)


def _write_results(config: Search, run_directory: RunDirectory, found: dict[str, list[Searched]],
                   summaries: dict[str, SearchSummary], differences: dict[str, Interval]) -> None:
    searches = {name: to_json(summary) | {"accuracy_minus_first": to_json(differences.get(name)),
                                          "not_ended": [one.problem.id for one in found[name] if not one.finished]}
                for name, summary in summaries.items()}
    results = {"searches": searches, "input": run_directory.finished("problems") | {"file": config.input},
               "config_sha256": run_directory.config_sha256}
    with atomic_write(run_directory.results) as out:
        json.dump(results, out, indent=2, ensure_ascii=False, allow_nan=False)
        out.write("\n")


def _unanswered(found: dict[str, list[Searched]]) -> Iterator[str]:
    for name, some in found.items():
        unreached = sum(map(_unreached, some))
        if unreached:
            yield f"{name}: the endpoint gave nothing for {unreached} of {len(some)} problems; the same command tries again"


def _table(summaries: dict[str, SearchSummary], differences: dict[str, Interval]) -> Table:
    table = Table(caption="value [95 % interval]; tokens are means per problem", caption_justify="left")
    table.add_column("")
    for name in summaries:
        table.add_column(name, overflow="fold")
    rows = list(summaries.values())
    table.add_row("problems (graded)", *(f"{row.problems:,} ({row.graded:,})" for row in rows))
    table.add_row("accuracy", *(_text(row.accuracy) for row in rows))
    if differences:
        table.add_row("  minus the first", *(_text(differences[name], "+.3f") if name in differences else "-"
                                              for name in summaries))
    table.add_row("a right one found", *(_text(row.any_right) for row in rows))
    table.add_row("ended", *(_text(row.finished) for row in rows))
    table.add_row("policy tokens", *(_text(row.policy_tokens, ",.0f") for row in rows))
    table.add_row("PRM tokens", *(_text(row.reward_tokens, ",.0f") for row in rows))
    table.add_row("seconds", *(f"{row.costs.seconds:,.1f}" for row in rows))
    for warning in sorted({warning for row in rows for warning in row.warnings}):
        table.add_row(warning, *(f"{row.warnings.get(warning, 0):,}" for row in rows))
    return table


def _text(value: Interval, form: str = ".3f") -> str:
    if value.mean != value.mean:
        return "-"
    return f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"
