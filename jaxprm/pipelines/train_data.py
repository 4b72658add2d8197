"""What a PRM is trained on: labelled files, split by problem, encoded - in memory, or once and for all on disk.

In memory (`encode_split`) everything is read and encoded at the start of a run. On disk (`stored_split`) the first run with
these files and this tokenizer streams the rows and writes its training examples to ArrayRecord files, which it and later
runs read at random; held-out solutions and a count per distinct prefix are all that lies in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.data.arrayrecord import ExampleStore, write_examples, write_solutions
from jaxprm.data.example_table import UNKNOWN, Examples, Origin, table_statistics
from jaxprm.data.examples import Example, OverlongPolicy, step_example
from jaxprm.data.lengths import expected_padding, length_statistics, row_sizes
from jaxprm.data.mixture import Part, mixed_lengths
from jaxprm.data.pipeline import StepDataset
from jaxprm.data.rows import read_rows
from jaxprm.data.solutions import (
    LoadCounts,
    ReadSolution,
    SolutionFiles,
    Source,
    in_held_out,
    iterate_solutions,
    nothing_left,
    problem_hash,
)
from jaxprm.errors import InputError
from jaxprm.pipelines.step_data import CachedEncoder, Encoded, prefix_digests, prefix_weights, refuse_step
from jaxprm.progress import Progress
from jaxprm.records import LabeledSolution, atomic_write, parse_row
from jaxprm.steps.format import StepEncoder

STORE_FORMAT = 1

_PADDING_SAMPLE = 20_000


@dataclasses.dataclass(frozen=True, eq=False)
class ReadSplit:
    """The rows of all files in memory, split by problem."""

    train: list[ReadSolution]
    held_out: list[ReadSolution]
    counts: LoadCounts


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Solutions of problems that are not trained on, with their token ids; what is evaluated is read whole.

    Attributes:
      items, encoded: those that fit a row.
      overlong: how many do not.
    """

    items: list[LabeledSolution]
    encoded: list[Encoded]
    overlong: int = 0

    def examples(self, count_once: bool) -> list[Example]:
        """The same as training examples; ``count_once``: see `prefix_weights`."""
        weights = prefix_weights(self.items) if count_once else [1.0] * len(self.items)
        return [_weighed(*encoded, item, weight) for item, encoded, weight in zip(self.items, self.encoded, weights)]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingData:
    """Encoded solutions of both sides of the split, before those that are too long are dealt with.

    Attributes:
      parts: the sources to train on.
      held_out: solutions of other problems with their token ids, and ``origins`` (file, row) of each.
      counts: what was read.
    """

    parts: tuple[Part, ...]
    held_out: list[tuple[LabeledSolution, Encoded, str, int]]
    counts: LoadCounts

    def fitting(self, row_tokens: int, row_steps: int, overlong: OverlongPolicy) -> HeldOut:
        """The held-out solutions that fit a row.

        Raises:
          InputError: one does not and the policy is "error"; it names file and row.
        """
        items, encoded = [], []
        for item, (ids, ends), file, row in self.held_out:
            if len(ids) <= row_tokens and len(ends) <= row_steps:
                items.append(item)
                encoded.append((ids, ends))
            elif overlong == "error":
                raise InputError(f"has {len(ids)} tokens and {len(ends)} steps; room is for {row_tokens} tokens and "
                                 f"{row_steps} steps", file=file, row=row, field="steps",
                                 hint="use longer rows, or overlong = 'truncate' or 'drop'")
        return HeldOut(items, encoded, len(self.held_out) - len(items))


def read_split(data: SolutionFiles, held_out: float) -> ReadSplit:
    """Reads all files and splits them by problem, see `jaxprm.data.solutions.split_by_problem`.

    Raises:
      InputError: bad input, with file and row, or nothing on one side.
    """
    sides: tuple[list, list] = ([], [])
    rows = empty = 0
    for read in iterate_solutions(data):
        rows, empty = rows + 1, empty + read.empty_steps
        if read.item is not None:
            sides[in_held_out(read.item, held_out)].append(read)
    counts = LoadCounts(rows, rows - sum(map(len, sides)), empty)
    if not any(sides):
        raise nothing_left(data, counts)
    _check_sides(len(sides[0]), len(sides[1]), held_out)
    per_source = Counter(read.source for read in sides[0])
    for index, source in enumerate(data.sources):
        _check_source(source.name, per_source[index])
    return ReadSplit(*sides, counts)


def encode_split(split: ReadSplit, encoder: StepEncoder, data: SolutionFiles, count_once: bool) -> TrainingData:
    """Token ids of everything that was read, in memory.

    Raises:
      InputError: a step that cannot be encoded; it names file, row, step and value.
    """
    cached = CachedEncoder(encoder)
    weights = prefix_weights([read.item for read in split.train]) if count_once else [1.0] * len(split.train)
    files: list[str] = []
    sources: list[list[tuple[Example, Origin]]] = [[] for _ in data.sources]
    for read, weight in zip(split.train, weights):
        sources[read.source].append((_example(read, _encode(read, cached), weight), _origin(read, files)))
    parts = [Part(source.name, Examples(*zip(*found), files), source.weight)
             for source, found in zip(data.sources, sources, strict=True)]
    held_out = [(read.item, _encode(read, cached), read.file, read.row) for read in split.held_out]
    return TrainingData(tuple(parts), held_out, split.counts)


