"""Programs by lines with one wrong line: the coding subject of the twin of MR-Score.

A program of the embedded task is a function of one number:

    def f(x):
        x = (x + 5) % 7
        x = (x * 3) % 7
        return x

The modulus is a prime and no operand is 0 or 1 in it, so every planted error changes what the function returns.
"""

from __future__ import annotations

from jaxprm.evaluation.benchmarks.base import Item
from jaxprm.evaluation.benchmarks.twins.problems import ARITHMETIC, problems
from jaxprm.records import Problem, Solution, StepLabels
from jaxprm.tasks.arithmetic import read_chain
from jaxprm.tasks.base import Stream
from jaxprm.tasks.corruptions import OPERATORS

ERRORS = ("wrong_operator", "wrong_operand", "wrong_modulus", "dropped_line", "repeated_line")


def programs(seed: int, count: int, stream: int) -> list[Item]:
    """One program per problem, half of them with one wrong line; what stands behind it is not judged."""
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, stream)):
        chain = read_chain(problem.prompt)
        asked = " ".join(f"{number}) {operator} {operand}" for number, (operator, operand) in enumerate(chain.operations, 1))
        lines = ["def f(x):", *(_line(*operation, chain.modulus) for operation in chain.operations), "    return x"]
        error, first = None, -1
        if not place % 2:
            draw = Stream(key, "twin/code")
            error, first = draw.choice(ERRORS), 1 + draw.below(len(chain.operations))
            lines, first = _planted(draw, lines, error, first, *chain.operations[first - 1], chain.modulus)
        text = f"Write f(x) that applies {asked} to x, modulo {chain.modulus}, in this order."
        values = tuple(None if -1 < first < number else float(number != first) for number in range(len(lines)))
        labels = StepLabels(values, first, "verifier; after_error=ignore")
        solution = Solution(Problem(problem.id, text), tuple(lines), correct=first < 0, generator="twin")
        found.append(Item(f"coding/{place}", problem.id, solution, labels, "coding", {"planted": error}))
    return found


def _line(operator: str, operand: int, modulus: int) -> str:
    return f"    x = (x {operator} {operand}) % {modulus}"


def _planted(draw: Stream, lines: list[str], error: str, place: int, operator: str, operand: int,
             modulus: int) -> tuple[list[str], int]:
    """The program with this error at line ``place``, and where it shows: a repeated line is wrong where it stands again."""
    before, after = lines[:place], lines[place + 1:]
    if error == "dropped_line":
        # Dropping one of two equal lines shows where the second one is missing.
        while after and after[0] == lines[place]:
            before, after, place = [*before, after[0]], after[1:], place + 1
        return before + after, place
    if error == "repeated_line":
        while after and after[0] == lines[place]:
            before, after, place = [*before, lines[place]], after[1:], place + 1
        return [*before, lines[place], lines[place], *after], place + 1
    if error == "wrong_operator":
        others = [_line(other, operand, modulus) for other in OPERATORS if other != operator]
    elif error == "wrong_operand":
        others = [_line(operator, other, modulus) for other in range(2, modulus) if other != operand]
    else:
        others = [_line(operator, operand, modulus + shift) for shift in (1, -1)]
    return [*before, draw.choice(others), *after], place
