"""Countdown ("reach 24"): search, not calculation; a step is right if the target can still be reached after it."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

from jaxprm.errors import InputError
from jaxprm.records import Problem
from jaxprm.tasks import number_words
from jaxprm.tasks.base import WHOLE, Key, Part, StepVerdicts, Stream, digest, verdicts
from jaxprm.tasks.countdown_corruptions import KINDS, Ledger, continue_from, plantings
from jaxprm.tasks.countdown_solver import Move, State, calculate, reachable, solve
from jaxprm.tasks.countdown_text import (Claim, Style, parse_claim, parse_line, parse_prompt, render_claim, render_move,
                                         render_prompt)

_ATTEMPTS = 10_000


class Puzzle(NamedTuple):
    """A problem as numbers, in ascending order."""

    numbers: State
    target: int
    style: Style


@functools.lru_cache(maxsize=4096)
def read_puzzle(prompt: str) -> Puzzle:
    """The numbers behind a prompt of either style.

    Raises:
      InputError: the text is not a prompt of this task.
    """
    parsed = parse_prompt(prompt)
    if parsed is None or len(parsed[0]) > 6:
        raise InputError("is not a countdown problem of at most 6 numbers", field="problem", value=prompt)
    return Puzzle(*parsed)


def follows(move: Move, state: State) -> bool:
    """Whether a move is a true calculation with numbers of the state (ascending) and keeps the right books of them."""
    rest = list(state)
    for operand in (move.left, move.right):
        if operand not in rest:
            return False
        rest.remove(operand)
    return (calculate(move.left, move.operator, move.right) == move.result
            and tuple(sorted([*rest, move.result])) == move.remaining)


def solves(claim: Claim, puzzle: Puzzle) -> bool:
    """Whether an answer uses each number once, is worth the target, and says so (or says nothing)."""
    return claim.numbers == puzzle.numbers and claim.value == puzzle.target and claim.claimed == puzzle.target


@dataclasses.dataclass(frozen=True)
class CountdownTask:
    """Make ``target`` from ``numbers`` numbers with + - * /, each used once; intermediate values are exact rationals.

    Texts are those of `jaxprm.tasks.countdown_text`; all sampled problems can be solved. The prompt alone defines the
    problem: every method but `sample` reads prompts of either style and any size up to six numbers.

    Attributes:
      numbers: how many are given, 2 to 6. The exact solver takes milliseconds per new puzzle at 4, a second at 6.
      target: the number to reach.
      smallest, largest: the numbers given are uniform in this range, inclusive.
      style: "digits" or "words".
    """

    numbers: int = 4
    target: int = 24
    smallest: int = 1
    largest: int = 13
    style: Style = "digits"

    def __post_init__(self):
        if self.style not in ("digits", "words"):
            raise InputError("is not a style; use 'digits' or 'words'", field="style", value=self.style)
        for field, low, high in (("numbers", 2, 6), ("target", 0, 9999), ("smallest", 0, 999),
                                 ("largest", self.smallest, 999)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"must be an integer from {low} to {high}", field=field, value=value)
        if self.style == "words" and (self.largest + 1) ** self.numbers > number_words.LARGEST:
            raise InputError(f"can lead to products above {number_words.LARGEST}, which have no word here",
                             field="largest", value=self.largest,
                             hint="use fewer or smaller numbers, or style 'digits'")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of error that `corrupt` can plant."""
        return KINDS

    def sample(self, key: Key, part: Part = WHOLE) -> Problem:
        """The problem of this key, within the part.

        Raises:
          InputError: no solvable problem of the part was found.
        """
        stream = Stream(key, "countdown/sample")
        for _ in range(_ATTEMPTS):
            state = tuple(sorted([self.smallest + stream.below(self.largest - self.smallest + 1)
                                  for _ in range(self.numbers)]))
            canonical = render_prompt(state, self.target, "digits")
            if part.holds(canonical) and reachable(state, self.target):
                prompt = render_prompt(state, self.target, self.style)
                problem = Problem(f"countdown/{digest(canonical)}", prompt, None,
                                  {"task": "countdown", "part": part.name, "numbers": self.numbers})
                return dataclasses.replace(problem, answer=self.extract_answer(self.solve(problem)))
        raise InputError(f"no solvable countdown problem found in {_ATTEMPTS} attempts", field=f"part '{part.name}'",
                         value=(part.low, part.high), hint="widen the part or the range of numbers")

    def solve(self, problem: Problem) -> tuple[str, ...]:
        """A reference solution, the answer line last.

        Raises:
          InputError: the target cannot be reached.
        """
        puzzle = read_puzzle(problem.prompt)
        path = solve(puzzle.numbers, puzzle.target)
        if path is None:
            raise InputError("has no solution", field="problem", value=problem.prompt)
        ledger = Ledger.start(puzzle.numbers)
        for move in path:
            ledger = ledger.after(move)
        return tuple([render_move(move, puzzle.style) for move in path]) + (
            render_claim(ledger.answer(puzzle.style), puzzle.style),)

    def judge(self, problem: Problem, steps: tuple[str, ...]) -> StepVerdicts:
        """Exact verdicts for any lines; see `StepVerdicts`.

        ``right[s]`` of a step: it and all steps before are true moves, and the target is still reachable after it;
        of the
        answer: it solves the problem, unless true steps came before and some are missing. ``valid[s]`` of a step: it
          is a
        true move from the numbers that the solution last said were left; of the answer: one number is left, and the
        answer claims that number by a true equation.
        """
        puzzle = read_puzzle(problem.prompt)
        truth: State | None = puzzle.numbers  # None once some line was no true move
        stated, claim = puzzle.numbers, None
        valid, right = [], []
        for text in steps:
            line = parse_line(text, puzzle.style)
            if claim is not None or line is None:
                valid.append(False)
                right.append(False)
                truth = None
            elif isinstance(line, Claim):
                claim = line
                valid.append(len(stated) == 1 and line.value == line.claimed == stated[0])
                right.append(solves(line, puzzle) and (truth is None or len(truth) == 1))
            else:
                valid.append(follows(line, stated))
                stated = line.remaining
                truth = line.remaining if truth is not None and follows(line, truth) else None
                right.append(truth is not None and reachable(truth, puzzle.target))
        answer, correct = (None, False) if claim is None else (claim.text, solves(claim, puzzle))
        return verdicts(valid, right, answer, correct)

    def corrupt(self, key: Key, problem: Problem, steps: tuple[str, ...], kind: str,
                step: int) -> tuple[str, ...] | None:
        """See `Task.corrupt`. ``steps[:step]`` must be steps of this task, right or wrong.

        Raises:
          InputError: unknown kind, ``step`` out of range, or lines before ``step`` that are no steps.
        """
        puzzle = read_puzzle(problem.prompt)
        if kind not in KINDS:
            raise InputError(f"is no kind of error; use one of {', '.join(KINDS)}", field="kind", value=kind)
        if not 0 <= step < len(puzzle.numbers):
            raise InputError(f"is no step of a solution with {len(puzzle.numbers)} lines", field="step", value=step)
        before = tuple(parse_line(text, puzzle.style) for text in steps[:step])
        if len(before) < step or not all(isinstance(line, Move) for line in before):
            raise InputError("is not a derivation up to the step to corrupt", field="steps", value=tuple(steps[:step]))
        ledger = Ledger.start(puzzle.numbers)
        for move in before:
            ledger = ledger.after(move)
        stream = Stream(key, f"countdown/corrupt/{kind}/{step}")
        planned = parse_line(steps[step], puzzle.style) if step < len(steps) else None
        if not isinstance(planned, Move) or not follows(planned, ledger.state):
            path = solve(ledger.state, puzzle.target)
            planned = path[0] if path else None
        options = plantings(kind, puzzle.target, ledger, before, planned, puzzle.style)
        if not options:
            return None
        lines, ledger = stream.choice(options)
        return tuple(steps[:step]) + lines + (continue_from(stream, ledger, puzzle.target, puzzle.style)
                                              if ledger is not None else ())

    def verify(self, problem: Problem, answer: str | None) -> bool:
        """Whether the text is an expression that uses each number once and is worth the target."""
        puzzle = read_puzzle(problem.prompt)
        return answer is not None and solves(parse_claim(answer.strip(), puzzle.style), puzzle)

    def extract_answer(self, steps: tuple[str, ...]) -> str | None:
        """The text of the first answer line, of either style."""
        for text in steps:
            for style in ("digits", "words"):
                line = parse_line(text, style)
                if isinstance(line, Claim):
                    return line.text
        return None