def stored_split(folder: Path, encoder: StepEncoder, data: SolutionFiles, files: dict[str, str], held_out: float,
                 count_once: bool, progress: Progress) -> TrainingData:
    """As `read_split` and `encode_split`, from a folder below ``folder`` that is named by all that its content depends on;
    written if it is not there.

    Args:
      files: path -> SHA-256 of ``data``'s files.

    Raises:
      InputError: as those; also a damaged folder.
    """
    policies = {name: value for name, value in dataclasses.asdict(data).items() if name not in ("files", "mixture")}
    identity = {"format": STORE_FORMAT, "sha256": [[files[path] for path in source.files] for source in data.sources],
                "names": [source.name for source in data.sources], **policies, "tokenizer": encoder.tokenizer.fingerprint,
                "step_format": dataclasses.asdict(encoder.format), "held_out": held_out, "count_prefixes_once": count_once}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    place = folder.expanduser() / key
    if not place.is_dir():
        temporary = place.with_name(f".{key}.{os.getpid()}.tmp")
        try:
            summary = _store(temporary, encoder, data, held_out, count_once, progress)
            with atomic_write(temporary / "summary.json") as out:
                json.dump({"identity": identity, **summary}, out)
            try:
                os.rename(temporary, place)
            except OSError:
                if not place.is_dir():  # else another run was faster, and what it wrote is the same
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    progress.log(f"encoded examples: {place}")
    try:
        summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
        counts, paths, origins = LoadCounts(**summary["counts"]), summary["files"], summary["held_out"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read ({error})", file=place / "summary.json",
                         hint="delete the folder and encode the examples again") from None
    parts = [Part(source.name, ExampleStore(place / f"train-{index}"), source.weight)
             for index, source in enumerate(data.sources)]
    cached, rest, file = CachedEncoder(encoder), [], place / "held_out.arrayrecord"
    for (number, row), (path, original) in zip(read_rows(file) if origins else (), origins):
        item = parse_row(row, file=file, number=number)[0]
        rest.append((item, cached.encode(item.solution.problem.prompt, item.solution.steps), paths[path], original))
    return TrainingData(tuple(parts), rest, counts)


def _store(place: Path, encoder: StepEncoder, data: SolutionFiles, held_out: float, count_once: bool,
           progress: Progress) -> dict[str, Any]:
    """Streams the files twice, to count prefixes (if that is asked for) and to encode; what it saw, as JSON values."""
    prefixes: Counter[bytes] = Counter()
    if count_once:
        with progress.stage("count prefixes", None, "solutions") as stage:
            for read in iterate_solutions(data):
                if read.item is not None and read.item.labels and not in_held_out(read.item, held_out):
                    prefixes.update(digest for digest, label in zip(prefix_digests(read.item), read.item.labels.values)
                                    if label is not None)
                stage.advance()
    cached, totals, sizes = CachedEncoder(encoder), Counter(), Counter()
    rest: list[LabeledSolution] = []
    paths: list[str] = []
    origins: list[tuple[int, int]] = []

    def examples(source: Source, files: list[str]) -> Iterator[tuple[Example, Origin]]:
        for read in iterate_solutions(dataclasses.replace(data, files=source.files, mixture=())):
            stage.advance()
            totals.update(rows=1, empty_steps=read.empty_steps, unlabeled=read.item is None)
            if read.item is None:
                continue
            if in_held_out(read.item, held_out):
                _encode(read, cached)  # a step that cannot be encoded is refused here, where its place is known
                rest.append(read.item)
                origins.append((_file(read, paths), read.row))
                continue
            sizes[source.name] += 1
            weight = np.array([1 / max(prefixes[digest], 1) for digest in prefix_digests(read.item)],
                              np.float32) if count_once else 1.0
            yield _example(read, _encode(read, cached), weight), _origin(read, files)
        _check_source(source.name, sizes[source.name])

    with progress.stage("encode", None, "solutions") as stage:
        for index, source in enumerate(data.sources):
            files: list[str] = []
            write_examples(place / f"train-{index}", examples(source, files), files=files)
    _check_sides(sizes.total(), len(rest), held_out)
    if rest:
        write_solutions(place / "held_out.arrayrecord", rest)
    counts = {name: int(totals[name]) for name in ("rows", "unlabeled", "empty_steps")}
    return {"counts": counts, "files": paths, "held_out": origins}


