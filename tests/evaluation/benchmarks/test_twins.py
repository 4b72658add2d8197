"""Twins: exact labels, the form of their benchmark, the same for everybody."""

import re

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import BENCHMARKS, EvaluateOptions, twins
from jaxprm.evaluation.benchmarks.twins.problems import ARITHMETIC, COUNTDOWN, LONG_ARITHMETIC, PART, planted
from jaxprm.records import Problem
from jaxprm.tasks.arithmetic_text import Line, parse_line
from jaxprm.tasks.corruptions import PRMBENCH_CLASSES, calculate

PROBLEMS = 9


@pytest.fixture(scope="module")
def made():
    return {name: getattr(twins, name)(3, PROBLEMS) for name in twins.__all__}


@pytest.mark.parametrize("name", twins.__all__)
def test_a_twin_is_a_pure_function_of_its_seed(made, name):
    items, again, other = made[name], getattr(twins, name)(3, PROBLEMS), getattr(twins, name)(4, PROBLEMS)
    said = lambda items: [(item.id, item.group, item.solution, item.labels, item.kind, item.meta) for item in items]
    assert said(items) == said(again) and said(items) != said(other)
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert len(item.labels.values) == len(item.solution.steps)
        assert all(step.strip() and "\n" not in step for step in item.solution.steps)
        wrong = [place for place, value in enumerate(item.labels.values) if value == 0.0]
        assert item.labels.first_error == (wrong[0] if wrong else -1)
    with pytest.raises(InputError, match="at least 1"):
        getattr(twins, name)(3, 0)


@pytest.mark.parametrize("name", [name for name in twins.__all__ if name not in ("deltabench", "agentprocessbench",
                                                                                "webrewardbench")])
def test_labels_are_those_of_the_verifier_and_problems_are_held_out(made, name):
    """Whoever trained on the other parts has seen none of these problems."""
    for item in made[name]:
        problem, steps = item.solution.problem, item.solution.steps
        if item.kind == "coding":
            continue
        task = COUNTDOWN if problem.prompt.startswith("Reach") else ARITHMETIC
        assert PART.holds(problem.prompt)
        verdict = task.judge(problem, steps)
        assert (item.labels.first_error, item.solution.correct) == (verdict.first_error, verdict.correct)
        after = item.labels.values[verdict.first_error + 1:] if verdict.first_error >= 0 else ()
        judged = tuple(float(ok) for ok in verdict.valid[verdict.first_error + 1:])
        assert after in ((None,) * len(after), judged)


def test_subsets_and_classes(made):
    halves = {}
    for name in ("processbench", "mr_score"):
        for item in made[name]:
            halves.setdefault((name, item.kind), []).append(item.labels.first_error < 0)
    assert {kind for _, kind in halves} == {"arithmetic", "long_arithmetic", "countdown", "coding"}
    assert all(abs(2 * sum(clean) - len(clean)) <= 1 for clean in halves.values())
    edits = {}
    for item in made["prmbench"]:
        edits.setdefault(item.kind, []).append(item)
        assert item.kind in ("correct", "multi_solutions") or PRMBENCH_CLASSES[item.meta["planted"]] == item.kind
    assert edits.keys() == {"correct", "multi_solutions", *PRMBENCH_CLASSES.values()}
    originals = {item.meta["original"]: item.solution.steps for item in edits["correct"]}
    assert all(item.meta["original"] in originals and item.solution.correct for item in edits["multi_solutions"])
    assert any(item.solution.steps != originals[item.meta["original"]] for item in edits["multi_solutions"])


def test_errors_that_a_problem_does_not_allow():
    """No product of a chain that starts at 0 can be dropped; all other problems of a twin keep their edits."""
    problem = Problem("zero", "Start 0 1) * 2 2) * 3 3) * 4 (mod 7)")
    assert planted(ARITHMETIC, 0, problem, ["dropped_step"]) is None
    lines, kind = planted(ARITHMETIC, 0, problem, ["dropped_step", "repeated_step"])
    assert kind == "repeated_step" and len(lines) == 5


