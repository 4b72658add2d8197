"""Chains of arithmetic as text, in two styles, and back.

==========  =======================================================  =============================================
            digits                                                   words
==========  =======================================================  =============================================
prompt      ``Start 7 1) + 5 2) * 3 (mod 10)``                       ``Start with seven. First, add five. Second,
                                                                     multiply by three. Count modulo ten.``
step        ``1) 7 + 5 = 2``                                         ``First, seven plus five is two.``
answer      ``Answer: 6``                                            ``The answer is six.``
==========  =======================================================  =============================================

Steps are numbered, so that a reader can look up what the problem asks for at each of them. In the digits style every
white-space word is one token of a small vocabulary, and nothing else is written: tokens are what a run pays for.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from jaxprm.tasks.number_words import cardinal, ordinal, parse_cardinal, parse_ordinal

Style = Literal["digits", "words"]

_IMPERATIVE = {"+": "add", "-": "subtract", "*": "multiply by"}
_INFIX = {"+": "plus", "-": "minus", "*": "times"}
_FROM_IMPERATIVE = {word: operator for operator, word in _IMPERATIVE.items()}
_FROM_INFIX = {word: operator for operator, word in _INFIX.items()}

# At most nine digits: a policy may emit any number of them, and int() refuses very long ones.
_DIGITS_STEP = re.compile(r"([0-9]{1,9})\) (-?[0-9]{1,9}) ([-+*]) (-?[0-9]{1,9}) = (-?[0-9]{1,9})")
_DIGITS_ANSWER = re.compile(r"Answer: (-?[0-9]{1,9})")
_DIGITS_PROMPT = re.compile(r"Start ([0-9]{1,9})((?: [0-9]{1,9}\) [-+*] [0-9]{1,9})+) \(mod ([0-9]{1,9})\)")
_DIGITS_OPERATION = re.compile(r" ([0-9]+)\) ([-+*]) ([0-9]+)")
_WORDS_STEP = re.compile(r"([A-Za-z-]+), ([a-z-]+) (plus|minus|times) ([a-z-]+) is ([a-z-]+)\.")
_WORDS_ANSWER = re.compile(r"The answer is ([a-z-]+)\.")
_WORDS_PROMPT = re.compile(r"Start with ([a-z-]+)\.((?: [A-Z][a-z-]*, (?:add|subtract|multiply by) [a-z-]+\.)+)"
                           r" Count modulo ([a-z-]+)\.")
_WORDS_OPERATION = re.compile(r" ([A-Z][a-z-]*), (add|subtract|multiply by) ([a-z-]+)\.")


class Line(NamedTuple):
    """A step as written: ``number) left operator operand = result``."""

    number: int
    left: int
    operator: str
    operand: int
    result: int


class Answer(NamedTuple):
    """The final line."""

    value: int


def render_prompt(start: int, operations: tuple[tuple[str, int], ...], modulus: int, style: Style) -> str:
    """The problem as text."""
    if style == "digits":
        asked = " ".join([f"{n}) {operator} {operand}" for n, (operator, operand) in enumerate(operations, 1)])
        return f"Start {start} {asked} (mod {modulus})"
    asked = " ".join([f"{ordinal(n).capitalize()}, {_IMPERATIVE[operator]} {cardinal(operand)}."
                      for n, (operator, operand) in enumerate(operations, 1)])
    return f"Start with {cardinal(start)}. {asked} Count modulo {cardinal(modulus)}."


def parse_prompt(prompt: str) -> tuple[int, tuple[tuple[str, int], ...], int, Style] | None:
    """``(start, operations, modulus, style)`` of a prompt of either style, ``None`` if it is none."""
    if match := _DIGITS_PROMPT.fullmatch(prompt):
        rows = _DIGITS_OPERATION.findall(match[2])
        style, start, modulus = "digits", int(match[1]), int(match[3])
        numbers = [int(number) for number, _, _ in rows]
        operations = tuple((operator, int(operand)) for _, operator, operand in rows)
    elif match := _WORDS_PROMPT.fullmatch(prompt):
        rows = _WORDS_OPERATION.findall(match[2])
        style, start, modulus = "words", parse_cardinal(match[1]), parse_cardinal(match[3])
        numbers = [parse_ordinal(number) for number, _, _ in rows]
        operations = tuple((_FROM_IMPERATIVE[word], parse_cardinal(operand)) for _, word, operand in rows)
    else:
        return None
    readable = start is not None and modulus and all(operand is not None for _, operand in operations)
    if not readable or numbers != list(range(1, len(rows) + 1)):
        return None
    return start, operations, modulus, style


def render_line(line: Line | Answer, style: Style) -> str:
    """A step or answer as text."""
    if len(line) == 1:
        return f"Answer: {line[0]}" if style == "digits" else f"The answer is {cardinal(line[0])}."
    number, left, operator, operand, result = line
    if style == "digits":
        return f"{number}) {left} {operator} {operand} = {result}"
    return (f"{ordinal(number).capitalize()}, {cardinal(left)} {_INFIX[operator]} {cardinal(operand)} "
            f"is {cardinal(result)}.")


def parse_line(text: str, style: Style) -> Line | Answer | None:
    """A line of a solution; surrounding white space is ignored; ``None`` if it is no step and no answer."""
    text = text.strip()
    if style == "digits":
        if match := _DIGITS_STEP.fullmatch(text):
            number, left, operator, operand, result = match.groups()
            return Line(int(number), int(left), operator, int(operand), int(result))
        match = _DIGITS_ANSWER.fullmatch(text)
        return Answer(int(match[1])) if match else None
    if match := _WORDS_STEP.fullmatch(text):
        number, left, operator, operand, result = match.groups()
        values = parse_ordinal(number), parse_cardinal(left), parse_cardinal(operand), parse_cardinal(result)
        return None if None in values else Line(values[0], values[1], _FROM_INFIX[operator], values[2], values[3])
    match = _WORDS_ANSWER.fullmatch(text)
    value = parse_cardinal(match[1]) if match else None
    return None if value is None else Answer(value)


def parse_value(text: str, style: Style) -> int | None:
    """The number that an answer text names, ``None`` if it names none."""
    text = text.strip()
    if style == "digits":
        return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None
    return parse_cardinal(text)


def render_value(value: int, style: Style) -> str:
    """An answer as text."""
    return str(value) if style == "digits" else cardinal(value)
