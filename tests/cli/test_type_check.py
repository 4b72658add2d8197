"""Values against annotations."""

import collections.abc
import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from jaxprm.cli.type_check import field_mismatch, mismatch

Name = typing.NewType("Name", str)


@pytest.mark.parametrize(("value", "annotation", "reason"), [
    (1, int, None), (True, int, "must be a whole number, not a truth value"), (1.0, int, "not a number"),
    (1, float, None), (1.5, float, None), (False, float, "must be a number, not a truth value"),
    ("a", str, None), (1, bool, "must be True or False, not a whole number"),
    (None, None, None), (None, int | None, None), ("a", int | None, "must be a whole number or None, not a text"),
    ("a", Literal["a", "b"], None), ("c", Literal["a", "b"], "must be one of 'a', 'b'"),
    (True, Literal[1], "must be 1"),
    ((1, 2), tuple[int, ...], None), ([1, 2], tuple[int, ...], "must be a tuple (int, ...), not a list"),
    ((1, "a"), tuple[int, ...], "element 1 = 'a' must be a whole number"),
    ((1, "a"), tuple[int, ...] | None, "element 1 = 'a' must be a whole number"),
    ((1, "a"), tuple[int, str], None), ((1,), tuple[int, str], "has 1 elements instead of 2"),
    ({"a": 1}, dict[str, float], None), ({1: 1}, dict[str, float], "key = 1 must be a text"),
    ({"a": "b"}, collections.abc.Mapping[str, float], "entry 'a' = 'b' must be a number"),
    (["a"], collections.abc.Sequence[str], None), ("a", collections.abc.Sequence[str], "must be"),
    (len, collections.abc.Callable[[Any], int], None), (3, collections.abc.Callable[[Any], int], "must be"),
    ("a", Name, None), (1, Name, "must be a text"), (1, Annotated[int, "unit"], None), (1, Any, None),
    (Path("x"), Path, None), ("x", Path, "must be Path, not a text"),
])
def test_mismatch(value, annotation, reason):
    found = mismatch(value, annotation)
    assert found is None if reason is None else reason in found


@dataclasses.dataclass
class Inner:
    width: int = 1


@dataclasses.dataclass
class Outer:
    inner: Inner
    inners: tuple[Inner, ...] = ()
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)


def test_field_mismatch_names_the_path():
    assert field_mismatch(Outer(Inner())) is None
    bad = Inner("a")
    for outer, path in [(Outer(bad), "inner.width"), (Outer(Inner(), (Inner(), bad)), "inners[1].width"),
                        (Outer(Inner(), (), {"x": bad}), "named['x'].width")]:
        assert field_mismatch(outer) == (bad, path, "a", "must be a whole number, not a text")
