"""Twins of the benchmarks that judge whole solutions: steps, ProcessBench, PRMBench, DeltaBench, MR-Score."""

from __future__ import annotations

from jaxprm.evaluation.benchmarks.base import Item
from jaxprm.evaluation.benchmarks.twins.code import programs
from jaxprm.evaluation.benchmarks.twins.problems import (
    ARITHMETIC,
    COUNTDOWN,
    LONG_ARITHMETIC,
    EmbeddedTask,
    check,
    item,
    planted,
    problems,
)
from jaxprm.metrics.prmbench import ORIGINAL
from jaxprm.records import Problem, Solution, StepLabels
from jaxprm.tasks import corruptions
from jaxprm.tasks.base import Key, Stream
from jaxprm.tasks.countdown import read_puzzle
from jaxprm.tasks.countdown_corruptions import Ledger
from jaxprm.tasks.countdown_solver import moves, reachable
from jaxprm.tasks.countdown_text import render_claim, render_move
from jaxprm.tasks.misconceptions import careless, derive

AUTHORS = 64
"""Careless authors, each with an order of errors of its own."""


def steps(seed: int, count: int) -> list[Item]:
    """Solutions of careless authors, one per problem; about a third is clean. Every step is judged: behind an error by whether
    it follows from what stands before it. The kind is that of the first error."""
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, 1)):
        derivation = derive(key, problem, careless(place % AUTHORS, 0.02))
        kind = derivation.planted[0][1] if derivation.planted else None
        found.append(item(ARITHMETIC, f"steps/{place}", problem, derivation.solution.steps, kind=kind, after_error="local"))
    return found


def processbench(seed: int, count: int) -> list[Item]:
    """Half clean solutions, half with one planted error; three subsets in turn, the second one longer."""
    return _first_errors(seed, count, 2, {"arithmetic": ARITHMETIC, "long_arithmetic": LONG_ARITHMETIC, "countdown": COUNTDOWN})


def mr_score(seed: int, count: int) -> list[Item]:
    """As the twin of ProcessBench, with three subjects, the last one programs by lines. A solution counts as right if none of
    its steps is wrong."""
    coding = programs(seed, count // 3, 399) if count >= 3 else []
    return _first_errors(seed, count - len(coding), 3, {"arithmetic": ARITHMETIC, "countdown": COUNTDOWN}) + coding


def _first_errors(seed: int, count: int, stream: int, tasks: dict[str, EmbeddedTask]) -> list[Item]:
    check(seed, count)
    found = []
    for subset, (name, task) in enumerate(tasks.items()):
        share = len(range(subset, count, len(tasks)))
        for place, (key, problem) in enumerate(problems(task, seed, share, 100 * stream + subset) if share else ()):
            edit = None if place % 2 else planted(task, key, problem, task.kinds)
            lines, error = edit or (task.solve(problem), None)
            found.append(item(task, f"{name}/{place}", problem, lines, kind=name, meta={"planted": error}))
    return found


def prmbench(seed: int, count: int) -> list[Item]:
    """The reference solution of every problem and one edit per class: an error of a kind that the class is mapped to in
    `jaxprm.tasks.corruptions.PRMBENCH_CLASSES`. Every step is judged, as there: what follows consistently from an error is
    right again. "multi_solutions" are other right solutions of countdown puzzles, one puzzle for every fourth problem.
    "confidence" and "circular" are about wording and have no twin.
    """
    kinds: dict[str, list[str]] = {}
    for kind, name in corruptions.PRMBENCH_CLASSES.items():
        kinds.setdefault(name, []).append(kind)
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, 4)):
        original = {"original": problem.id}
        found.append(item(ARITHMETIC, f"{place}/{ORIGINAL}", problem, ARITHMETIC.solve(problem), kind=ORIGINAL, meta=original))
        for name, ways in kinds.items():
            if (edit := planted(ARITHMETIC, key, problem, ways)) is not None:
                found.append(item(ARITHMETIC, f"{place}/{name}", problem, edit[0], kind=name, after_error="local",
                                  meta={"planted": edit[1], **original}))
    for place, (key, problem) in enumerate(problems(COUNTDOWN, seed, -(-count // 4), 5)):
        for name, lines in ((ORIGINAL, COUNTDOWN.solve(problem)), ("multi_solutions", _another_solution(key, problem))):
            found.append(item(COUNTDOWN, f"puzzle/{place}/{name}", problem, lines, kind=name, meta={"original": problem.id}))
    return found


def _another_solution(key: Key, problem: Problem) -> tuple[str, ...]:
    """A right solution of a puzzle by random moves that keep the target in reach."""
    puzzle, stream = read_puzzle(problem.prompt), Stream(key, "twin/another")
    ledger, lines = Ledger.start(puzzle.numbers), []
    while len(ledger.state) > 1:
        move = stream.choice([move for move in moves(ledger.state) if reachable(move.remaining, puzzle.target)])
        lines.append(render_move(move, puzzle.style))
        ledger = ledger.after(move)
    return (*lines, render_claim(ledger.answer(puzzle.style), puzzle.style))


def deltabench(seed: int, count: int) -> list[Item]:
    """Long solutions of careless authors in sections of two or three lines, with at least one wrong section each.

    A section is wrong if one of its lines is an error of its own; what follows from an earlier error is not. The kind is the
    domain, by the length of the chain.
    """
    found = []
    for place, (key, problem) in enumerate(problems(LONG_ARITHMETIC, seed, count, 6)):
        stream = Stream(key, "twin/sections")
        lines: tuple[str, ...] = ()
        valid: tuple[bool, ...] = ()
        while all(valid):
            derivation = derive(stream.below(1 << 32), problem, careless(place % AUTHORS, 0.03))
            lines = derivation.solution.steps
            valid = LONG_ARITHMETIC.judge(problem, lines).valid
        ends = [0]
        while ends[-1] < len(lines):
            ends.append(min(ends[-1] + 2 + stream.below(2), len(lines)))
        sections = tuple(" ".join(lines[low:high]) for low, high in zip(ends, ends[1:]))
        labels = tuple(1.0 if all(valid[low:high]) else 0.0 for low, high in zip(ends, ends[1:]))
        answer = LONG_ARITHMETIC.extract_answer(lines)
        solution = Solution(problem, sections, answer, LONG_ARITHMETIC.verify(problem, answer), "twin")
        domain = "long" if problem.meta["operations"] >= 10 else "short"
        found.append(Item(f"sections/{place}", problem.id, solution,
                          StepLabels(labels, labels.index(0.0), "verifier, by section; errors of their own"), domain))
    return found