def test_programs_are_wrong_exactly_where_an_error_was_planted(made):
    programs = [item for item in made["mr_score"] if item.kind == "coding"]
    for item in programs:
        lines, first = item.solution.steps, item.labels.first_error
        asked = re.findall(r"\d\) ([-+*]) (\d)", item.solution.problem.prompt)
        space: dict = {}
        exec("\n".join(lines), space)  # the text is made here

        def truth(x, asked=asked):
            for operator, operand in asked:
                x = calculate(x, operator, int(operand), 7)
            return x

        same = all(space["f"](x) == truth(x) for x in range(-50, 50))
        assert same == item.solution.correct == (first < 0)
        expected = ["def f(x):", *(f"    x {operator}= {operand}" for operator, operand in asked), "    return x % 7"]
        assert first < 0 or (list(lines[:first]) == expected[:first] and lines[first] != expected[first])


def test_sections_hold_the_lines_of_a_solution(made):
    for item in made["deltabench"]:
        lines = re.split(r" (?=\d+\)|Answer:)", " ".join(item.solution.steps))
        valid = iter(LONG_ARITHMETIC.judge(item.solution.problem, tuple(lines)).valid)
        for section, label in zip(item.solution.steps, item.labels.values):
            count = len(re.split(r" (?=\d+\)|Answer:)", section))
            assert label == float(all([next(valid) for _ in range(count)]))
        assert 0.0 in item.labels.values and len(item.solution.steps) >= 3


def test_calls_of_agents_are_wrong_where_their_labels_say_so(made):
    for item in made["agentprocessbench"]:
        calls = [(step, rating) for step, rating in zip(item.solution.steps, item.meta["ratings"])]
        assert all((rating == 0) == ("=" not in step and ":" not in step) for step, rating in calls)
        acted, expected = [pair for pair in calls if pair[1]], ARITHMETIC.solve(item.solution.problem)
        assert all(calculate(line.left, line.operator, line.operand, 7) == line.result  # the calculator never errs
                   for line in (parse_line(step, "digits") for step, _ in acted) if isinstance(line, Line))
        first = next((place for place, (step, _) in enumerate(acted) if expected[place:place + 1] != (step,)), None)
        assert [rating for _, rating in acted] == [1 if first is None or place < first else -1 for place in range(len(acted))]
    tasks = {}
    for item in made["webrewardbench"]:
        *history, call = item.solution.steps
        expected, place = ARITHMETIC.solve(item.solution.problem), item.meta["step"]
        assert tuple(history) == expected[:place] and (call == expected[place]) == item.meta["chosen"]
        assert (ARITHMETIC.judge(item.solution.problem, item.solution.steps).first_error == -1) == item.meta["chosen"]
        tasks.setdefault((item.group, place), []).append(item.meta["chosen"])
    assert all(choice.count(True) == 1 and 2 <= len(choice) <= 5 for choice in tasks.values())


def test_pools_mislead_the_majority():
    items = twins.best_of_n(0, 20)
    scores = [np.array(item.labels.values) for item in items]
    numbers = BENCHMARKS["best_of_n"].evaluate(items, scores, EvaluateOptions(resamples=20)).numbers
    assert numbers["majority"].mean + 0.2 < numbers["best, min"].mean <= numbers["oracle"].mean


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_runs_on_its_twin(name):
    """Labels as scores are (nearly) perfect, scores without information are not."""
    benchmark = BENCHMARKS[name]
    items = benchmark.twin(0, 12)
    perfect = [np.array([0.9 if value is None else value for value in item.labels.values], float) for item in items]
    rng = np.random.default_rng(0)
    guesses = [rng.random(len(row)) for row in perfect]
    options = EvaluateOptions(resamples=20)
    best, chance = (benchmark.evaluate(items, scores, options) for scores in (perfect, guesses))
    value = lambda result: float(getattr(result.numbers[result.headline], "mean", result.numbers[result.headline]))
    sign = -1 if name == "selective" else 1  # an area under risk: lower is better
    assert sign * value(best) > sign * value(chance)
    assert best.compared.keys() <= best.numbers.keys()
