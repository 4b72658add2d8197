"""The exact truth of countdown: can the target still be reached from these numbers, each used once?"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

# Whole numbers stay int, which is several times faster; the two types compare and hash alike.
Value = int | Fraction
State = tuple[Value, ...]


class Move(NamedTuple):
    """``left operator right = result``, and the numbers that remain, in ascending order."""

    left: Value
    operator: str
    right: Value
    result: Value
    remaining: State


def tidy(value: Value) -> Value:
    """Whole fractions as int."""
    return value.numerator if value.denominator == 1 else value


def divide(left: Value, right: Value) -> Value:
    """The exact quotient; raises ZeroDivisionError."""
    if type(left) is int and type(right) is int:
        quotient, rest = divmod(left, right)
        return Fraction(left, right) if rest else quotient
    return tidy(Fraction(left) / right)


def calculate(left: Value, operator: str, right: Value) -> Value | None:
    """The exact result, ``None`` for a division by zero."""
    if operator == "+":
        return tidy(left + right)
    if operator == "-":
        return tidy(left - right)
    if operator == "*":
        return tidy(left * right)
    return divide(left, right) if right else None


def moves(state: State) -> Iterator[Move]:
    """Every move from a state (ascending), larger number first where the order matters less to people: 8 - 2 before
    2 - 8.

    Equal numbers are interchangeable, so that each move occurs once.
    """
    seen = set()
    for i in range(len(state)):
        for j in range(i):
            small, large = state[j], state[i]
            if (small, large) in seen:
                continue
            seen.add((small, large))
            others = state[:j] + state[j + 1:i] + state[i + 1:]
            outcomes = [(large, "-", small, large - small), (large, "*", small, large * small),
                        (large, "+", small, large + small)]
            if small:
                outcomes.append((large, "/", small, divide(large, small)))
            if small != large:
                outcomes.append((small, "-", large, small - large))
                if large:
                    outcomes.append((small, "/", large, divide(small, large)))
            for left, operator, right, result in outcomes:
                result = tidy(result)
                yield Move(left, operator, right, result, tuple(sorted((*others, result))))


@functools.lru_cache(maxsize=1 << 19)
def reachable(state: State, target: int) -> bool:
    """Whether some sequence of + - * / on the numbers (ascending), each used once, makes the target; over the
    rationals."""
    if len(state) == 1:
        return state[0] == target
    if len(state) == 2:
        a, b = state
        return target in (a + b, a - b, b - a, a * b) or (b != 0 and a == target * b) or (a != 0 and b == target * a)
    return any(reachable(move.remaining, target) for move in moves(state))


@functools.lru_cache(maxsize=1 << 16)
def solve(state: State, target: int) -> tuple[Move, ...] | None:
    """A sequence of moves to the target, ``None`` if there is none. Moves whose result is a whole number of at least
    0 are preferred, as people do."""
    if not reachable(state, target):
        return None
    if len(state) == 1:
        return ()
    good = [move for move in moves(state) if reachable(move.remaining, target)]
    first = next((move for move in good if isinstance(move.result, int) and move.result >= 0), good[0])
    return (first, *solve(first.remaining, target))
