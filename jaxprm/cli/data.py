"""``jaxprm data``: what is done to data files before training. Everything streams; nothing here starts jax."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxprm.errors import InputError
from jaxprm.progress import terminal_progress

app = typer.Typer(add_completion=False, rich_markup_mode="markdown",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Convert, count, check, split, deduplicate, compare, mix and look at step-labelled files.")

Inputs = Annotated[list[Path], typer.Argument(metavar="FILE...", help=(
    "JSON lines (.jsonl), JSON (.json), CSV (.csv), each also .gz; .parquet; .arrayrecord; or tfds:FOLDER@SPLIT."))]
FormatOption = Annotated[str, typer.Option("--format", "--from", metavar="NAME", help=(
    "Format of the files; `jaxprm data formats` lists all."))]
NeutralOption = Annotated[str | None, typer.Option("--neutral", metavar="good|bad|ignore", help=(
    "How a neutral rating counts [default: the format's]."))]
AfterErrorOption = Annotated[str | None, typer.Option("--after-error", metavar="keep|ignore|bad", help=(
    "What steps behind the first wrong one count as [default: the format's]."))]
IndexBaseOption = Annotated[int | None, typer.Option("--index-base", metavar="0|1", help=(
    "Number of the first step in the file [default: the format's]."))]
BadAtMostOption = Annotated[float | None, typer.Option("--bad-at-most", metavar="X", help=(
    "A soft label up to X is a wrong step where the first error is looked for [default: 0]."))]
StepTagOption = Annotated[str | None, typer.Option("--step-tag", metavar="TEXT", help=(
    r"Text that ends a step, in formats that mark steps inside one text; `\n` is a line break."))]
LabelFieldOption = Annotated[str | None, typer.Option("--label-field", metavar="NAME", help="Field with the labels (actprm).")]
ProblemsOption = Annotated[Path | None, typer.Option("--problems", metavar="FILE", help=(
    "The original problems, for formats that write problem and first step as one text."))]
SegmenterOption = Annotated[str | None, typer.Option("--segmenter", metavar="NAME", help=(
    "How the format `text` is cut: newline, blank-line, step, sentence, react, tool-call, turn, marker:TEXT."))]
LenientOption = Annotated[bool, typer.Option("--lenient/--strict", help=(
    "Leave out rows that cannot be read and count them, or stop at the first one."))]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", callback=lambda path: _writable(path), help=(
    "Also write every number here."))]


def _writable(path: Path | None) -> Path | None:
    """Refuses a file that could not be written, before the work whose result it is to hold."""
    if path is not None:
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
            raise InputError("cannot be written", file=path, hint="give the name of a file in a folder that you may write to")
    return path


def _settings(neutral=None, after_error=None, index_base=None, bad_at_most=None, step_tag=None, label_field=None, problems=None,
              segmenter=None):
    from jaxprm.data.formats import ProblemIndex, ReadSettings

    return ReadSettings(neutral, after_error, index_base, bad_at_most,
                        None if step_tag is None else step_tag.replace("\\n", "\n").replace("\\t", "\t"), label_field,
                        None if problems is None else ProblemIndex.from_file(problems), segmenter)


def _run(name: str, inputs: list[Path], format: str, settings, lenient: bool, work: Callable[[Any, Any], Any]) -> Any:
    """Calls ``work(source, errors)`` under a progress stage, and reports rows that were left out."""
    from jaxprm.data.formats import find_format
    from jaxprm.data.tools import Errors, Source

    progress, errors = terminal_progress(), Errors(strict=not lenient)
    with progress.stage(name, unit="rows") as stage:
        result = work(Source(tuple(inputs), find_format(format), settings, stage.advance), errors)
    _report(errors.count, errors.messages, progress)
    return result


def _report(count: int, messages, progress) -> None:
    if count:
        progress.log(f"{count:,} rows or solutions were left out:")
        for message in messages:
            progress.log(f"  {message}")
        if count > len(messages):
            progress.log(f"  ... and {count - len(messages):,} more")


def _show(rows: list[tuple[str, str]], numbers: Any, path: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in rows:
        table.add_row(name, value.encode("utf-8", "replace").decode())  # texts of files may hold lone surrogates
    Console(highlight=False, markup=False).print(table)
    if path is not None:
        from jaxprm.records import atomic_write

        with atomic_write(path) as out:
            json_module.dump(numbers, out, indent=2)
            out.write("\n")


@app.command()
def formats(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One format, with its settings.")] = None,
) -> None:
    """What can be read and written.

    Example: `jaxprm data formats prm800k`
    """
    from jaxprm.data.formats import FORMATS, WRITERS, find_format

    if name is None:
        _show([(format.name + (" (also written)" if format.name in WRITERS else ""), format.description)
               for format in FORMATS.values()], None, None)
        return
    format = find_format(name)
    defaults = ", ".join(f"--{key.replace('_', '-')} {value!r}" for key, value in format.defaults.items())
    _show([("rows", format.description), ("from", format.citation), ("labels by", format.made_by),
           ("settings", defaults or "none"), ("written", "yes" if name in WRITERS else "no")], None, None)


@app.command()
def sets(name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One set, with its files.")] = None) -> None:
    """The public sets: where they come from, their formats and licences.

    Example: `jaxprm data sets processbench`
    """
    from jaxprm.data.public import PUBLIC_SETS, find_set

    if name is None:  # plain lines: a table would cut addresses where the terminal ends
        for item in PUBLIC_SETS.values():
            print(f"{item.name:18} {item.licence:13} {item.page}")
        return
    item = find_set(name)
    lines = [("page", item.page), ("licence", item.licence), ("format", item.format)] + [("note", item.note)] * bool(item.note)
    for split, files in item.files.items():
        lines += [(split, file) for file in (item.urls()[split] if item.base else files)]
    lines.append(("prepare", f"jaxprm data prepare {name} --output DIR" + ("" if item.base else " --folder DIR")))
    for label, value in lines:
        print(f"{label:18} {value}")


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A public set; `jaxprm data sets` lists all.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for prepared datasets, of many sets.")],
    folder: Annotated[Path | None, typer.Option("--folder", metavar="DIR", help=(
        "Where the files of the set are [default: they are downloaded from where it is published]."))] = None,
    neutral: NeutralOption = None, after_error: AfterErrorOption = None, index_base: IndexBaseOption = None,
    bad_at_most: BadAtMostOption = None, step_tag: StepTagOption = None, label_field: LabelFieldOption = None,
    problems: ProblemsOption = None, lenient: LenientOption = False,
) -> None:
    """Make a public set a dataset that training reads at random (TFDS, ArrayRecord; no TensorFlow).

    Needs `pip install "jaxprm[tfds]"`. A config names what was prepared by `tfds:FOLDER@SPLIT`.

    Example: `jaxprm data prepare prm800k --neutral bad --output ~/tensorflow_datasets`

    Example: `jaxprm data prepare socratic-prmbench --folder downloads/Socratic-PRMBench --lenient --output data/tfds`
    """
    from jaxprm.data.public import find_set
    from jaxprm.data.tfds_builder import prepare as run
    from jaxprm.data.tools import Errors

    settings = _settings(neutral, after_error, index_base, bad_at_most, step_tag, label_field, problems)
    progress, errors = terminal_progress(), Errors(strict=not lenient)
    with progress.stage("prepare", unit="solutions") as stage:
        found = run(find_set(name), output, folder=folder, settings=settings, on_error=errors, advance=stage.advance)
    _report(errors.count, errors.messages, progress)
    for split, source in found.sources.items():
        print(f"{found.solutions[split]:,} solutions: {source}")


@app.command()
def convert(
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="Written whole or not at all; .gz compresses.")],
    format: FormatOption = "jaxprm",
    to: Annotated[str, typer.Option("--to", metavar="NAME", help=(
        "jaxprm, trl, rlhflow, math-shepherd or processbench."))] = "jaxprm",
    neutral: NeutralOption = None, after_error: AfterErrorOption = None, index_base: IndexBaseOption = None,
    bad_at_most: BadAtMostOption = None, step_tag: StepTagOption = None, label_field: LabelFieldOption = None,
    problems: ProblemsOption = None, segmenter: SegmenterOption = None,
    round_at: Annotated[float | None, typer.Option("--round-at", metavar="X", help=(
        "Write soft labels from X on as right, lower ones as wrong."))] = None,
    unjudged: Annotated[str, typer.Option("--unjudged", metavar="refuse|cut", help=(
        "Steps without a label, where the format needs one: refuse, or end the solution before them."))] = "refuse",
    number_steps: Annotated[bool, typer.Option("--number-steps", help='Write "Step k: " in front of every step.')] = False,
    shard_rows: Annotated[int | None, typer.Option("--shard-rows", metavar="N", min=1, help=(
        "Make --output a folder of files with N solutions each; a killed run goes on there."))] = None,
    lenient: LenientOption = False,
) -> None:
    """Read any format, write another one; every solution says which policies its labels were made with.

    Example: `jaxprm data convert phase2_train.jsonl --from prm800k --neutral bad --output prm800k.jsonl.gz`

    Example: `jaxprm data convert math-shepherd.jsonl --from math-shepherd --to trl --lenient --shard-rows 100000 --output trl/`
    """
    from jaxprm.data import tools
    from jaxprm.data.formats import WriteSettings, find_writer

    settings = _settings(neutral, after_error, index_base, bad_at_most, step_tag, label_field, problems, segmenter)
    writer, write = find_writer(to), WriteSettings(round_at, unjudged, number_steps)
    counts = _run("convert", inputs, format, settings, lenient, lambda source, errors: tools.convert(
        source, output, writer=writer, settings=write, errors=errors, shard_rows=shard_rows))
    files = f" in {counts.files:,} files" if shard_rows else ""
    print(f"{counts.rows:,} rows, {counts.solutions:,} solutions written{files}, {counts.left_out:,} left out: {output}")


@app.command()
def stats(
    inputs: Inputs, format: FormatOption = "jaxprm", neutral: NeutralOption = None, after_error: AfterErrorOption = None,
    index_base: IndexBaseOption = None, bad_at_most: BadAtMostOption = None, step_tag: StepTagOption = None,
    label_field: LabelFieldOption = None, problems: ProblemsOption = None, segmenter: SegmenterOption = None,
    lenient: LenientOption = False, json: JsonOption = None,
) -> None:
    """Problems, steps, lengths, labels, where the errors are, who made them; and what should not be overlooked.

    Example: `jaxprm data stats processbench/*.json --format processbench --json stats.json`
    """
    import dataclasses

    from jaxprm.data import tools

    settings = _settings(neutral, after_error, index_base, bad_at_most, step_tag, label_field, problems, segmenter)
    found = _run("stats", inputs, format, settings, lenient, tools.statistics)
    rows = []
    for name, value in dataclasses.asdict(found).items():
        if isinstance(value, dict):
            shown = list(value.items())
            value = ", ".join(f"{key} {_number(number)}" for key, number in shown[:8]) + (" ..." if len(shown) > 8 else "")
        elif value is None:
            value = "-"
        else:
            value = _number(value)
        rows.append((name.replace("_", " "), value or "-"))
    warnings = found.warnings()
    _show(rows + [("note", warning) for warning in warnings], dataclasses.asdict(found) | {"notes": warnings}, json)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1 else f"{value:,.1f}"


@app.command()
def validate(
    inputs: Inputs, format: FormatOption = "jaxprm", neutral: NeutralOption = None, after_error: AfterErrorOption = None,
    index_base: IndexBaseOption = None, bad_at_most: BadAtMostOption = None, step_tag: StepTagOption = None,
    label_field: LabelFieldOption = None, problems: ProblemsOption = None, segmenter: SegmenterOption = None,
    json: JsonOption = None,
) -> None:
    """Read every row; name those that cannot be read by file, line, field and value. Exit code 2 if there are any.

    Example: `jaxprm data validate train.jsonl.gz`
    """
    import dataclasses

    from jaxprm.data import tools

    settings = _settings(neutral, after_error, index_base, bad_at_most, step_tag, label_field, problems, segmenter)
    found = _run("validate", inputs, format, settings, True, lambda source, errors: tools.validate(source))
    names = [field.name for field in dataclasses.fields(found) if field.name != "messages"]
    _show([(name.replace("_", " "), f"{getattr(found, name):,}") for name in names], dataclasses.asdict(found), json)
    _report(found.unreadable, found.messages, terminal_progress())
    if found.unreadable:
        raise InputError(f"{found.unreadable:,} of {found.rows + found.unreadable:,} rows cannot be read",
                         file=", ".join(map(str, inputs)), hint=f"the first: {found.messages[0]}")


@app.command()
def split(
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for PART.jsonl.")],
    parts: Annotated[str, typer.Option("--parts", metavar="NAME=SHARE,...", help="Shares of problems; they sum to 1.")] = (
        "train=0.9,test=0.1"),
    salt: Annotated[int, typer.Option("--salt", metavar="N", help="Another number, another split.")] = 0,
    compress: Annotated[bool, typer.Option("--compress", help="Write .jsonl.gz.")] = False,
    format: FormatOption = "jaxprm", step_tag: StepTagOption = None, label_field: LabelFieldOption = None,
    problems: ProblemsOption = None, lenient: LenientOption = False, json: JsonOption = None,
) -> None:
    """Split by problem: no problem is in two parts, whatever files and order rows come in. Rows stay as they are.

    Example: `jaxprm data split all.jsonl.gz --parts train=0.8,dev=0.1,test=0.1 --output split/`
    """
    from jaxprm.data import tools

    shares = {}
    for part in parts.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise InputError("must be NAME=SHARE", field="parts", value=part, hint="such as train=0.9,test=0.1") from None
    counts = _run("split", inputs, format, _settings(
        step_tag=step_tag, label_field=label_field, problems=problems), lenient, lambda source, errors: tools.split(
        source, output, shares, salt=salt, errors=errors, suffix=".jsonl.gz" if compress else ".jsonl"))
    _show([(name, f"{count:,} rows") for name, count in counts.items()], counts, json)


@app.command()
def dedup(
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", callback=_writable, help="Rows that are no duplicates.")],
    by: Annotated[str, typer.Option("--by", metavar="solution|problem", help="What is compared.")] = "solution",
    near: Annotated[float | None, typer.Option("--near", metavar="SIMILARITY", help=(
        "Also leave out texts whose word sequences are this similar (0 to 1, by MinHash)."))] = None,
    shingle: Annotated[int, typer.Option("--shingle", metavar="N", min=1, help="Words per sequence, for --near.")] = 5,
    format: FormatOption = "jaxprm", step_tag: StepTagOption = None, label_field: LabelFieldOption = None,
    problems: ProblemsOption = None, lenient: LenientOption = False, json: JsonOption = None,
) -> None:
    """Leave out exact and near duplicates; the first row of each group stays as it is.

    Example: `jaxprm data dedup train.jsonl.gz --near 0.8 --output clean.jsonl.gz`
    """
    import dataclasses

    from jaxprm.data import tools
    from jaxprm.data.tools.minhash import MinHash

    similar = None if near is None else MinHash(near, shingle)
    counts = _run("dedup", inputs, format, _settings(
        step_tag=step_tag, label_field=label_field, problems=problems), lenient, lambda source, errors: tools.dedup(
        source, output, by=by, near=similar, errors=errors))
    numbers = dataclasses.asdict(counts)
    _show([(name, f"{count:,}") for name, count in numbers.items()], numbers, json)


@app.command()
def overlap(
    inputs: Inputs,
    benchmark: Annotated[list[Path], typer.Option("--benchmark", metavar="FILE", help="May be given more than once.")],
    benchmark_format: Annotated[str, typer.Option("--benchmark-format", metavar="NAME", help="Its format.")] = "jaxprm",
    size: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Words per n-gram.")] = 8,
    threshold: Annotated[float, typer.Option("--threshold", metavar="SHARE", help=(
        "Share of a benchmark problem's n-grams that make a row contaminated."))] = 0.5,
    solutions: Annotated[bool, typer.Option("--solutions", help="Look into the steps of rows, too.")] = False,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", callback=_writable, help=(
        "Write the rows that are clean."))] = None,
    format: FormatOption = "jaxprm", step_tag: StepTagOption = None, label_field: LabelFieldOption = None,
    problems: ProblemsOption = None, lenient: LenientOption = False, json: JsonOption = None,
) -> None:
    """Which rows repeat problems of a benchmark.

    Example: `jaxprm data overlap train.jsonl.gz --benchmark math.json --benchmark-format processbench --output clean.jsonl.gz`
    """
    import dataclasses

    from jaxprm.data import tools
    from jaxprm.data.formats import find_format

    against = tools.Source(tuple(benchmark), find_format(benchmark_format))
    found = _run("overlap", inputs, format, _settings(
        step_tag=step_tag, label_field=label_field, problems=problems), lenient, lambda source, errors: tools.overlap(
        source, against, size=size, threshold=threshold, solutions=solutions, output=output, errors=errors))
    rows = [("rows", f"{found.rows:,}"), ("contaminated rows", f"{found.contaminated:,}"),
            ("benchmark problems", f"{found.benchmark:,}"), ("of them repeated", f"{found.touched:,}")]
    for example in found.examples[:3]:
        rows.append((example["row"], f"{example['share']:.0%} of: {' '.join(example['benchmark'].split())[:100]}"))
    _show(rows, dataclasses.asdict(found), json)


@app.command()
def mix(
    inputs: Annotated[list[str], typer.Argument(metavar="FILE=WEIGHT...", help="Files with their weights.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", callback=_writable, help="The mixture.")],
    rows: Annotated[int | None, typer.Option("--rows", metavar="N", min=1, help=(
        "Rows of the output [default: the most that needs no row twice]."))] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Which rows are drawn, and how they alternate.")] = 0,
    repeat: Annotated[bool, typer.Option("--repeat", help="Use rows more than once where a file is too small.")] = False,
    format: FormatOption = "jaxprm", step_tag: StepTagOption = None, label_field: LabelFieldOption = None,
    problems: ProblemsOption = None, lenient: LenientOption = False, json: JsonOption = None,
) -> None:
    """One file from several, with given shares. Rows stay as they are.

    Example: `jaxprm data mix prm800k.jsonl.gz=0.7 shepherd.jsonl.gz=0.3 --rows 100000 --output train.jsonl.gz`
    """
    import dataclasses

    from jaxprm.data import tools
    from jaxprm.data.formats import find_format

    paths, weights = [], []
    for text in inputs:
        path, equals, weight = text.rpartition("=")
        try:
            weights.append(float(weight))
        except ValueError:
            equals = ""
        if not equals or not path:
            raise InputError("must be FILE=WEIGHT", field="inputs", value=text, hint="such as train.jsonl.gz=0.7")
        paths.append(Path(path))
    progress, errors = terminal_progress(), tools.Errors(strict=not lenient)
    with progress.stage("mix", unit="rows") as stage:
        settings = _settings(step_tag=step_tag, label_field=label_field, problems=problems)
        sources = [tools.Source((path,), find_format(format), settings, stage.advance) for path in paths]
        counts = tools.mix(sources, weights, output, rows=rows, seed=seed, repeat=repeat, errors=errors)
    _report(errors.count, errors.messages, progress)
    _show([(str(path), f"{written:,} of {available:,} rows") for path, written, available in
           zip(paths, counts.written, counts.available)], dataclasses.asdict(counts), json)


@app.command()
def view(
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", callback=_writable, help="HTML page.")],
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Solutions at most.")] = 100,
    only: Annotated[str, typer.Option("--only", metavar="all|error|clean|unlabeled|soft", help="Which solutions.")] = "all",
    contains: Annotated[str | None, typer.Option("--contains", metavar="TEXT", help="Only solutions with this text.")] = None,
    scores: Annotated[Path | None, typer.Option("--scores", metavar="FILE", help=(
        'Colour by these instead of labels: rows {"id", "scores": [one per step]}.'))] = None,
    format: FormatOption = "jaxprm", neutral: NeutralOption = None, after_error: AfterErrorOption = None,
    index_base: IndexBaseOption = None, bad_at_most: BadAtMostOption = None, step_tag: StepTagOption = None,
    label_field: LabelFieldOption = None, problems: ProblemsOption = None, segmenter: SegmenterOption = None,
    lenient: LenientOption = False,
) -> None:
    """Show solutions step by step, coloured by label.

    Example: `jaxprm data view train.jsonl.gz --only error --limit 50 --output errors.html`
    """
    from jaxprm.pipelines import data_view

    settings = _settings(neutral, after_error, index_base, bad_at_most, step_tag, label_field, problems, segmenter)
    count = _run("view", inputs, format, settings, lenient, lambda source, errors: data_view.run(
        source, output, limit=limit, only=only, contains=contains, scores=scores, errors=errors))
    print(f"{count:,} solutions: {output.resolve()}")
