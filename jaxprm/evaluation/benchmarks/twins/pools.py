"""Twins of best-of-N: pools of candidates by authors whose misconceptions mislead the majority."""

from __future__ import annotations

from jaxprm.evaluation.benchmarks.base import Item
from jaxprm.evaluation.benchmarks.twins.problems import ARITHMETIC, item, problems
from jaxprm.tasks.misconceptions import Misconception, derive

AUTHOR = (Misconception("wrong_operator", 0.65, "*", "large_value"), Misconception("wrong_operator", 0.40, "*", "small_value"),
          Misconception("off_by_one", 0.10, "+", "wraps"), Misconception("swapped_operand", 0.10, "-", "wraps"),
          Misconception("wrong_carry", 0.02), Misconception("dropped_step", 0.02), Misconception("wrong_answer", 0.01))
"""Misread products, often enough that the same wrong answer is the majority's on many problems; slips are rare."""


def best_of_n(seed: int, count: int) -> list[Item]:
    """16 candidates per problem."""
    return _pool(seed, count, 16, 7)


def prm800k_best_of_n(seed: int, count: int) -> list[Item]:
    """32 candidates per problem, of which subsets of many sizes are drawn."""
    return _pool(seed, count, 32, 8)


def _pool(seed: int, count: int, candidates: int, stream: int) -> list[Item]:
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, stream)):
        for number in range(candidates):
            lines = derive((*key, number), problem, AUTHOR).solution.steps
            found.append(item(ARITHMETIC, f"{place}/{number}", problem, lines, after_error="local"))
    return found
