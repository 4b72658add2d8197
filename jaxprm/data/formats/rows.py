"""Raw rows of a file, whatever holds them (JSON lines, a JSON array, a table in CSV or Parquet, ArrayRecord, TFDS), and typed
access to their fields, with errors that name the place."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprm.data import rows, tfds
from jaxprm.data.record_file import is_record_file
from jaxprm.errors import InputError
from jaxprm.records import read_json_lines

OnError = Callable[[InputError], None]

_CHUNK = 1 << 20  # characters of a JSON array that are decoded at a time
_BATCH = 1000  # rows of a Parquet file that are decoded at a time
_REFUSED = (".arrow", ".tsv", ".pkl", ".pickle", ".zip", ".zst", ".xz", ".bz2", ".tar", ".tgz")


def read_rows(path: str | os.PathLike, on_error: OnError | None = None, first: int = 1) -> Iterator[tuple[int, Any]]:
    """Yields (1-based row number, JSON value) of a file, in bounded memory. The name tells what it holds:

      .json                 one array, one object, or values one after another
      .csv                  a table with a header; every value is a text, an empty one is left out
      .parquet              a table (with pyarrow, of the extra ``parquet``)
      .arrayrecord          JSON records (`jaxprm.data.arrayrecord`)
      tfds:FOLDER@SPLIT     a split of a prepared dataset, rows of our own schema (`jaxprm.data.tfds`)
      every other name      JSON lines

    text files gzip-compressed if ``.gz`` follows. ``on_error`` gets the error of a line that cannot be decoded, and
    reading goes on behind it (inside a JSON array or a table nothing tells where the next row begins, so there such an error
    always raises).

    Raises:
      InputError: the file is missing or damaged, of a kind that is not read here, or, without ``on_error``, has a bad line.
    """
    if tfds.parse(path) is not None or is_record_file(path):
        yield from (row for row in rows.read_rows(path) if row[0] >= first)
        return
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind in _REFUSED:
        raise InputError(f"is a {kind} file", file=path, hint="save its rows as JSON lines (.jsonl or .jsonl.gz) first")
    if kind not in (".json", ".csv", ".parquet"):
        yield from read_json_lines(path, on_error, first)
        return
    if not path.is_file():
        raise InputError("is not a file" if path.exists() else "no such file", file=path, hint="check the path")
    number = 0
    try:
        for number, value in enumerate(_table(path) if kind == ".parquet" else _decoded(path, kind), 1):
            if number >= first:
                yield number, value
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", file=path, row=number + 1,
                         hint="the file is damaged or truncated") from None


def _decoded(path: Path, kind: str) -> Iterator[Any]:
    """The values of a text file."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as text:
        yield from _csv_rows(text, path) if kind == ".csv" else _json_values(text, path)


def _csv_rows(text, path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)  # of the whole process; a long chain of thought exceeds the default of 128 KiB
    for number, row in enumerate(csv.DictReader(text, strict=True), 1):
        if None in row or None in row.values():
            raise InputError("has another number of values than the header", file=path, row=number,
                             hint="the file is damaged, or its values are not separated by commas")
        yield {name: value for name, value in row.items() if value}


