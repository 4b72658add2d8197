"""Twins of the agent benchmarks: traces of an agent that solves a chain of calculations with a calculator.

    2) * 3            looks an operation up again: harmless, and no progress
    2) 5 * 3 = 1      calls the calculator, and what it returns: it never errs, the call may
    Answer: 1         ends the trace

Traces are written as the task's own solutions are, so that models which know it read nothing new.
"""

from __future__ import annotations

import dataclasses

from jaxprm.evaluation.benchmarks.base import Item
from jaxprm.evaluation.benchmarks.twins.problems import ARITHMETIC, problems
from jaxprm.records import Solution, StepLabels
from jaxprm.tasks.arithmetic import Chain, read_chain
from jaxprm.tasks.arithmetic_text import Answer, Line, parse_line, render_line
from jaxprm.tasks.base import Stream
from jaxprm.tasks.corruptions import follow, plantings
from jaxprm.tasks.misconceptions import Misconception, derive

CALL_ERRORS = ("wrong_operator", "swapped_operand", "wrong_carry", "dropped_step", "wrong_answer")
"""Kinds of errors that are wrong calls; the others would be a calculator that errs."""
REJECTED = 4


def agentprocessbench(seed: int, count: int) -> list[Item]:
    """One trace per problem. A call is right (1) or wrong (-1), and after the first wrong one every call is wrong, for it
    builds on it; looking an operation up is neutral (0). The ratings stand in ``meta``; labels count neutral steps as right."""
    author = tuple(Misconception(kind, 0.06) for kind in CALL_ERRORS)
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, 9)):
        chain, stream = read_chain(problem.prompt), Stream(key, "twin/agent")
        derivation = derive(key, problem, author)
        first = derivation.planted[0][0] if derivation.planted else len(derivation.solution.steps)
        steps, ratings = [], []
        for number, text in enumerate(derivation.solution.steps):
            line = parse_line(text, chain.style)
            if isinstance(line, Line) and stream.uniform() < 0.3:
                operator, operand = chain.operations[line.number - 1]
                steps.append(f"{line.number}) {operator} {operand}")
                ratings.append(0)
            steps.append(text)
            ratings.append(1 if number < first else -1)
        labels = StepLabels(tuple(float(rating >= 0) for rating in ratings), ratings.index(-1) if -1 in ratings else -1,
                            "verifier; neutral=good, after_error=bad")
        solution = dataclasses.replace(derivation.solution, steps=tuple(steps), generator="twin")
        found.append(Item(f"trace/{place}", problem.id, solution, labels, None, {"ratings": ratings}))
    return found


def webrewardbench(seed: int, count: int) -> list[Item]:
    """One task per problem: at every step of the reference trace the right call and up to four wrong ones, each an item whose
    last step is the candidate."""
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, 10)):
        chain, stream = read_chain(problem.prompt), Stream(key, "twin/web")
        reference = ARITHMETIC.solve(problem)
        for number, chosen in enumerate(reference):
            wrong = _wrong_calls(chain, number, chosen)
            rejected = [wrong.pop(stream.below(len(wrong))) for _ in range(min(REJECTED, len(wrong)))]
            for rank, call in enumerate([chosen, *rejected]):
                labels = (1.0,) * number + (float(rank == 0),)
                found.append(Item(
                    f"task{place}/step{number}/" + (f"rejected{rank}" if rank else "chosen"), problem.id,
                    Solution(problem, (*reference[:number], call), generator="twin"),
                    StepLabels(labels, number if rank else -1, "verifier"), None, {"step": number, "chosen": rank == 0}))
    return found


def _wrong_calls(chain: Chain, number: int, right: str) -> list[str]:
    """Every wrong call at this step (a dropped step shows as the one after it), a call once more, and an answer too early."""
    before = [line for line in chain.lines[:number] if isinstance(line, Line)]
    value = before[-1].result if before else chain.start
    lines: list[Line | Answer] = [] if number == len(chain.operations) else [Answer(value)]
    for kind in (*CALL_ERRORS, "repeated_step"):
        for planting in plantings(kind, chain.operations, chain.modulus, number + 1, chain.start, before):
            after = follow(chain.operations, chain.modulus, planting.next_number, planting.value)
            if planting.wrong:
                lines += [*planting.lines, *after][:1]
    return [call for call in dict.fromkeys(render_line(line, chain.style) for line in lines) if call != right]
