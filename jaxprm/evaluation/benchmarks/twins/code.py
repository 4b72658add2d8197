"""Programs by lines with one wrong line: the coding subject of the twin of MR-Score.

The problem "Code f(x): x 1) + 5 2) * 3 (mod 7)" asks for

    def f(x):
        x += 5
        x *= 3
        return x % 7

The modulus is a prime and no operand is 0 or 1 in it, so every planted error changes what the function returns for some number.
"""

from __future__ import annotations

from jaxprm.evaluation.benchmarks.base import Item
from jaxprm.evaluation.benchmarks.twins.problems import ARITHMETIC, problems
from jaxprm.records import Problem, Solution, StepLabels
from jaxprm.tasks.arithmetic import read_chain
from jaxprm.tasks.base import Stream
from jaxprm.tasks.corruptions import OPERATORS

ERRORS = ("wrong_operator", "wrong_operand", "dropped_line", "repeated_line", "wrong_modulus")


def programs(seed: int, count: int, stream: int) -> list[Item]:
    """One program per problem, half of them with one wrong line; what stands behind it is not judged."""
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, stream)):
        chain = read_chain(problem.prompt)
        asked = " ".join(f"{number}) {operator} {operand}" for number, (operator, operand) in enumerate(chain.operations, 1))
        lines = ["def f(x):", *(_line(*operation) for operation in chain.operations), f"    return x % {chain.modulus}"]
        error, first = None, -1
        if not place % 2:
            draw = Stream(key, "twin/code")
            error = draw.choice(ERRORS)
            lines, first = _planted(draw, lines, error, chain.operations, chain.modulus)
        values = tuple(None if -1 < first < number else float(number != first) for number in range(len(lines)))
        labels = StepLabels(values, first, "verifier; after_error=ignore")
        asks = Problem(problem.id, f"Code f(x): x {asked} (mod {chain.modulus})")
        solution = Solution(asks, tuple(lines), correct=first < 0, generator="twin")
        found.append(Item(f"coding/{place}", problem.id, solution, labels, "coding", {"planted": error}))
    return found


def _line(operator: str, operand: int) -> str:
    return f"    x {operator}= {operand}"


def _planted(draw: Stream, lines: list[str], error: str, operations: tuple[tuple[str, int], ...],
             modulus: int) -> tuple[list[str], int]:
    """The program with this error, and the line where it shows."""
    if error == "wrong_modulus":
        return [*lines[:-1], f"    return x % {draw.choice((modulus + 1, modulus - 1))}"], len(lines) - 1
    place = 1 + draw.below(len(operations))
    operator, operand = operations[place - 1]
    if error in ("dropped_line", "repeated_line"):
        while lines[place + 1] == lines[place]:  # of equal lines, the last one is what is missing or too much
            place += 1
        kept = lines[:place] if error == "dropped_line" else [*lines[:place + 1], lines[place]]
        return kept + lines[place + 1:], place + (error == "repeated_line")
    if error == "wrong_operator":
        others = [_line(other, operand) for other in OPERATORS if other != operator]
    else:
        others = [_line(operator, other) for other in range(2, modulus) if other != operand]
    return [*lines[:place], draw.choice(others), *lines[place + 1:]], place
