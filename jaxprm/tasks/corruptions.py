"""Wrong steps on purpose: where a derivation stands, which wrong lines each kind of error would write there.

A wrong line is followed by a consistent continuation from its value, as people and models do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxprm.tasks.arithmetic_text import Answer, Line

# The class of PRMBench (arXiv:2501.03124, table 1; its spelling) that each kind matches. Its classes about wording
# (confidence, multi_solutions) and circular have no counterpart in a chain of calculations.
PRMBENCH_CLASSES = {
    "wrong_operator": "domain_inconsistency",  # a rule that does not apply here
    "wrong_result": "counterfactual",          # the statement itself is false
    "off_by_one": "deception",                 # all but right
    "swapped_operand": "counterfactual",       # contradicts what the problem gives
    "dropped_step": "missing_condition",
    "repeated_step": "redundency",
    "wrong_carry": "step_contradiction",       # contradicts the step before
    "wrong_answer": "step_contradiction",
}

OPERATORS = ("+", "-", "*")
KINDS = tuple(PRMBENCH_CLASSES)

# A misread operator is most often the one learnt before it.
_MISREADINGS = {"+": ("*", "-"), "-": ("+", "*"), "*": ("+", "-")}


def calculate(left: int, operator: str, operand: int, modulus: int) -> int:
    """``left operator operand`` mod ``modulus``."""
    if operator == "+":
        return (left + operand) % modulus
    if operator == "-":
        return (left - operand) % modulus
    return left * operand % modulus


def follow(operations: tuple[tuple[str, int], ...], modulus: int, number: int, value: int) -> list[Line | Answer]:
    """The lines from step ``number`` (1-based) to the answer, starting from ``value``; none once the answer is
    written."""
    lines: list[Line | Answer] = []
    for step in range(number, len(operations) + 1):
        operator, operand = operations[step - 1]
        result = calculate(value, operator, operand, modulus)
        lines.append(Line(step, value, operator, operand, result))
        value = result
    if number <= len(operations) + 1:
        lines.append(Answer(value))
    return lines


class Planting(NamedTuple):
    """One way to go wrong at a place.

    Attributes:
      lines: what is written there (nothing for a dropped step).
      next_number: 1-based number of the step that the continuation starts with (see `follow`).
      value: the value it starts from.
      wrong: whether this is an error and not a coincidence. A line that reads the problem wrongly but reaches the true
        value (2 * 2 read as 2 + 2) does not count, so that a planted error is one of content too.
    """

    lines: tuple[Line | Answer, ...]
    next_number: int
    value: int
    wrong: bool


def plantings(kind: str, operations: tuple[tuple[str, int], ...], modulus: int, number: int, start: int,
              before: Sequence[Line]) -> list[Planting]:
    """The ways to make an error of this kind at step ``number`` (1-based; one more than there are operations for the
    answer line), right after the lines ``before``, the most typical first. Empty where the kind does not apply."""
    value = before[-1].result if before else start
    if kind == "repeated_step":
        return [Planting((before[-1],), number, value, True)] if before else []
    if number > len(operations):
        if kind != "wrong_answer":
            return []
        seen = [line.result for line in reversed(before)] + [line.left for line in reversed(before)]
        others = dict.fromkeys(seen + [(value + 1) % modulus, (value - 1) % modulus])
        return [Planting((Answer(other),), number + 1, other, True) for other in others if other != value]
    operator, operand = operations[number - 1]
    truth = calculate(value, operator, operand, modulus)

    def write(left, operator, operand, result=None):
        result = calculate(left, operator, operand, modulus) if result is None else result
        return Planting((Line(number, left, operator, operand, result),), number + 1, result, result != truth)

    if kind == "wrong_operator":
        return [write(value, other, operand) for other in _MISREADINGS[operator]]
    if kind == "wrong_result":
        results = (calculate(value, other, operand, modulus) for other in _MISREADINGS[operator])
        return [write(value, operator, operand, result) for result in results]
    if kind == "off_by_one":
        return [write(value, operator, operand, (truth + shift) % modulus) for shift in (1, -1)]
    if kind == "swapped_operand":
        neighbours = [operations[other][1] for other in (number, number - 2) if 0 <= other < len(operations)]
        swapped = [write(operand % modulus, operator, value)] if operator == "-" else []
        return swapped + [write(value, operator, other) for other in neighbours]
    if kind == "dropped_step":
        return [Planting((), number + 1, value, value != truth)]
    if kind == "wrong_carry":
        if before:
            candidates = [before[-1].left, before[-1].operand % modulus]
        else:
            candidates = [operand % modulus]
        return [write(other, operator, operand) for other in candidates if other != value]
    return []
