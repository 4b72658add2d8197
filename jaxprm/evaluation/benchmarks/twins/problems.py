"""What the twins share: problems, solutions with planted errors, items with exact labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks.base import Item
from jaxprm.labeling.verifier import AfterError, VerifierLabeler
from jaxprm.records import Problem, Solution
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.tasks.base import Key, Part, Stream
from jaxprm.tasks.countdown import CountdownTask

EmbeddedTask = ArithmeticTask | CountdownTask

ARITHMETIC = ArithmeticTask(min_steps=3, max_steps=6, modulus=7, largest_operand=6)
"""The quickstart's task."""

LONG_ARITHMETIC = ArithmeticTask(min_steps=8, max_steps=11, modulus=7, largest_operand=6)
"""Still short enough for the context of the quickstart's models."""

COUNTDOWN = CountdownTask()

PART = Part("test", 0.85, 1.0)
"""The quickstart's test part: the models that it trains have seen none of these problems."""


def check(seed: int, count: int) -> None:
    """Raises InputError for a seed below 0, or no problem."""
    if seed < 0:
        raise InputError("must not be negative", field="seed", value=seed)
    if count < 1:
        raise InputError("must be at least 1", field="twin", value=count, hint="the twin's number of problems")


def problems(task: EmbeddedTask, seed: int, count: int, stream: int) -> Iterator[tuple[tuple[int, int, int], Problem]]:
    """(key, problem) one after another, each problem once; equal seeds give equal problems.

    Args:
      stream: a number of its own for every use, so that twins share no problem by their keys.
    """
    check(seed, count)
    seen: set[str] = set()
    place = 0
    while len(seen) < count:
        key = (seed, stream, place)
        problem = task.sample(key, PART)
        place += 1
        if problem.id not in seen:
            seen.add(problem.id)
            yield key, problem


def planted(task: EmbeddedTask, key: Key, problem: Problem, kinds: Sequence[str]) -> tuple[tuple[str, ...], str] | None:
    """The reference solution with one error, and its kind: a random one of ``kinds`` at a random step. None where none of them
    can be made: no step can be dropped from a chain of products that starts at 0."""
    steps, stream = task.solve(problem), Stream(key, "twin/planted")
    ways = [(kind, step) for kind in kinds for step in range(len(steps))]
    while ways:
        kind, step = ways.pop(stream.below(len(ways)))
        found = task.corrupt(stream.below(1 << 32), problem, steps, kind, step)
        if found is not None:
            return found, kind
    return None


def item(task: EmbeddedTask, id: str, problem: Problem, steps: tuple[str, ...], *, kind: str | None = None,
         after_error: AfterError = "ignore", generator: str = "twin", meta: Mapping[str, Any] | None = None) -> Item:
    """A solution with the verifier's labels, its final answer, and whether that is right; the problem is its group."""
    verdict = task.judge(problem, steps)
    solution = Solution(problem, steps, verdict.answer, verdict.correct, generator)
    labels = VerifierLabeler(task, after_error).label(verdict)
    return Item(id, problem.id, solution, labels, kind, meta or {})
