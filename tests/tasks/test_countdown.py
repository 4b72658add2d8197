"""Countdown: the exact solver, verdicts, planted errors, and agreement with published step labels."""

import gzip
import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.records import Problem
from jaxprm.tasks.base import Part
from jaxprm.tasks.countdown import CountdownTask
from jaxprm.tasks.countdown_corruptions import KINDS, PRMBENCH_CLASSES
from jaxprm.tasks.countdown_solver import Move, calculate, moves, reachable, solve
from jaxprm.tasks.countdown_text import Claim, evaluate, parse_line, parse_prompt, render_move, render_prompt

TASKS = {"digits": CountdownTask(), "words": CountdownTask(style="words"),
         "three": CountdownTask(numbers=3, target=10, largest=9),
         "five": CountdownTask(numbers=5, target=100, largest=6)}
PROBLEM = Problem("p", "Reach 24 from 4 5 6 10")
SOLUTION = ("10 - 4 = 6 (left: 5 6 6)", "5 * 6 = 30 (left: 6 30)", "30 - 6 = 24 (left: 24)",
            "Answer: 5 * 6 - (10 - 4) = 24")


def judge(*steps):
    verdict = TASKS["digits"].judge(PROBLEM, steps)
    valid = "".join("v" if ok else "." for ok in verdict.valid)
    return valid, "".join("r" if ok else "." for ok in verdict.right), verdict


def brute_force(numbers, target):
    """All orders, operators and both shapes of expression over four numbers, by other means than the solver."""
    def apply(a, operator, b):
        if a is None or b is None or (operator == "/" and b == 0):
            return None
        return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: Fraction(a) / b}[operator]()
    for a, b, c, d in set(itertools.permutations(numbers)):
        for f, g, h in itertools.product("+-*/", repeat=3):
            if target in (apply(apply(apply(a, f, b), g, c), h, d), apply(apply(a, f, b), g, apply(c, h, d)),
                          apply(apply(a, f, apply(b, g, c)), h, d), apply(a, f, apply(apply(b, g, c), h, d)),
                          apply(a, f, apply(b, g, apply(c, h, d)))):
                return True
    return False


@pytest.mark.parametrize("numbers", [(1, 1, 1, 1), (3, 3, 8, 8), (1, 5, 5, 5), (1, 4, 5, 6), (1, 1, 1, 8),
                                     (4, 5, 6, 10), (13, 13, 13, 13), (2, 3, 5, 12), (1, 1, 11, 13),
                                     (5, 5, 5, 5), (0, 0, 4, 6)])
def test_solver_equals_brute_force(numbers):
    assert reachable(tuple(sorted(numbers)), 24) == brute_force(numbers, 24)


def test_how_many_hands_make_24():
    # Known of the card game: 1362 of the 1820 multisets of four numbers from 1 to 13 can make 24.
    hands = list(itertools.combinations_with_replacement(range(1, 14), 4))
    assert (len(hands), sum(reachable(hand, 24) for hand in hands)) == (1820, 1362)


def test_solver_paths():
    path = solve((3, 3, 8, 8), 24)  # only 8 / (3 - 8 / 3)
    state = (3, 3, 8, 8)
    for move in path:
        assert move in set(moves(state)) and calculate(move.left, move.operator, move.right) == move.result
        state = move.remaining
    assert state == (24,) and Fraction(8, 3) in [move.result for move in path]
    assert solve((1, 1, 1, 1), 24) is None
    assert calculate(6, "/", 3) == 2 and isinstance(calculate(6, "/", 3), int) and calculate(1, "/", 0) is None


def test_texts_by_hand():
    move = Move(10, "-", 4, 6, (5, 6, 6))
    assert render_move(move, "digits") == SOLUTION[0]
    assert render_move(move, "words") == "Ten minus four is six, leaving five, six and six."
    odd = Move(8, "/", 3, Fraction(8, 3), (-2, Fraction(8, 3)))
    assert render_move(odd, "words") == "Eight over three is eight/three, leaving negative-two and eight/three."
    for style in ("digits", "words"):
        for each in (move, odd):
            assert parse_line(render_move(each, style), style) == each
        assert parse_prompt(render_prompt((4, 5, 6, 10), 24, style)) == ((4, 5, 6, 10), 24, style)
    assert render_prompt((4, 5), 9, "words") == "Reach nine from four and five."
    assert parse_line("7.5 + 1.5 = 9 (left: 9 2)", "digits") == Move(Fraction(15, 2), "+", Fraction(3, 2), 9, (2, 9))
    assert parse_line("So (ten minus four) times four is twenty-four.", "words") == Claim(
        "(ten minus four) times four is twenty-four", 24, (4, 4, 10), 24)


