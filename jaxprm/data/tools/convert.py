"""From any format to any format that can be written: one file at once, or shards that a killed run goes on with."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxprm.data import tfds
from jaxprm.data.formats import ProblemIndex, WriteSettings, Writer
from jaxprm.data.formats.writers import WRITERS
from jaxprm.data.tools.source import Errors, Source, refuse_same, write_line
from jaxprm.errors import InputError
from jaxprm.records import atomic_write

_STATE = "convert.json"


@dataclasses.dataclass
class ConvertCounts:
    """Rows read, solutions written, rows and solutions left out because they could not be read or written, files."""

    rows: int = 0
    solutions: int = 0
    left_out: int = 0
    files: int = 0


def convert(source: Source, output: str | os.PathLike, *, writer: Writer = WRITERS["jaxprm"],
            settings: WriteSettings = WriteSettings(), errors: Errors | None = None,
            shard_rows: int | None = None, suffix: str = ".jsonl.gz") -> ConvertCounts:
    """Writes every solution of ``source``.

    Args:
      output: a file (compressed if it ends in ``.gz``), written whole or not at all; with ``shard_rows`` a folder.
      errors: what to do with rows that cannot be read, or said in the format to be written; raises by default.
      shard_rows: about so many solutions per file ``00000.jsonl.gz, ...`` (a row is never split). The folder keeps count of
        what is finished, and a second call with the same inputs and settings goes on there.

    Raises:
      InputError: a bad row (unless ``errors`` counts), an output that is also read, a folder with another conversion.
    """
    errors = errors or Errors()
    refuse_same(output, source.paths)
    if shard_rows is None:
        counts = ConvertCounts(files=1)
        with atomic_write(output) as out:
            for _, rows in _written(source, writer, settings, errors, counts, (0, 1)):
                for row in rows:
                    write_line(out, row)
        counts.left_out = errors.count
        return counts
    if shard_rows < 1:
        raise InputError("must be at least 1", field="shard_rows", value=shard_rows)
    return _shards(source, Path(output), writer, settings, errors, shard_rows, suffix)


def _written(source: Source, writer: Writer, settings: WriteSettings, errors: Errors, counts: ConvertCounts,
             start: tuple[int, int]) -> Iterator[tuple[tuple[int, int], list[dict[str, Any]]]]:
    for place, _, items in source.rows(errors, start):
        rows = []
        for item in items:
            try:
                rows.append(writer.row(item, settings))
            except InputError as error:
                errors(error.located(file=source.paths[place[0]], row=place[1]))
        counts.rows += 1
        counts.solutions += len(rows)
        yield place, rows


def _shards(source: Source, folder: Path, writer: Writer, settings: WriteSettings, errors: Errors, size: int,
            suffix: str) -> ConvertCounts:
    identity = _identity(source, writer, settings, size, suffix)
    state = _read_state(folder, identity)
    counts = ConvertCounts(**state["counts"])
    if state["done"]:
        return counts
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".*{suffix}.*.tmp"):  # of a run that was killed
        left.unlink()
    before = counts.left_out
    rows = _written(source, writer, settings, errors, counts, tuple(state["next"]))
    done = False
    while not done:
        place = None
        with atomic_write(folder / f"{counts.files:05d}{suffix}") as out:
            count = 0
            while count < size:
                found = next(rows, None)
                if found is None:
                    done = True
                    break
                place = found[0]
                for row in found[1]:
                    write_line(out, row)
                count += len(found[1])
        if count:
            counts.files += 1
        else:
            (folder / f"{counts.files:05d}{suffix}").unlink()
        counts.left_out = before + errors.count
        if place is not None:
            state["next"] = [place[0], place[1] + 1]
        _write_state(folder, {"identity": identity, "counts": dataclasses.asdict(counts), "next": state["next"], "done": done})
    return counts


def _identity(source: Source, writer: Writer, settings: WriteSettings, size: int, suffix: str) -> dict[str, Any]:
    """What must be equal for a second call to go on: inputs by name and size, and every setting."""
    read = {field.name: getattr(source.settings, field.name) for field in dataclasses.fields(source.settings)}
    read = {name: value.fingerprint if isinstance(value, ProblemIndex) else value for name, value in read.items()}
    return {"from": source.format.name, "read": read, "to": writer.name, "write": dataclasses.asdict(settings),
            "shard_rows": size, "suffix": suffix, "inputs": [[str(path), _size(path)] for path in source.paths]}


def _size(path: Path) -> int:
    """Bytes of a file; of a prepared dataset 0, which does not change under its name."""
    return 0 if tfds.parse(path) is not None else Path(path).stat().st_size


def _read_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    path = folder / _STATE
    fresh = {"counts": {}, "next": [0, 1], "done": False}
    if not path.is_file():
        # What a run leaves that was killed before its first shard counts for nothing.
        if folder.exists() and (not folder.is_dir() or any(not entry.name.endswith((".tmp", "00000.jsonl.gz", "00000.jsonl"))
                                                           for entry in folder.iterdir())):
            raise InputError("is a file, or a folder with other things in it", file=folder, hint="choose another --output")
        return fresh
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["identity"] != identity:
            raise InputError("holds another conversion (other inputs or settings)", file=folder,
                             hint="choose another --output, or delete this one")
        return {name: state[name] for name in fresh}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read ({error})", file=path, hint="delete the damaged folder") from None


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    with atomic_write(folder / _STATE) as out:
        json.dump(state, out, indent=2, ensure_ascii=False)
