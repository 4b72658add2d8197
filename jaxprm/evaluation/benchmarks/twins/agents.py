"""Twins of the agent benchmarks: traces of an agent that solves a chain of calculations with three tools.

    read(2) -> * 3                    look an operation up again: harmless, and no progress
    calculate(5 * 3 mod 7) -> 1       the tool never errs, the call may
    answer(1)                         ends the trace

A step is a call and what comes back; a candidate for the next step is a call alone.
"""

from __future__ import annotations

import dataclasses

from jaxprm.evaluation.benchmarks.base import Item
from jaxprm.evaluation.benchmarks.twins.problems import ARITHMETIC, problems
from jaxprm.records import Problem, Solution, StepLabels
from jaxprm.tasks.arithmetic import Chain, read_chain
from jaxprm.tasks.arithmetic_text import Answer, Line, parse_line
from jaxprm.tasks.base import Stream
from jaxprm.tasks.corruptions import KINDS, plantings
from jaxprm.tasks.misconceptions import Misconception, derive

TOOLS = "Tools: read(n), calculate(a + b mod m), answer(a)."
CALL_ERRORS = ("wrong_operator", "swapped_operand", "wrong_carry", "dropped_step", "wrong_answer")
"""Kinds of errors that are wrong calls; the others would be tools that err."""
REJECTED = 4


def agentprocessbench(seed: int, count: int) -> list[Item]:
    """One trace per problem. A call is right (1) or wrong (-1), and after the first wrong one every call is wrong, for it
    builds on it; looking an operation up is neutral (0). The ratings stand in ``meta``; labels count neutral steps as right."""
    author = tuple(Misconception(kind, 0.04) for kind in CALL_ERRORS)
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
                steps.append(f"read({line.number}) -> {operator} {operand}")
                ratings.append(0)
            steps.append(_call(line, chain) + (f" -> {line.result}" if isinstance(line, Line) else ""))
            ratings.append(1 if number < first else -1)
        labels = StepLabels(tuple(float(rating >= 0) for rating in ratings), ratings.index(-1) if -1 in ratings else -1,
                            "verifier; neutral=good, after_error=bad")
        solution = dataclasses.replace(derivation.solution, problem=_problem(problem), steps=tuple(steps), generator="twin")
        found.append(Item(f"trace/{place}", problem.id, solution, labels, "calculator", {"ratings": ratings}))
    return found


def webrewardbench(seed: int, count: int) -> list[Item]:
    """One task per problem: at every step of the reference trace the right call and up to four wrong ones, each an item whose
    last step is the candidate."""
    found = []
    for place, (key, problem) in enumerate(problems(ARITHMETIC, seed, count, 10)):
        chain, stream = read_chain(problem.prompt), Stream(key, "twin/web")
        history: list[str] = []
        for number, line in enumerate(chain.lines):
            chosen = _call(line, chain)
            wrong = _wrong_calls(chain, number, chosen)
            rejected = [wrong.pop(stream.below(len(wrong))) for _ in range(min(REJECTED, len(wrong)))]
            for rank, call in enumerate([chosen, *rejected]):
                labels = (1.0,) * number + (float(rank == 0),)
                found.append(Item(
                    f"task{place}/step{number}/" + (f"rejected{rank}" if rank else "chosen"), problem.id,
                    Solution(_problem(problem), (*history, call), generator="twin"),
                    StepLabels(labels, number if rank else -1, "verifier"), "calculator",
                    {"step": number, "chosen": rank == 0}))
            if isinstance(line, Line):
                history.append(f"{chosen} -> {line.result}")
    return found


def _problem(problem: Problem) -> Problem:
    return dataclasses.replace(problem, prompt=f"{problem.prompt} {TOOLS}")


def _call(line: Line | Answer, chain: Chain) -> str:
    if isinstance(line, Answer):
        return f"answer({line.value})"
    return f"calculate({line.left} {line.operator} {line.operand} mod {chain.modulus})"


def _wrong_calls(chain: Chain, number: int, right: str) -> list[str]:
    """Every planted error at this step as a call, and an answer too early; each once."""
    before = [line for line in chain.lines[:number] if isinstance(line, Line)]
    value = before[-1].result if before else chain.start
    calls = []
    for kind in KINDS:
        for planting in plantings(kind, chain.operations, chain.modulus, number + 1, chain.start, before):
            if planting.wrong and planting.lines:
                calls.append(_call(planting.lines[0], chain))
            elif planting.wrong and number + 1 < len(chain.operations):  # a dropped step shows as the one after it
                operator, operand = chain.operations[number + 1]
                calls.append(f"calculate({value} {operator} {operand} mod {chain.modulus})")
    if number < len(chain.operations):
        calls.append(f"answer({value})")
    return [call for call in dict.fromkeys(calls) if call != right]