@pytest.mark.parametrize(("expression", "value"), [
    ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("2 - 3 - 4", -5), ("8 / (3 - 8 / 3)", 24), ("12 / 4 / 3", 1), ("((7))", 7),
    ("1 / 0", None), ("", None), ("1 +", None), ("(1", None), ("1)", None), ("1 2", None), ("()", None), ("x", None),
    ("2 ** 3", None), ("3 (4)", None)])
def test_expressions(expression, value):
    assert evaluate(expression)[0] == value


def test_verdicts_by_hand():
    assert judge(*SOLUTION)[:2] == ("vvvv", "rrrr")
    # True arithmetic into a dead end: valid to the end, never right; 24 is out of reach from (1, 5).
    assert judge(SOLUTION[0], "6 / 6 = 1 (left: 1 5)", "1 * 5 = 5 (left: 5)",
                 "Answer: 5 * ((10 - 4) / 6) = 5")[:2] == ("vvvv", "r...")
    assert judge(SOLUTION[0], "5 * 6 = 31 (left: 6 31)", "31 - 6 = 25 (left: 25)")[:2] == ("v.v", "r..")
    assert judge(SOLUTION[0], "5 * 6 = 30 (left: 5 30)")[:2] == ("v.", "r.")          # a number copied wrongly
    assert judge(SOLUTION[0], "5 * 7 = 35 (left: 6 35)")[:2] == ("v.", "r.")          # a number that is not there
    assert judge(SOLUTION[0], SOLUTION[2], SOLUTION[3])[:2] == ("v.v", "r.r")         # a dropped step
    assert judge(SOLUTION[0], SOLUTION[0], *SOLUTION[1:])[:2] == ("v.vvv", "r...r")   # a repeated step
    assert judge(*SOLUTION[:2], SOLUTION[3])[:2] == ("vv.", "rr.")                    # the last step is missing
    assert judge(*SOLUTION[:3], "Answer: 5 * 6 - 10 - 4 = 24", SOLUTION[3])[:2] == ("vvv..", "rrr..")
    verdict = judge(*SOLUTION[:2])[2]
    assert (verdict.first_error, verdict.answer, verdict.correct) == (-1, None, False)


def test_answers():
    task = TASKS["digits"]
    assert [task.verify(PROBLEM, text) for text in (
        "5 * 6 - (10 - 4)", "5 * 6 - (10 - 4) = 24", "5 * 6 - (10 - 4) = 23", "4 * 6", "24", None, "",
        "5 * 6 - (10 - 5)")] == [
        True, True, False, False, False, False, False, False]
    assert task.extract_answer(SOLUTION) == "5 * 6 - (10 - 4) = 24" and task.extract_answer(SOLUTION[:2]) is None
    with pytest.raises(InputError, match="has no solution"):
        task.solve(Problem("x", "Reach 24 from 1 1 1 1"))
    with pytest.raises(InputError, match="is not a countdown problem"):
        task.solve(Problem("x", "Make 24"))


@pytest.mark.parametrize("name", sorted(TASKS))
def test_references_are_right(name):
    task = TASKS[name]
    for key in range(15):
        problem = task.sample(key)
        assert problem == task.sample(key)
        steps = task.solve(problem)
        verdict = task.judge(problem, steps)
        assert all(verdict.valid) and all(verdict.right) and verdict.first_error == -1 and verdict.correct
        assert len(steps) == task.numbers and verdict.answer == problem.answer and task.verify(problem, problem.answer)
        numbers, target, style = parse_prompt(problem.prompt)
        assert (len(numbers), target, style) == (task.numbers, task.target, task.style)
        assert task.smallest <= numbers[0] and numbers[-1] <= task.largest


def test_parts_are_disjoint():
    parts = [Part("a", 0.0, 0.5), Part("b", 0.5, 0.8), Part("c", 0.8, 1.0)]
    found = [{CountdownTask(style=style).sample(key, part).id for key in range(40) for style in ("digits", "words")}
             for part in parts]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2]) and min(map(len, found)) > 25
    with pytest.raises(InputError, match="part 'thin'"):
        CountdownTask().sample(0, Part("thin", 0.5, 0.5 + 1e-9))