def describe(data: TrainingData, dataset: StepDataset, held_out: HeldOut, *, row_tokens: int, row_steps: int,
             batch_rows: int, steps: int) -> dict[str, Any]:
    """What a run is trained on, as JSON values: counts, labels, lengths before anything is cut or left out, the padding to
    expect, and what was cut or left out of each source and what it will contribute.

    Args:
      dataset: of ``data.parts``.
      steps: optimiser steps of ``batch_rows`` rows.
    """
    whole = np.concatenate([part.examples.table for part in data.parts])
    tables = [part.examples.table for part in dataset.parts]
    kept = np.concatenate(tables)
    longest = int(whole["tokens"].max()), int(whole["steps"].max())
    lengths = length_statistics(whole["tokens"], whole["steps"], row_sizes(row_tokens, row_steps, *longest))
    tokens, count = mixed_lengths(dataset.parts, tables, min(_PADDING_SAMPLE, len(kept)))
    padding = expected_padding(tokens, count, row_tokens, row_steps, batch_rows)
    drawn = round(steps * batch_rows * row_tokens * (1 - padding["packed"]) / float(tokens.mean()))
    shares = dataset.shares(drawn)
    sources = {part.name: dataclasses.asdict(part.examples.counts) | {
        name: value if isinstance(value, int) else round(value, 6) for name, value in shares[part.name].items()}
        for part in dataset.parts}
    fit = dataset.counts
    return {**dataclasses.asdict(data.counts), "overlong": fit.truncated + fit.dropped + held_out.overlong,
            "truncated": fit.truncated, "dropped": fit.dropped, "held_out_overlong": held_out.overlong,
            "train": dataclasses.asdict(table_statistics(kept)), "train_weight": round(float(kept["weight"].sum()), 3),
            "train_tokens": int(kept["tokens"].sum()), "lengths": dataclasses.asdict(lengths),
            "padding": {name: round(value, 6) for name, value in padding.items()}, "sources": sources}


def in_words(counts: dict[str, Any], row_tokens: int, row_steps: int) -> list[str]:
    """`describe` as lines for the log and the report: lengths and padding, then one line per source of a mixture."""
    tokens, steps, padding = counts["lengths"]["tokens"], counts["lengths"]["steps"], counts["padding"]
    fits = next(fit["solutions"] for fit in counts["lengths"]["fits"] if fit["row_tokens"] == row_tokens)
    share, step_share = tokens["percentiles"], steps["percentiles"]
    lines = [f"{tokens['mean']:.0f} tokens and {steps['mean']:.1f} steps per solution (median {share['50']:,} and "
             f"{step_share['50']}, 95 % up to {share['95']:,} and {step_share['95']}, longest {share['100']:,} and "
             f"{step_share['100']}); {100 * fits:.2f} % fit rows of {row_tokens:,} tokens and {row_steps:,} steps, which will "
             f"be {100 * padding['packed']:.1f} % padding ({100 * padding['longest']:.0f} % if each solution had its own row, "
             f"as long as the longest of its batch)"]
    for name, source in counts["sources"].items() if len(counts["sources"]) > 1 else ():
        cut = ", ".join(f"{source[name]:,} {word}" for name, word in (("truncated", "cut"), ("dropped", "left out"))
                        if source[name])
        lines.append(f"{name}: {100 * source['share']:.1f} % of the solutions drawn, {100 * source['tokens']:.1f} % of the "
                     f"tokens, {100 * source['labels']:.1f} % of the labels; its {source['solutions']:,} solutions"
                     f"{f' ({cut})' if cut else ''} are seen {source['epochs']:.2f} times each")
    return lines


def _example(read: ReadSolution, encoded: Encoded, weight: np.ndarray | float) -> Example:
    return _weighed(*encoded, read.item, weight)


def _weighed(ids: list[int], ends: list[int], item: LabeledSolution, weight: np.ndarray | float) -> Example:
    example = step_example(ids, ends, item.labels)
    return example | {"weights": example["weights"] * np.float32(weight)}


def _encode(read: ReadSolution, encoder: CachedEncoder) -> Encoded:
    try:
        return encoder.encode(read.item.solution.problem.prompt, read.item.solution.steps)
    except InputError:
        refuse_step(read.item, encoder, Path(read.file), read.row)


def _file(read: ReadSolution, files: list[str]) -> int:
    """Index of its file in the list, which grows with each new one; rows come file by file."""
    if not files or files[-1] != read.file:
        files.append(read.file)
    return len(files) - 1


def _origin(read: ReadSolution, files: list[str]) -> Origin:
    error = read.item.labels.first_error if read.item.labels else None
    return Origin(problem_hash(read.item.solution.problem.prompt), UNKNOWN if error is None else error, _file(read, files),
                  read.row)


def _check_sides(train: int, held_out: int, share: float) -> None:
    if not train or (share and not held_out):
        raise InputError(f"leaves {train} solutions to train on and {held_out} held out", field="held_out", value=share,
                         hint="use more problems, or another share")


def _check_source(name: str, count: int) -> None:
    if not count:
        raise InputError(f"source '{name}' has no solutions to train on", field="mixture",
                         hint="check its files, or hold fewer problems out")
