"""Derivations of someone with systematic misconceptions: fluent, often wrong, and wrong in the same way each time.

Independent slips are cured by majority voting; misconceptions are not: where one applies with a rate above one half,
the majority of the derivations of that problem end in the same wrong answer.
"""

from __future__ import annotations

import dataclasses
import functools

from jaxprm.errors import InputError
from jaxprm.records import Problem, Solution
from jaxprm.tasks.arithmetic import read_chain
from jaxprm.tasks.arithmetic_text import Answer, Line, render_line, render_value
from jaxprm.tasks.base import Key, Stream
from jaxprm.tasks.corruptions import KINDS, OPERATORS, calculate, plantings

# Name -> (value before the step, operator, operand, modulus) -> whether the misconception comes up.
CONDITIONS = {
    "always": lambda value, operator, operand, modulus: True,
    "large_value": lambda value, operator, operand, modulus: 2 * value > modulus,
    "small_value": lambda value, operator, operand, modulus: 2 * value <= modulus,
    "wraps": lambda value, operator, operand, modulus: not 0 <= _plain(value, operator, operand) < modulus,
}


@functools.lru_cache
def _by_operator(misconceptions: tuple[Misconception, ...]):
    """Operator (``None`` = the answer line) -> the misconceptions that can apply there, each with its condition."""
    table = {operator: [(misconception, CONDITIONS[misconception.condition]) for misconception in misconceptions
                        if misconception.operator in (None, operator)] for operator in OPERATORS}
    table[None] = [(misconception, CONDITIONS["always"]) for misconception in misconceptions
                   if misconception.operator is None and misconception.condition == "always"]
    return table


def _plain(value: int, operator: str, operand: int) -> int:
    return value + operand if operator == "+" else value - operand if operator == "-" else value * operand


@dataclasses.dataclass(frozen=True)
class Misconception:
    """An error that comes up in a certain situation with a certain rate.

    Attributes:
      kind: one of `jaxprm.tasks.corruptions.KINDS`.
      rate: probability that it is made where it applies.
      operator: the operator it applies to; ``None`` = any, and the answer line too.
      condition: one of `CONDITIONS`: "always", "large_value" (running value above half the modulus), "small_value" (the
        rest), "wraps" (the plain result leaves [0, modulus): a carry or a borrow). Only "always" holds at the answer
        line.
      variant: which of the ways of `plantings` to go wrong, 0 the most typical: always the same one, for a
        misconception is systematic. For wrong_operator, * is read as + (0) or - (1).
    """

    kind: str
    rate: float
    operator: str | None = None
    condition: str = "always"
    variant: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"is no kind of error; use one of {', '.join(KINDS)}", field="kind", value=self.kind)
        if not 0.0 <= self.rate <= 1.0:
            raise InputError("must be a probability", field="rate", value=self.rate)
        if self.operator not in (None, *OPERATORS):
            raise InputError("must be None or one of + - *", field="operator", value=self.operator)
        if self.condition not in CONDITIONS:
            raise InputError(f"must be one of {', '.join(CONDITIONS)}", field="condition", value=self.condition)
        if self.variant < 0:
            raise InputError("must not be negative", field="variant", value=self.variant)


# Smaller-from-larger is the classical subtraction bug (Brown & VanLehn, 1980, "Repair theory"); the rates are ours.
DEFAULT_MISCONCEPTIONS = (
    Misconception("wrong_operator", 0.60, "*", "large_value"),
    Misconception("wrong_operator", 0.20, "*", "small_value"),
    Misconception("off_by_one", 0.10, "+", "wraps"),
    Misconception("swapped_operand", 0.10, "-", "wraps"),
    Misconception("wrong_carry", 0.01),
    Misconception("wrong_result", 0.01),
    Misconception("dropped_step", 0.01),
    Misconception("repeated_step", 0.01),
    Misconception("wrong_answer", 0.01),
)


def careless(order: int, rate: float) -> tuple[Misconception, ...]:
    """An author who errs in every way: each kind of error, in its two most typical variants, with this rate at every step.

    Of the errors that come up at one step the first is made, so authors of different ``order`` prefer different ones.
    """
    ways = [Misconception(kind, rate, variant=variant) for kind in KINDS for variant in (0, 1)
            if not (variant and kind in ("dropped_step", "repeated_step"))]  # these have one variant
    stream = Stream(order, "arithmetic/careless")
    return tuple([ways.pop(stream.below(len(ways))) for _ in range(len(ways))])


@dataclasses.dataclass(frozen=True)
class Derivation:
    """A solution and what went wrong in it.

    Attributes:
      solution: its ``answer`` and ``correct`` are filled in.
      planted: (0-based line, kind) of every planted error, in order; the first of them is the first error of the
        solution. Errors made after the first are relative to the wrong value that the solution then stands at.
    """

    solution: Solution
    planted: tuple[tuple[int, str], ...]


def derive(key: Key, problem: Problem,
           misconceptions: tuple[Misconception, ...] = DEFAULT_MISCONCEPTIONS) -> Derivation:
    """Solves an arithmetic chain as someone with these misconceptions does.

    At each step, the misconceptions that apply are tried in the order given, each with its own rate; the first that
    comes up and makes the step wrong is written, and the derivation goes on consistently from the wrong value.

    Raises:
      InputError: the problem is no arithmetic chain.
    """
    chain = read_chain(problem.prompt)
    operations, modulus, style = chain.operations, chain.modulus, chain.style
    stream, applicable = Stream(key, "arithmetic/derive"), _by_operator(tuple(misconceptions))
    lines, planted = [], []
    number, value, last = 1, chain.start, len(operations)
    while number <= last + 1:
        operator, operand = operations[number - 1] if number <= last else (None, 0)
        planting = None
        for misconception, condition in applicable[operator]:
            if condition(value, operator, operand, modulus) and stream.uniform() < misconception.rate:
                options = plantings(misconception.kind, operations, modulus, number, chain.start, lines)
                if misconception.variant < len(options) and options[misconception.variant].wrong:
                    planting = options[misconception.variant]
                    planted.append((len(lines), misconception.kind))
                    lines += planting.lines
                    break
        if planting is None or planting.next_number == number:  # a repeated line does not replace the step
            if number <= last:
                result = calculate(value, operator, operand, modulus)
                lines.append(Line(number, value, operator, operand, result))
                value = result
            else:
                lines.append(Answer(value))
            number += 1
        else:
            number, value = planting.next_number, planting.value
    texts = tuple([render_line(line, style) for line in lines])
    answer = render_value(value, style)
    return Derivation(Solution(problem, texts, answer, value == chain.lines[-1].value, "misconceptions"),
                      tuple(planted))