def _table(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError("needs pyarrow to be read", file=path, hint="pip install 'jaxprm[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    yield _plain(row)
    except pyarrow.ArrowInvalid as error:
        raise OSError(str(error).splitlines()[0]) from None


def _plain(value: Any) -> Any:
    """Times, decimals and bytes, which JSON does not have, become texts."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _json_values(text, path: Path) -> Iterator[Any]:
    """The elements of an array, or values that stand one after another, decoded from a window of the text."""
    decode = json.JSONDecoder().raw_decode
    window, position, ended, count = "", 0, False, 0

    def more() -> None:
        nonlocal window, position, ended
        # The window doubles while one value is longer than it, so that a long value is not decoded over and over.
        piece = text.read(max(_CHUNK, len(window) - position))
        window, position, ended = window[position:] + piece, 0, not piece

    def peek() -> str:
        """The next character that is not white space; empty at the end."""
        nonlocal position
        while True:
            while position < len(window) and window[position] in " \t\r\n":
                position += 1
            if position < len(window) or ended:
                return window[position:position + 1]
            more()

    array = peek() == "["
    position += array
    while mark := peek():
        if array and mark == "]":
            position += 1
            if peek():
                raise InputError("has text behind the array", file=path, hint="the file must hold one JSON array")
            return
        if array and count:
            if mark != ",":
                raise InputError("has no comma between two rows", file=path, row=count + 1, hint="the file is damaged")
            position += 1
            peek()
        while True:
            try:
                value, position = decode(window, position)
                break
            except (ValueError, RecursionError) as error:
                if ended or isinstance(error, RecursionError):
                    raise InputError(f"is not valid JSON ({getattr(error, 'msg', error)})", file=path, row=count + 1,
                                     hint="the file is damaged or truncated") from None
                more()
        count += 1
        yield value
    if array:
        raise InputError("ends inside the array", file=path, row=count + 1, hint="the file is truncated")


_KINDS = {str: "text", list: "list", dict: "JSON object", bool: "boolean (true or false)", int: "whole number", float: "number"}


class Fields:
    """Typed access to the fields of one raw row, or of an object inside it.

    Every method takes one or more names (of which the first present one counts: formats exist in several spellings) and
    raises an `InputError` with file, row, field and value if the field is missing or has another type. Those that end in
    ``_or_none`` take a missing or null field for ``None``.
    """

    def __init__(self, data: Mapping[str, Any], file: str | os.PathLike | None, number: int, prefix: str = ""):
        self.data, self.file, self.number, self._prefix = data, file, number, prefix

    def error(self, message: str, field: str | None = None, *, hint: str | None = None, **value) -> InputError:
        """An error at this row; ``field`` is completed to its full path, ``value=`` is optional."""
        name = None if field is None else self._prefix + field
        return InputError(message, file=self.file, row=self.number, field=name, hint=hint, **value)

    def name(self, *names: str) -> str | None:
        """The first of ``names`` that the row has and that is not null."""
        return next((name for name in names if self.data.get(name) is not None), None)

    def _get(self, names: Sequence[str], kind: type, optional: bool) -> Any:
        name = self.name(*names)
        if name is None:
            if optional:
                return None
            present = next((name for name in names if name in self.data), None)
            raise self.error("must not be null" if present else "is missing", present or names[0],
                             hint=f"the row has {', '.join(sorted(map(str, self.data))[:12]) or 'no fields'}; is this the "
                                  "right format?")
        value = self.data[name]
        accepted = int | float if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"has type {type(value).__name__}", name, value=value, hint=f"it must be a {_KINDS[kind]}")
        return value

    def text(self, *names: str) -> str:
        return self._get(names, str, False)

    def text_or_none(self, *names: str) -> str | None:
        """A text; numbers, which some files have for an answer or an id, become texts."""
        name = self.name(*names)
        if name is not None and isinstance(self.data[name], int | float) and not isinstance(self.data[name], bool):
            return str(self.data[name])
        return self._get(names, str, True)

    def integer(self, *names: str) -> int:
        return self._get(names, int, False)

    def number_of(self, *names: str) -> float:
        return self._get(names, float, False)

    def flag_or_none(self, *names: str) -> bool | None:
        return self._get(names, bool, True)

    def items(self, *names: str) -> list:
        return self._get(names, list, False)

    def texts(self, *names: str) -> list[str]:
        values = self.items(*names)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error("must be a text", f"{self.name(*names)}[{index}]", value=value)
        return values

    def child(self, *names: str) -> Fields:
        """The fields of an object in this row."""
        data = self._get(names, dict, False)
        return Fields(data, self.file, self.number, f"{self._prefix}{self.name(*names)}.")

    def children(self, *names: str) -> list[Fields]:
        """The fields of every object of a list."""
        values, name = self.items(*names), self.name(*names)
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.error("must be a JSON object", f"{name}[{index}]", value=value)
        return [Fields(value, self.file, self.number, f"{self._prefix}{name}[{index}].") for index, value in enumerate(values)]

    def rest(self, *without: str) -> dict[str, Any]:
        """The fields that a reader has no use for, to be kept as ``meta``; nulls are left out."""
        return {name: value for name, value in self.data.items() if name not in without and value is not None}
