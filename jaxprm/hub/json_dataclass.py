"""A frozen dataclass from its JSON form, strictly: every field is there, none is unknown, each has its type."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError


def from_json(kind: type, values: Any, file: Path, name: str, optional: Collection[str] = ()):
    """The inverse of ``json.loads(json.dumps(dataclasses.asdict(x)))`` for fields of JSON types, tuples and dataclasses.

    Args:
      kind: the dataclass.
      values: what stands in the file.
      file, name: where that is, for messages.
      optional: fields that may be absent and then have their default.

    Raises:
      InputError: naming the field as ``name.field``.
    """
    if not isinstance(values, dict):
        raise InputError("is missing" if values is None else "must be a JSON object", file=file, field=name)
    hints = typing.get_type_hints(kind)
    for field in (*hints, *values):
        if field not in hints or (field not in values and field not in optional):
            raise InputError("is missing" if field in hints else "is not known", file=file, field=f"{name}.{field}")
    fields = {field: _value(hints[field], value, file, f"{name}.{field}") for field, value in values.items()}
    try:
        return kind(**fields)
    except InputError as error:
        field = f"{name}.{error.field}"
        raise InputError(error.message, file=file, field=field, value=values.get(error.field)) from None


def _value(hint: Any, value: Any, file: Path, name: str) -> Any:
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value is None and type(None) in choices:
        return None
    expected = next(choice for choice in choices if choice is not type(None))
    if dataclasses.is_dataclass(expected):
        return from_json(expected, value, file, name)
    if typing.get_origin(expected) is tuple:
        if not isinstance(value, list):
            raise InputError("must be a list", file=file, field=name, value=value)
        return tuple(_value(typing.get_args(expected)[0], item, file, f"{name}[{index}]") for index, item in enumerate(value))
    if expected not in (int, float, bool):
        expected = str  # a Literal: the dataclass checks which
    fits = isinstance(value, (int, float) if expected is float else expected)
    if not fits or (isinstance(value, bool) and expected is not bool):
        raise InputError(f"must be a {expected.__name__}", file=file, field=name, value=value)
    return value
