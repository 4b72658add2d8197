"""Chains of modular arithmetic: every step has one true value, and each wrong value has consequences."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from jaxprm.errors import InputError
from jaxprm.records import Problem
from jaxprm.tasks import number_words
from jaxprm.tasks.arithmetic_text import (Answer, Line, Style, parse_line, parse_prompt, parse_value, render_line,
                                          render_prompt, render_value)
from jaxprm.tasks.base import WHOLE, Key, Part, StepVerdicts, Stream, digest, verdicts
from jaxprm.tasks.corruptions import KINDS, OPERATORS, calculate, follow, plantings

_ATTEMPTS = 10_000


class Chain(NamedTuple):
    """A problem as numbers.

    Attributes:
      operations: (operator, operand) per step.
      lines: the reference solution; the answer is the last line.
      style: how the problem is written.
    """

    start: int
    operations: tuple[tuple[str, int], ...]
    modulus: int
    lines: tuple[Line | Answer, ...]
    style: Style


@functools.lru_cache(maxsize=4096)
def read_chain(prompt: str) -> Chain:
    """The numbers behind a prompt of either style.

    Raises:
      InputError: the text is not a prompt of this task.
    """
    parsed = parse_prompt(prompt)
    if parsed is None or parsed[2] < 2:
        raise InputError("is not an arithmetic chain", field="problem", value=prompt)
    start, operations, modulus, style = parsed
    return Chain(start, operations, modulus, tuple(follow(operations, modulus, 1, start)), style)


def _expected(chain: Chain, lines: Sequence[Line | Answer | None]) -> list[Line | Answer | None]:
    """What each line should be, given the values that the lines before it have written."""
    written, last, answered, expected = {0: chain.start}, 0, False, []
    for line in lines:
        if answered:
            expected.append(None)
        elif last == len(chain.operations):
            expected.append(Answer(written[last]))
        else:
            operator, operand = chain.operations[last]
            result = calculate(written[last], operator, operand, chain.modulus)
            expected.append(Line(last + 1, written[last], operator, operand, result))
        if isinstance(line, Answer):
            answered = True
        elif line is not None and 1 <= line.number <= len(chain.operations) and not answered:
            written[line.number] = line.result
            last = max(last, line.number)
    return expected


@dataclasses.dataclass(frozen=True)
class ArithmeticTask:
    """Start from a number, apply ``min_steps`` to ``max_steps`` operations modulo ``modulus``, one per step.

    Texts are those of `jaxprm.tasks.arithmetic_text`. The prompt alone defines the problem: every method but
    `sample` reads prompts of either style and any size.

    Attributes:
      min_steps, max_steps: number of operations, uniform, inclusive (the answer line comes on top).
      modulus: all values lie in [0, modulus).
      operations: which of + - * occur, uniformly.
      smallest_operand, largest_operand: operands are uniform in this range, inclusive. Below 2 there are operations
        without effect (+ 0, * 1) and ones that forget every earlier error (* 0).
      style: "digits" or "words".
    """

    min_steps: int = 4
    max_steps: int = 8
    modulus: int = 10
    operations: tuple[str, ...] = OPERATORS
    smallest_operand: int = 2
    largest_operand: int = 9
    style: Style = "digits"

    def __post_init__(self):
        object.__setattr__(self, "operations", tuple(self.operations))
        if self.style not in ("digits", "words"):
            raise InputError("is not a style; use 'digits' or 'words'", field="style", value=self.style)
        largest = number_words.LARGEST if self.style == "words" else 10**9 - 1
        for field, low, high in (("min_steps", 1, 1000), ("max_steps", self.min_steps, 1000), ("modulus", 2, largest),
                                 ("smallest_operand", 0, largest), ("largest_operand", self.smallest_operand, largest)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"must be an integer from {low} to {high}", field=field, value=value)
        if not self.operations or not set(self.operations) <= set(OPERATORS):
            raise InputError("must name operators of + - *", field="operations", value=self.operations)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of error that `corrupt` can plant."""
        return KINDS

    def sample(self, key: Key, part: Part = WHOLE) -> Problem:
        """The problem of this key, within the part.

        Raises:
          InputError: no problem of the part was found (the family is too small for so narrow a part).
        """
        stream = Stream(key, "arithmetic/sample")
        lengths, operands = self.max_steps - self.min_steps + 1, self.largest_operand - self.smallest_operand + 1
        below, operators = stream.below, self.operations
        for _ in range(_ATTEMPTS):
            steps, start = self.min_steps + below(lengths), below(self.modulus)
            operations = tuple([(operators[below(len(operators))], self.smallest_operand + below(operands))
                                for _ in range(steps)])
            canonical = render_prompt(start, operations, self.modulus, "digits")
            if part.holds(canonical):
                prompt = canonical
                if self.style == "words":
                    prompt = render_prompt(start, operations, self.modulus, "words")
                value = start
                for operator, operand in operations:
                    value = calculate(value, operator, operand, self.modulus)
                return Problem(f"arithmetic/{digest(canonical)}", prompt, render_value(value, self.style),
                               {"task": "arithmetic", "part": part.name, "operations": steps})
        raise InputError(f"no arithmetic problem found in {_ATTEMPTS} attempts", field=f"part '{part.name}'",
                         value=(part.low, part.high), hint="widen the part, or allow more steps or larger numbers")

    def solve(self, problem: Problem) -> tuple[str, ...]:
        """The reference steps, the answer line last."""
        chain = read_chain(problem.prompt)
        return tuple([render_line(line, chain.style) for line in chain.lines])

    def judge(self, problem: Problem, steps: tuple[str, ...]) -> StepVerdicts:
        """Exact verdicts for any lines; see `StepVerdicts`.

        ``right[s]``: line s is line s of the reference. ``valid[s]``: its number is the next one, its left side is
        the value that the solution last wrote for the step before (the start for step 1), operator and operand are
        the problem's, and the result is that of the operation as written; for an answer: all steps are done and it
        repeats the last value.
        """
        chain = read_chain(problem.prompt)
        reference, answer, valid, right = chain.lines, None, [], []
        lines = [parse_line(text, chain.style) for text in steps]
        for place, (line, expected) in enumerate(zip(lines, _expected(chain, lines), strict=True)):
            right.append(line is not None and place < len(reference) and line == reference[place])
            valid.append(line is not None and line == expected)
            if isinstance(line, Answer) and answer is None:
                answer = line.value
        text = None if answer is None else render_value(answer, chain.style)
        return verdicts(valid, right, text, answer is not None and answer == reference[-1].value)

    def expected_steps(self, problem: Problem, steps: tuple[str, ...]) -> tuple[str | None, ...]:
        """For each line of a solution the only line that would have been valid in its place, ``None`` behind an answer.

        Example: behind ``1) 5 + 2 = 1`` (wrong) the problem ``Start 5 1) + 2 2) - 3 (mod 7)`` expects ``2) 1 - 3 = 5``.
        """
        chain = read_chain(problem.prompt)
        expected = _expected(chain, [parse_line(text, chain.style) for text in steps])
        return tuple([None if line is None else render_line(line, chain.style) for line in expected])

    def corrupt(self, key: Key, problem: Problem, steps: tuple[str, ...], kind: str,
                step: int) -> tuple[str, ...] | None:
        """See `Task.corrupt`. ``steps[:step]`` must be steps 1 to ``step`` of a derivation, right or wrong.

        Raises:
          InputError: unknown kind, ``step`` out of range, or lines before ``step`` that are no derivation.
        """
        chain = read_chain(problem.prompt)
        if kind not in KINDS:
            raise InputError(f"is no kind of error; use one of {', '.join(KINDS)}", field="kind", value=kind)
        if not 0 <= step < len(chain.lines):
            raise InputError(f"is no step of a solution with {len(chain.lines)} lines", field="step", value=step)
        before = tuple(parse_line(text, chain.style) for text in steps[:step])
        if len(before) < step or any(not isinstance(line, Line) or line.number != number
                                     for number, line in enumerate(before, 1)):
            raise InputError("is not a derivation up to the step to corrupt", field="steps", value=tuple(steps[:step]))
        options = plantings(kind, chain.operations, chain.modulus, step + 1, chain.start, before)
        options = [option for option in options if option.wrong]
        if not options:
            return None
        planted = Stream(key, f"arithmetic/corrupt/{kind}/{step}").choice(options)
        tail = list(planted.lines) + follow(chain.operations, chain.modulus, planted.next_number, planted.value)
        return tuple(steps[:step]) + tuple([render_line(line, chain.style) for line in tail])

    def verify(self, problem: Problem, answer: str | None) -> bool:
        """Whether the text names the chain's value, as a number in the problem's own style."""
        chain = read_chain(problem.prompt)
        return answer is not None and parse_value(answer, chain.style) == chain.lines[-1].value

    def extract_answer(self, steps: tuple[str, ...]) -> str | None:
        """The value of the first answer line, of either style."""
        for text in steps:
            for style in ("digits", "words"):
                line = parse_line(text, style)
                if isinstance(line, Answer):
                    return render_value(line.value, style)
        return None
