"""Typed access to the fields of a raw row, with errors that name the place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprm.errors import InputError

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
