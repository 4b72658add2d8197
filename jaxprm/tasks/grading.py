"""Whether two answer texts say the same."""

from __future__ import annotations

import re
import threading
from fractions import Fraction
from typing import Literal

from jaxprm.errors import InputError

GradingKind = Literal["exact", "numeric", "math"]

_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,200}(?:\.[0-9]{0,200})?|\.[0-9]{1,200})(?:/[0-9]{1,200})?")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_SECONDS = 5


def same_answer(given: str | None, reference: str | None, kind: GradingKind = "exact") -> bool:
    """Grades an answer against a reference; a missing one (``None``) equals nothing.

    Args:
      kind: "exact": equal after white space is normalised. "numeric": equal as exact rational numbers; thousands
        commas, a currency sign before and a percent sign or full stop after are ignored, and 1/2 = 0.5; texts that
        are no numbers are compared exactly. "math": equivalent as mathematics by math-verify (LaTeX, intervals,
        sets, units ...), which converts both with sympy; an expression that takes longer than 5 seconds counts as
        different.

    Raises:
      InputError: unknown kind.
    """
    if kind not in ("exact", "numeric", "math"):
        raise InputError("is no kind of grading; use 'exact', 'numeric' or 'math'", field="kind", value=kind)
    if given is None or reference is None:
        return False
    if " ".join(given.split()) == " ".join(reference.split()):
        return True
    if kind == "numeric":
        numbers = _number(given), _number(reference)
        return None not in numbers and numbers[0] == numbers[1]
    return kind == "math" and _equivalent(given, reference)


def _number(text: str) -> Fraction | None:
    text = _THOUSANDS.sub("", text.strip().lstrip("$€£").rstrip("%.").strip())
    if not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.partition("/")
    return None if denominator and not int(denominator) else Fraction(numerator) / int(denominator or 1)


def _equivalent(given: str, reference: str) -> bool:
    import math_verify  # takes a second to import (sympy), which only this kind of grading needs

    # Its time limit is an alarm signal, which exists in the main thread alone.
    limit = _SECONDS if threading.current_thread() is threading.main_thread() else None
    parsed = [math_verify.parse(text, parsing_timeout=limit) for text in (f"${reference}$", f"\\boxed{{{given}}}")]
    return math_verify.verify(parsed[0], parsed[1], timeout_seconds=limit)
