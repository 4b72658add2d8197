"""Raw rows of a file (JSON lines, or a JSON array) and typed access to their fields, with errors that name the place."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError
from jaxprm.records import read_json_lines

OnError = Callable[[InputError], None]

_CHUNK = 1 << 20  # characters of a JSON array that are decoded at a time
_OTHER_CONTAINERS = (".parquet", ".arrow", ".csv", ".tsv", ".pkl", ".pickle", ".zip", ".zst", ".xz", ".bz2")


def read_rows(path: str | os.PathLike, on_error: OnError | None = None, first: int = 1) -> Iterator[tuple[int, Any]]:
    """Yields (1-based row number, JSON value) of a file, in bounded memory.

    ``.json`` and ``.json.gz`` hold one array, one object, or values one after another; every other name is read as JSON lines,
    gzip-compressed if it ends in ``.gz``. ``on_error`` gets the error of a line that cannot be decoded, and reading goes on
    behind it (inside an array nothing tells where the next row begins, so there such an error always raises).

    Raises:
      InputError: the file is missing or damaged, of a kind that is not read here, or, without ``on_error``, has a bad line.
    """
    path = Path(path)
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    if suffixes and suffixes[-1].lower() in _OTHER_CONTAINERS:
        raise InputError(f"is a {suffixes[-1]} file", file=path, hint="save its rows as JSON lines (.jsonl or .jsonl.gz) first")
    if not suffixes or suffixes[-1].lower() != ".json":
        yield from read_json_lines(path, on_error, first)
        return
    if not path.is_file():
        raise InputError("is not a file" if path.exists() else "no such file", file=path, hint="check the path")
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as text:
            for number, value in enumerate(_json_values(text, path), 1):
                if number >= first:
                    yield number, value
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path, row=number + 1,
                         hint="the file is damaged or truncated") from None


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
