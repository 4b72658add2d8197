"""Countdown as text, in two styles, and back.

==========  ==========================================  ===========================================================
            digits                                      words
==========  ==========================================  ===========================================================
prompt      ``Reach 24 from 4 5 6 10``                  ``Reach twenty-four from four, five, six and ten.``
step        ``10 - 4 = 6 (left: 5 6 6)``                ``Ten minus four is six, leaving five, six and six.``
answer      ``Answer: (10 - 4) * (5 - 1) = 24``         ``So (ten minus four) times (five minus one) is
                                                        twenty-four.``
==========  ==========================================  ===========================================================

Fractions are written ``8/3`` (``eight/three``) and negative numbers ``-2`` (``negative-two``); decimals are read too.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, NamedTuple

from jaxprm.tasks.countdown_solver import Move, State, Value, calculate, tidy
from jaxprm.tasks.number_words import cardinal, parse_cardinal

Style = Literal["digits", "words"]

_LONGEST = 500  # characters; no line of a sensible solution is longer, and reading stays cheap whatever a policy emits
_NUMBER = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,20}|/[0-9]{1,12})?")
_STEP = re.compile(r"(\S+) ([-+*/]) (\S+) = (\S+) \(left: ([^()]*)\)")
_PROMPT = re.compile(r"Reach (\S+) from ((?:\S+ )*\S+)")
_TOKEN = re.compile(r" *([0-9]{1,9}|[-+*/()])")
_SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "over"}
_FROM_SPOKEN = {word: operator for operator, word in _SPOKEN.items()} | {"is": "="}
_SPOKEN_STEP = re.compile(r"(.*), leaving (.*)\.")
_SPOKEN_ANSWER = re.compile(r"So (.*)\.")
_SPOKEN_PROMPT = re.compile(r"Reach (.*)\.")
_WORD = re.compile(r"[A-Za-z][A-Za-z/-]*")


class Claim(NamedTuple):
    """An answer line.

    Attributes:
      text: what follows "Answer:" / "So", as written.
      value: what the expression is worth, ``None`` if it is no expression.
      numbers: the numbers it uses, ascending.
      claimed: the value after "=", that of the expression if there is no "=", ``None`` if unreadable.
    """

    text: str
    value: Value | None
    numbers: tuple[int, ...]
    claimed: Value | None


def render_value(value: Value, style: Style) -> str:
    """A number as one white-space word."""
    if style == "digits":
        return str(value)
    sign, value = ("negative-", -value) if value < 0 else ("", value)
    denominator = "" if value.denominator == 1 else f"/{cardinal(value.denominator)}"
    return f"{sign}{cardinal(value.numerator)}{denominator}"


def parse_value(text: str) -> Value | None:
    """The number written in digits, ``None`` if it is none."""
    try:
        return tidy(Fraction(text)) if _NUMBER.fullmatch(text) else None
    except ZeroDivisionError:
        return None


def _listed(state: State, style: Style) -> str:
    words = [render_value(value, style) for value in state]
    if style == "digits":
        return " ".join(words)
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else words[0]


def render_prompt(state: State, target: int, style: Style) -> str:
    """The problem as text."""
    return f"Reach {render_value(target, style)} from {_listed(state, style)}" + ("." if style == "words" else "")


def render_move(move: Move, style: Style) -> str:
    """A step as text."""
    left, right, result = (render_value(value, style) for value in (move.left, move.right, move.result))
    if style == "digits":
        return f"{left} {move.operator} {right} = {result} (left: {_listed(move.remaining, style)})"
    text = f"{left} {_SPOKEN[move.operator]} {right} is {result}, leaving {_listed(move.remaining, style)}."
    return text[0].upper() + text[1:]


def render_expression(expression: str, value: Value, style: Style) -> str:
    """The text of an answer: an expression in digits and what it is said to be worth."""
    text = f"{expression} = {value}"
    return text if style == "digits" else _to_words(text)


def render_claim(text: str, style: Style) -> str:
    """An answer line from the text of its answer."""
    return f"Answer: {text}" if style == "digits" else f"So {text}."


def _to_words(text: str) -> str:
    spoken = _SPOKEN | {"=": "is"}
    named = re.sub(r"-?[0-9]+(?:/[0-9]+)?", lambda match: render_value(parse_value(match[0]), "words"), text)
    return re.sub(r"(?<= )[-+*/=](?= )", lambda match: spoken[match[0]], named)


def _to_digits(text: str) -> str:
    """Spelt numbers and operators in digits; other words stay as they are, and make the line unreadable later."""
    def one(match: re.Match) -> str:
        word = match[0].lower()
        if word in _FROM_SPOKEN:
            return _FROM_SPOKEN[word]
        sign, word = ("-", word[9:]) if word.startswith("negative-") else ("", word)
        parts = [parse_cardinal(part) for part in word.split("/")]
        return match[0] if None in parts else sign + "/".join(map(str, parts))
    return _WORD.sub(one, text)


def _from_list(text: str) -> str:
    return _to_digits(text.replace(",", "").replace(" and ", " "))


def parse_prompt(prompt: str) -> tuple[State, int, Style] | None:
    """``(numbers in ascending order, target, style)``, ``None`` if it is no prompt of this task."""
    style = "digits"
    if match := _SPOKEN_PROMPT.fullmatch(prompt):
        prompt, style = "Reach " + _from_list(match[1]), "words"
    match = _PROMPT.fullmatch(prompt)
    values = [parse_value(text) for text in (match[1], *match[2].split(" "))] if match else [None]
    if not all(isinstance(value, int) for value in values):
        return None
    return tuple(sorted(values[1:])), values[0], style


def parse_line(text: str, style: Style) -> Move | Claim | None:
    """A line of a solution; surrounding white space is ignored; ``None`` if it is no step and no answer."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    if style == "words":
        if match := _SPOKEN_ANSWER.fullmatch(text):
            return parse_claim(match[1], style)
        match = _SPOKEN_STEP.fullmatch(text)
        if not match:
            return None
        text = f"{_to_digits(match[1])} (left: {_from_list(match[2])})"
    elif text.startswith("Answer: "):
        return parse_claim(text[len("Answer: "):], style)
    match = _STEP.fullmatch(text)
    if not match:
        return None
    left, right, result = parse_value(match[1]), parse_value(match[3]), parse_value(match[4])
    remaining = [parse_value(word) for word in match[5].split()]
    if None in (left, right, result) or None in remaining:
        return None
    return Move(left, match[2], right, result, tuple(sorted(remaining)))


