"""Systematic misconceptions: planted where they apply, at their rates, and in the majority on some problems."""

from collections import Counter

import pytest

from jaxprm.errors import InputError
from jaxprm.records import Problem
from jaxprm.tasks.arithmetic import ArithmeticTask, read_chain
from jaxprm.tasks.arithmetic_text import Line, parse_line
from jaxprm.tasks.corruptions import KINDS
from jaxprm.tasks.misconceptions import DEFAULT_MISCONCEPTIONS, Misconception, careless, derive

PROBLEM = Problem("p", "Start 7 1) * 5 2) + 3 3) - 9 4) * 3 (mod 10)", "7")


def test_without_misconceptions_it_is_the_reference():
    task = ArithmeticTask()
    for key in range(50):
        problem = task.sample(key)
        derivation = derive(key, problem, ())
        assert derivation.solution.steps == task.solve(problem) and derivation.planted == ()
        assert derivation.solution.correct and derivation.solution.answer == problem.answer


def test_certain_misconceptions_by_hand():
    # * read as + wherever the value is large: 7 + 5 = 2 (misread), 2 + 3 = 5, 5 - 9 = 6, 6 + 3 = 9 (misread).
    derivation = derive(0, PROBLEM, (Misconception("wrong_operator", 1.0, "*", "large_value"),))
    assert derivation.solution.steps == ("1) 7 + 5 = 2", "2) 2 + 3 = 5", "3) 5 - 9 = 6", "4) 6 + 3 = 9", "Answer: 9")
    assert derivation.planted == ((0, "wrong_operator"), (3, "wrong_operator"))
    assert (derivation.solution.answer, derivation.solution.correct) == ("9", False)
    # Smaller from larger: 5 - 9 has a borrow. True steps before it: 7 * 5 = 5, 5 + 3 = 8, 8 - 9 is written 9 - 8 = 1.
    derivation = derive(0, PROBLEM, (Misconception("swapped_operand", 1.0, "-", "wraps"),))
    assert derivation.solution.steps == ("1) 7 * 5 = 5", "2) 5 + 3 = 8", "3) 9 - 8 = 1", "4) 1 * 3 = 3", "Answer: 3")
    derivation = derive(0, PROBLEM, (Misconception("repeated_step", 1.0, "+"),))
    assert derivation.solution.steps[:3] == ("1) 7 * 5 = 5", "1) 7 * 5 = 5", "2) 5 + 3 = 8")
    assert derivation.planted == ((1, "repeated_step"),) and derivation.solution.correct
    derivation = derive(0, PROBLEM, (Misconception("dropped_step", 1.0, "+"),))
    assert derivation.solution.steps[:2] == ("1) 7 * 5 = 5", "3) 5 - 9 = 6")
    derivation = derive(0, PROBLEM, (Misconception("wrong_answer", 1.0),))
    assert derivation.solution.steps[-2:] == ("4) 9 * 3 = 7", "Answer: 9")
    small = derive(0, PROBLEM, (Misconception("wrong_operator", 1.0, "*", "small_value", variant=1),))
    assert small.solution.steps[0] == "1) 7 * 5 = 5"  # 7 is not small
    other = derive(0, PROBLEM, (Misconception("wrong_operator", 1.0, "*", variant=1),))
    assert other.solution.steps[0] == "1) 7 - 5 = 2"


@pytest.mark.parametrize("style", ["digits", "words"])
def test_the_first_planted_error_is_the_first_error(style):
    task, kinds = ArithmeticTask(style=style), Counter()
    for key in range(600):
        problem = task.sample(key)
        derivation = derive(key, problem)
        verdict = task.judge(problem, derivation.solution.steps)
        assert verdict.first_error == (derivation.planted[0][0] if derivation.planted else -1)
        assert (verdict.answer, verdict.correct) == (derivation.solution.answer, derivation.solution.correct)
        invalid = {place for place, ok in enumerate(verdict.valid) if not ok}
        places = {place for place, _ in derivation.planted}
        # Something planted right after a dropped step stands at the same line: then the gap shows one line later.
        assert invalid == places or (invalid > places and len(places) < len(derivation.planted))
        kinds.update(kind for _, kind in derivation.planted)
    assert set(kinds) == {misconception.kind for misconception in DEFAULT_MISCONCEPTIONS}


def test_rates_are_kept():
    task, tries, misread = ArithmeticTask(operations=("*",), min_steps=4, max_steps=4), 0, 0
    for key in range(3000):
        problem = task.sample(key)
        chain = read_chain(problem.prompt)
        derivation = derive(key, problem, (Misconception("wrong_operator", 0.35, "*"),))
        lines = [parse_line(text, "digits") for text in derivation.solution.steps]
        for line in lines:
            if isinstance(line, Line) and (line.left + line.operand) % 10 != line.left * line.operand % 10:
                tries += 1
                misread += line.operator == "+"
        assert len(lines) == len(chain.operations) + 1
    assert misread / tries == pytest.approx(0.35, abs=0.02)


def test_the_default_set_is_fluent_often_wrong_and_majority_repeats_it():
    task, problems, samples = ArithmeticTask(), 300, 8
    single = majority = oracle = wrong_majority = 0
    for key in range(problems):
        problem = task.sample(key)
        answers = Counter(derive((key, i), problem).solution.answer for i in range(samples))
        single += answers[problem.answer] / samples
        majority += answers.most_common(1)[0][0] == problem.answer
        oracle += problem.answer in answers
        wrong_majority += any(count > samples / 2 for answer, count in answers.items() if answer != problem.answer)
    assert 0.35 < single / problems < 0.47
    assert 0.48 < majority / problems < 0.65
    assert oracle / problems > 0.88
    assert wrong_majority / problems > 0.04  # more than half of the samples agree on one wrong answer


@pytest.mark.parametrize(("options", "field"), [
    ({"kind": "typo", "rate": 0.1}, "kind"), ({"kind": "off_by_one", "rate": 1.5}, "rate"),
    ({"kind": "off_by_one", "rate": 0.1, "operator": "/"}, "operator"),
    ({"kind": "off_by_one", "rate": 0.1, "condition": "sometimes"}, "condition"),
    ({"kind": "off_by_one", "rate": 0.1, "variant": -1}, "variant")])
def test_bad_misconceptions_are_input_errors(options, field):
    with pytest.raises(InputError, match=f"field '{field}'"):
        Misconception(**options)


def test_default_kinds_exist():
    assert {misconception.kind for misconception in DEFAULT_MISCONCEPTIONS} == set(KINDS)


def test_careless_authors_make_every_kind_of_error():
    task, kinds, steps = ArithmeticTask(), Counter(), 0
    assert careless(3, 0.1) == careless(3, 0.1) != careless(4, 0.1)
    assert set(careless(3, 0.1)) == set(careless(4, 0.1))
    for key in range(1500):
        derivation = derive(key, task.sample(key), careless(key % 64, 0.05))
        kinds.update(kind for _, kind in derivation.planted)
        steps += len(derivation.solution.steps)
    assert set(kinds) == set(KINDS)
    assert 0.3 < sum(kinds.values()) / steps < 0.5  # 14 ways to err, not all of them possible everywhere: 1 - .95 ** 14 = .51
