"""Values against annotations: gin binds anything, so every field of a config is checked when it is resolved."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from typing import Any


def mismatch(value: Any, annotation: Any) -> str | None:
    """Why ``value`` does not fit ``annotation`` ("must be a whole number, not a text"); None if it does.

    An int fits a float, a bool fits neither. Annotations that describe no plain value (arrays, callables with
    signatures, type variables) accept whatever has their class.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, typing.TypeVar | str):
        return None
    if isinstance(annotation, typing.NewType):
        return mismatch(value, annotation.__supertype__)
    if origin is typing.Annotated:
        return mismatch(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        reasons = [mismatch(value, option) for option in arguments]
        if None in reasons:
            return None
        # The one reason that speaks about what is inside ("element 2 ...") says more than the list of alternatives.
        inner = [reason for reason in reasons if not reason.startswith("must be")]
        return inner[0] if inner else f"must be {describe(annotation)}, not {_kind(value)}"
    if origin is typing.Literal:
        same = any(value == option and type(value) is type(option) for option in arguments)
        return None if same else f"must be {describe(annotation)}"
    if annotation is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif annotation is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif annotation is None:
        fits = value is None
    else:
        kind = origin or annotation
        if kind is collections.abc.Callable:
            fits = callable(value)
        else:
            fits = not isinstance(kind, type) or isinstance(value, kind)
            fits = fits and not (isinstance(value, str) and kind is collections.abc.Sequence)
    if not fits:
        return f"must be {describe(annotation)}, not {_kind(value)}"
    return _inside(value, origin, arguments)


def _inside(value: Any, origin: Any, arguments: tuple) -> str | None:
    if not arguments or not isinstance(value, tuple | list | set | frozenset | collections.abc.Mapping):
        return None
    if isinstance(value, collections.abc.Mapping):
        parts = [("key", key, arguments[0]) for key in value]
        parts += [(f"entry {key!r}", item, arguments[1]) for key, item in value.items()]
    elif origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            return f"has {len(value)} elements instead of {len(arguments)}"
        parts = [(f"element {index}", item, kind) for index, (item, kind) in enumerate(zip(value, arguments))]
    else:
        parts = [(f"element {index}", item, arguments[0]) for index, item in enumerate(value)]
    for where, item, kind in parts:
        reason = mismatch(item, kind)
        if reason:
            return f"{where} = {item!r} {reason}"
    return None


def field_mismatch(config: Any, path: str = "") -> tuple[Any, str, Any, str] | None:
    """The first field of a dataclass (and of the dataclasses in it) that does not fit its annotation.

    Returns:
      (dataclass that owns the field, path such as ``optimizer.learning_rate``, value, reason), or None.
    """
    if isinstance(config, tuple | list):
        children = [(f"{path}[{index}]", item) for index, item in enumerate(config)]
    elif isinstance(config, dict):
        children = [(f"{path}[{key!r}]", item) for key, item in config.items()]
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        annotations = typing.get_type_hints(type(config), include_extras=True)
        children = []
        for field in dataclasses.fields(config):
            value, name = getattr(config, field.name), f"{path}.{field.name}" if path else field.name
            reason = mismatch(value, annotations[field.name])
            if reason:
                return config, name, value, reason
            children.append((name, value))
    else:
        return None
    return next((found for name, child in children if (found := field_mismatch(child, name))), None)


def describe(annotation: Any) -> str:
    """An annotation in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is typing.Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", type(None): "None",
             None: "None", tuple: "a tuple", list: "a list", dict: "a dict"}
    if annotation in words:
        return words[annotation]
    if origin is tuple:
        return f"a tuple ({', '.join('...' if item is Ellipsis else _name(item) for item in arguments)})"
    return _name(annotation)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)


def _kind(value: Any) -> str:
    kinds = {str: "a text", bool: "a truth value", int: "a whole number", float: "a number", type(None): "None"}
    return kinds.get(type(value), f"a {type(value).__name__}")