def parse_claim(text: str, style: Style) -> Claim:
    """Reads the text of an answer; anything at all is a claim, if only an empty one."""
    plain = _to_digits(text) if style == "words" else text
    expression, equals, claimed = plain[:_LONGEST].partition("=")
    value, numbers = evaluate(expression)
    return Claim(text, value, numbers, parse_value(claimed.strip()) if equals else value)


def evaluate(expression: str) -> tuple[Value | None, tuple[int, ...]]:
    """``(exact value, numbers used)`` of an expression of + - * / and parentheses; ``(None, ())`` if it is none."""
    tokens, position = [], 0
    expression = expression.strip()
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if not match:
            return None, ()
        tokens.append(match[1])
        position = match.end()
    values: list[Value] = []
    pending: list[str] = []
    expects_value = True

    def reduce_while(condition) -> bool:
        while pending and condition(pending[-1]):
            right, left = values.pop(), values.pop()
            result = calculate(left, pending.pop(), right)
            if result is None:
                return False
            values.append(result)
        return True

    for token in tokens:  # Dijkstra's shunting yard
        if token == "(" or token.isdigit():
            if not expects_value:
                return None, ()
            if token == "(":
                pending.append(token)
            else:
                values.append(int(token))
                expects_value = False
        else:
            if expects_value:
                return None, ()
            strong = "*/" if token in "*/" else "+-*/"
            if not reduce_while(lambda top, strong=strong: top in strong):
                return None, ()
            if token != ")":
                pending.append(token)
                expects_value = True
            elif not pending:
                return None, ()
            else:
                pending.pop()
    if expects_value or "(" in pending or not reduce_while(lambda top: True):
        return None, ()
    return values[0], tuple(sorted(int(token) for token in tokens if token.isdigit()))
