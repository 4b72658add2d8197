"""Whether two answer texts say the same."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, get_args

from jaxprm.errors import InputError

GradingKind = Literal["exact", "numeric", "math", "choice"]

_CHOICE = re.compile(r"(?:the\s+)?(?:final\s+)?(?:(?:answer|option|choice)\b)?\s*(?:is\b)?\s*:?"
                     r"(?:\\(?:boxed|text|textbf|mathrm)\s*\{|[\s$*(\[])*([A-Z])(?:[\s$*)\]}.:,].*)?",
                     re.DOTALL | re.IGNORECASE)
_SECOND_CHOICE = re.compile(r"[\s)\].]*(?:or\b|and\b|[,/&])\s*[(\[]?[A-Za-z](?![A-Za-z0-9])")
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
        different. "choice": the same letter of a multiple-choice question (`choice_letter`); texts that name no letter
        are compared exactly. For programs see `jaxprm.tasks.code_tests`.

    Raises:
      InputError: unknown kind.
    """
    if kind not in get_args(GradingKind):
        raise InputError("is no kind of grading; use 'exact', 'numeric', 'math' or 'choice'", field="kind", value=kind)
    if given is None or reference is None:
        return False
    if " ".join(given.split()) == " ".join(reference.split()):
        return True
    if kind == "numeric":
        numbers = _number(given), _number(reference)
        return None not in numbers and numbers[0] == numbers[1]
    if kind == "choice":
        letters = choice_letter(given), choice_letter(reference)
        return None not in letters and letters[0] == letters[1]
    return kind == "math" and same_math(f"\\boxed{{{given}}}", f"${reference}$")


def choice_letter(text: str) -> str | None:
    """The letter that an answer to a multiple-choice question names, in upper case; None where it names none.

      In:   "(b)", "B.", "B) 12 apples", "\\boxed{\\text{B}}", "The answer is B"
      Out:  "B" each

    The letter stands alone, before a bracket, a full stop, a colon or a comma; a text that goes on after a space counts
    for capitals B to Z alone, so that "a cat" and "I think" name none. "A cat" is read as a sentence, "A) cat" and "A. cat"
    are choices. Naming two letters ("B or C", "A, B") names none: guessing both is no answer.
    """
    match = _CHOICE.fullmatch(text.strip())
    if match is None:
        return None
    letter, after = match.group(1), text.strip()[match.end(1):]
    if after[:1].isspace() and after.strip() and (letter.islower() or letter in "AI"):
        return None
    return None if _SECOND_CHOICE.match(after) else letter.upper()


def answer_classes(answers: Sequence[str | None], kind: GradingKind = "exact") -> list[int | None]:
    """Canonical answers for `jaxprm.scoring.votes`: answers that say the same get the same number, None stays None.

      In:   ["1/2", None, "0.5", "3"], kind "numeric"
      Out:  [0, None, 0, 1]

    Classes are numbered by first appearance. An answer joins the first class whose first member it equals: grading is no
    equivalence relation (tolerances), so the order can matter where three answers are almost equal. Equal texts are
    compared once.
    """
    classes: list[str] = []
    known: dict[str, int] = {}
    for answer in answers:
        if answer is not None and answer not in known:
            same = (number for number, member in enumerate(classes) if same_answer(answer, member, kind))
            known[answer] = next(same, len(classes))
            if known[answer] == len(classes):
                classes.append(answer)
    return [None if answer is None else known[answer] for answer in answers]


def same_math(given: str, reference: str, *, precision: int = 6, strict: bool = True, set_relations: bool = False,
              latex: bool = True, plain: bool = True, boxed_first: bool = False) -> bool:
    """Whether a text's final answer is mathematically that of a reference text, by math-verify.

    Unlike `same_answer` it takes whole texts and finds the answer in them (the last ``\\boxed{}``, ``$...$`` or number).

    Args:
      given: text of the solution; reference: text of the right answer (LaTeX in dollars).
      precision: decimals to which numbers are compared.
      strict: variables must have the same names, and sets are not tuples.
      set_relations: x in [1, 2] equals 1 <= x <= 2.
      latex, plain: what to look for in both texts: LaTeX expressions, plain numbers.
      boxed_first: a boxed expression is tried before all others, also in the reference.
    """
    import math_verify  # takes a second to import (sympy), which only this kind of grading needs

    kinds: list = [math_verify.LatexExtractionConfig(**({"boxed_match_priority": 0} if boxed_first else {}))] * latex
    kinds += [math_verify.ExprExtractionConfig()] * plain
    # Its time limit is an alarm signal, which exists in the main thread alone.
    limit = _SECONDS if threading.current_thread() is threading.main_thread() else None
    parsed = [math_verify.parse(text, kinds, parsing_timeout=limit) for text in (reference, given)]
    return math_verify.verify(parsed[0], parsed[1], float_rounding=precision, strict=strict,
                              allow_set_relation_comp=set_relations, timeout_seconds=limit)


def _number(text: str) -> Fraction | None:
    text = _THOUSANDS.sub("", text.strip().lstrip("$€£").rstrip("%.").strip())
    if not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.partition("/")
    return None if denominator and not int(denominator) else Fraction(numerator) / int(denominator or 1)