@pytest.mark.parametrize("name", ["digits", "words", "three"])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_errors_are_found_where_they_were_planted(name, kind):
    task, planted = TASKS[name], 0
    for key in range(15):
        problem = task.sample(key)
        reference = task.solve(problem)
        for step in range(len(reference)):
            steps = task.corrupt((key, step), problem, reference, kind, step)
            if steps is None:
                continue
            planted += 1
            verdict = task.judge(problem, steps)
            assert verdict.first_error == step and steps[:step] == reference[:step]
            assert verdict.valid[step] == (kind == "dead_end")
            length = {"dropped_step": -1, "repeated_step": 1, "forgotten_number": -1}.get(kind, 0)
            assert len(steps) == len(reference) + length and verdict.answer is not None
    assert planted >= (6 if kind == "swapped_operand" else 14)


def test_kinds_are_named_after_prmbench():
    assert set(PRMBENCH_CLASSES.values()) - {None} <= {"redundency", "circular", "counterfactual", "step_contradiction",
                                                       "domain_inconsistency", "confidence", "missing_condition",
                                                       "deception"}
    for kind, step, steps, field in (("typo", 0, SOLUTION, "kind"), ("dead_end", 4, SOLUTION, "step"),
                                     ("dead_end", 1, ("what?",), "steps")):
        with pytest.raises(InputError, match=f"field '{field}'"):
            TASKS["digits"].corrupt(0, PROBLEM, steps, kind, step)


pieces = st.sampled_from([*"0123456789+-*/=() \n.", "Answer: ", "(left: ", "10 - 4 = 6 (left: 5 6 6)", "So ",
                          " leaving ", "ten", " minus ", " is ", "negative-", "1/0", "-", "٣"])
garbage = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=15).map("".join))


@given(st.lists(st.one_of(garbage, st.sampled_from(SOLUTION)), max_size=6), st.sampled_from(["digits", "words"]))
def test_judging_never_raises(steps, style):
    task = TASKS[style]
    problem = PROBLEM if style == "digits" else Problem("w", "Reach twenty-four from four, five, six and ten.")
    verdict = task.judge(problem, tuple(steps))
    assert len(verdict.valid) == len(verdict.right) == len(steps)
    assert verdict.first_error == (verdict.right.index(False) if False in verdict.right else -1)
    assert task.verify(problem, verdict.answer) == verdict.correct


def test_long_garbage_is_cheap():
    assert judge("Answer: " + "(" * 100_000, "1" * 100_000)[:2] == ("..", "..")
    assert judge("Answer: " + "9" * 480)[2].correct is False


@pytest.mark.parametrize(("options", "field"), [
    ({"numbers": 1}, "numbers"), ({"numbers": 7}, "numbers"), ({"target": -1}, "target"), ({"largest": 0}, "largest"),
    ({"style": "roman"}, "style"), ({"numbers": 6, "style": "words"}, "largest")])
def test_bad_options_are_one_line(options, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}'"):
        CountdownTask(**options)


def test_agreement_with_published_labels(shared):
    path = shared / "data" / "train" / "game24_900_969.jsonl.gz"
    if not path.is_file():
        pytest.skip("game24_900_969.jsonl.gz is not there")
    task, judged, differing, truth = TASKS["digits"], 0, [], {"step_valid": 0, "still_solvable": 0}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in itertools.islice(lines, 0, None, 5):
            row = json.loads(line)
            verdict = task.judge(Problem(row["id"], f"Reach 24 from {row['meta']['puzzle']}"), tuple(row["steps"]))
            assert verdict.first_error == row["first_error"]
            for place, (text, label) in enumerate(zip(row["steps"], row["labels"], strict=True)):
                parsed = parse_line(text, "digits")
                if label is None or parsed is None:
                    continue
                judged += 1
                if verdict.right[place] != (label == 1):
                    differing.append(text)
                solvable = row["meta"]["still_solvable"][place]
                if isinstance(parsed, Move) and solvable is not None:
                    truth["still_solvable"] += 1
                    assert reachable(parsed.remaining, 24) == solvable
    assert judged > 5500 and truth["still_solvable"] > 3500
    # The labels forgive an answer whose expression is worth 24 although it says "= 48"; here that is a false equation.
    assert differing in ([], ["Answer: (13 - 9) * (12 - 6) = 48"])
