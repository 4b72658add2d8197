"""Arithmetic chains: sampling, texts, verdicts on anything, errors planted on purpose."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.records import Problem
from jaxprm.tasks.arithmetic import ArithmeticTask, read_chain
from jaxprm.tasks.arithmetic_text import Answer, Line, parse_line
from jaxprm.tasks.base import Part
from jaxprm.tasks.corruptions import KINDS, PRMBENCH_CLASSES
from jaxprm.tasks.misconceptions import careless, derive

PROBLEM = Problem("p", "Start 7 1) + 5 2) * 3 3) - 8 (mod 10)", "8")
REFERENCE = ("1) 7 + 5 = 2", "2) 2 * 3 = 6", "3) 6 - 8 = 8", "Answer: 8")
WORDS = Problem("w", "Start with seven. First, add five. Second, multiply by three. Third, subtract eight. "
                "Count modulo ten.", "eight")
TASKS = {"digits": ArithmeticTask(), "words": ArithmeticTask(style="words"),
         "large": ArithmeticTask(min_steps=2, max_steps=12, modulus=97, smallest_operand=0, largest_operand=150)}


def judge(*steps):
    verdict = TASKS["digits"].judge(PROBLEM, steps)
    valid = "".join("v" if ok else "." for ok in verdict.valid)
    return valid, "".join("r" if ok else "." for ok in verdict.right), verdict


def test_reference_by_hand():
    assert TASKS["digits"].solve(PROBLEM) == REFERENCE
    assert TASKS["digits"].solve(WORDS) == ("First, seven plus five is two.", "Second, two times three is six.",
                                            "Third, six minus eight is eight.", "The answer is eight.")


def test_sampling_is_a_pure_function_of_the_key():
    first = TASKS["digits"].sample((3, 4))
    # Golden: problems must not change between versions, or stages that were disjoint would overlap.
    assert first == TASKS["digits"].sample((3, 4))
    assert TASKS["digits"].sample(3) == TASKS["digits"].sample((3,))
    assert TASKS["digits"].sample(3).prompt == "Start 3 1) * 6 2) - 3 3) * 9 4) * 4 5) - 6 (mod 10)"
    assert len({TASKS["digits"].sample(key).prompt for key in range(500)}) == 500


def test_every_option_changes_the_problems():
    def chains(**options):
        task = ArithmeticTask(**options)
        return [read_chain(task.sample(key).prompt) for key in range(300)]
    assert {len(chain.operations) for chain in chains(min_steps=2, max_steps=3)} == {2, 3}
    assert max(chain.start for chain in chains(modulus=50)) > 40
    assert {operator for chain in chains(operations=("+", "-")) for operator, _ in chain.operations} == {"+", "-"}
    operands = {operand for chain in chains(smallest_operand=4, largest_operand=6) for _, operand in chain.operations}
    assert operands == {4, 5, 6}
    assert {chain.style for chain in chains(style="words")} == {"words"}


@pytest.mark.parametrize(("options", "field"), [
    ({"min_steps": 0}, "min_steps"), ({"min_steps": 5, "max_steps": 4}, "max_steps"), ({"modulus": 1}, "modulus"),
    ({"operations": ("/",)}, "operations"), ({"operations": ()}, "operations"), ({"style": "roman"}, "style"),
    ({"smallest_operand": -1}, "smallest_operand"), ({"largest_operand": 1}, "largest_operand"),
    ({"style": "words", "modulus": 10**7}, "modulus")])
def test_bad_options_are_one_line(options, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = ") as raised:
        ArithmeticTask(**options)
    assert "\n" not in str(raised.value)


def test_parts_are_disjoint_across_keys_and_styles():
    cuts = [0.0, 0.4, 0.7, 0.9, 1.0]
    parts = [Part(str(low), low, high) for low, high in zip(cuts, cuts[1:], strict=False)]
    small = {"min_steps": 1, "max_steps": 2}  # a small family, where samples would collide by chance
    found = [{ArithmeticTask(**small, style=style).sample((key, index), part).id
              for key in range(400) for style in ("digits", "words")} for index, part in enumerate(parts)]
    assert all(not a & b for i, a in enumerate(found) for b in found[:i])
    assert all(len(part) > 100 for part in found)
    shares = [sum(part.holds(f"problem {i}") for i in range(20_000)) / 20_000 for part in parts]
    assert shares == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.01)


def test_an_impossible_part_is_an_input_error():
    task = ArithmeticTask(min_steps=1, max_steps=1, modulus=2, operations=("+",), largest_operand=2)
    with pytest.raises(InputError, match="part 'thin'"):
        task.sample(0, Part("thin", 0.5, 0.5 + 1e-9))
    with pytest.raises(InputError, match="low < high"):
        Part("empty", 0.5, 0.5)


def test_verdicts_by_hand():
    assert judge(*REFERENCE)[:2] == ("vvvv", "rrrr")
    # A wrong result, then consistently onwards: valid again, never right (2 * 3 = 5, not 6).
    assert judge("1) 7 + 5 = 2", "2) 2 * 3 = 5", "3) 5 - 8 = 7", "Answer: 7")[:2] == ("v.vv", "r...")
    # A misread operator; a misread operand; a wrong carry.
    assert judge("1) 7 + 5 = 2", "2) 2 + 3 = 5", "3) 5 - 8 = 7", "Answer: 7")[:2] == ("v.vv", "r...")
    assert judge("1) 7 + 4 = 1", "2) 1 * 3 = 3", "3) 3 - 8 = 5", "Answer: 5")[:2] == (".vvv", "....")
    assert judge("1) 7 + 5 = 2", "2) 7 * 3 = 1", "3) 1 - 8 = 3", "Answer: 3")[:2] == ("v.vv", "r...")
    # Dropped: the error is where the step is missing. Repeated: the repetition is the error, what follows is displaced.
    assert judge("1) 7 + 5 = 2", "3) 2 - 8 = 4", "Answer: 4")[:2] == ("v.v", "r..")
    assert judge("1) 7 + 5 = 2", "1) 7 + 5 = 2", "2) 2 * 3 = 6", "3) 6 - 8 = 8", "Answer: 8")[:2] == ("v.vvv", "r....")
    # Two errors that cancel: line 3 is right at its place again, and the answer too.
    valid, right, verdict = judge("1) 7 + 5 = 2", "2) 2 * 3 = 7", "3) 6 - 8 = 8", "Answer: 8")
    assert (valid, right, verdict.first_error, verdict.correct) == ("v..v", "r.rr", 1, True)
    # Out of order, answered too early, answered twice, text after the answer.
    assert judge("2) 2 * 3 = 6", "1) 7 + 5 = 2")[:2] == ("..", "..")
    assert judge("1) 7 + 5 = 2", "Answer: 2")[:2] == ("v.", "r.")
    assert judge(*REFERENCE, "Answer: 8")[:2] == ("vvvv.", "rrrr.")
    assert judge("1) 7 + 5 = 2", "what?", "2) 2 * 3 = 6")[:2] == ("v.v", "r..")
    assert judge("4) 7 + 5 = 2", "0) 7 + 5 = 2")[:2] == ("..", "..")


def test_stopping_early_is_no_wrong_step():
    verdict = judge(*REFERENCE[:2])[2]
    assert (verdict.first_error, verdict.answer, verdict.correct) == (-1, None, False)
    assert dataclasses.astuple(judge()[2]) == ((), (), -1, None, False)


def test_answers():
    task = TASKS["digits"]
    assert [task.verify(PROBLEM, text) for text in ("8", " 8 ", "08", "eight", "", "18", None, "9" * 5000)] == [
        True, True, True, False, False, False, False, False]
    assert [task.verify(WORDS, text) for text in ("eight", "8", "ten")] == [True, False, False]
    assert task.extract_answer((*REFERENCE, "Answer: 3")) == "8"
    assert task.extract_answer(("The answer is forty-two.",)) == "forty-two"
    assert task.extract_answer(REFERENCE[:3]) is None


@pytest.mark.parametrize("prompt", ["", "Start 7", "Start 7 2) + 5 (mod 10)", "Start 7 1) + 5 (mod 0)",
                                    "Start with foo. First, add five. Count modulo ten.",
                                    "Start with one. Second, add five. Count modulo ten."])
def test_foreign_prompts_are_input_errors(prompt):
    with pytest.raises(InputError, match="is not an arithmetic chain"):
        TASKS["digits"].judge(Problem("x", prompt), ("1) 7 + 5 = 2",))


@given(st.integers(0, 2**70), st.sampled_from(sorted(TASKS)))
def test_references_are_right(key, name):
    task = TASKS[name]
    problem = task.sample(key)
    steps = task.solve(problem)
    verdict = task.judge(problem, steps)
    assert all(verdict.valid) and all(verdict.right) and verdict.first_error == -1 and verdict.correct
    assert verdict.answer == problem.answer == task.extract_answer(steps) and task.verify(problem, problem.answer)
    value = eval_chain(problem)
    assert parse_line(steps[-1], task.style) == Answer(value)


def eval_chain(problem):
    chain = read_chain(problem.prompt)
    value = chain.start
    for operator, operand in chain.operations:
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[operator] % chain.modulus
    return value


pieces = st.sampled_from([*"0123456789+-*=) \n", "Answer: ", "1) ", "First, ", "seven", " is ", ".",
                          "The answer is ", "٣", "²"])
garbage = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=12).map("".join))


@given(st.lists(st.one_of(garbage, st.sampled_from(REFERENCE)), max_size=8), st.sampled_from(["digits", "words"]))
def test_judging_never_raises(steps, style):
    task, problem = TASKS[style], PROBLEM if style == "digits" else WORDS
    verdict = task.judge(problem, tuple(steps))
    assert len(verdict.valid) == len(verdict.right) == len(steps)
    assert verdict.first_error == (verdict.right.index(False) if False in verdict.right else -1)
    assert task.verify(problem, verdict.answer) == verdict.correct
    assert task.extract_answer(tuple(steps)) is not None or verdict.answer is None


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("kind", KINDS)
def test_planted_errors_are_found_where_they_were_planted(name, kind):
    task, planted = TASKS[name], 0
    for key in range(40):
        problem = task.sample(key)
        reference = task.solve(problem)
        for step in range(len(reference)):
            steps = task.corrupt((key, step), problem, reference, kind, step)
            if steps is None:
                continue
            planted += 1
            verdict = task.judge(problem, steps)
            assert verdict.first_error == step
            assert [i for i, ok in enumerate(verdict.valid) if not ok] == [step]  # one error, then consistently onwards
            assert steps[:step] == reference[:step]
            assert len(steps) == len(reference) + {"dropped_step": -1, "repeated_step": 1}.get(kind, 0)
            if kind == "repeated_step":
                assert verdict.correct and steps[step] == reference[step - 1]
            elif kind == "wrong_answer":
                assert not verdict.correct and step == len(reference) - 1
            elif kind not in ("dropped_step",):
                wrong, true = parse_line(steps[step], task.style), parse_line(reference[step], task.style)
                assert wrong.result != true.result and wrong.number == true.number
    assert planted >= 40


def test_kinds_write_what_they_say():
    def lines(kind, step):
        return {TASKS["digits"].corrupt(key, PROBLEM, REFERENCE, kind, step)[step] for key in range(40)}
    assert lines("wrong_operator", 1) == {"2) 2 + 3 = 5", "2) 2 - 3 = 9"}
    assert lines("wrong_result", 1) == {"2) 2 * 3 = 5", "2) 2 * 3 = 9"}
    assert lines("off_by_one", 1) == {"2) 2 * 3 = 7", "2) 2 * 3 = 5"}
    assert lines("swapped_operand", 1) == {"2) 2 * 5 = 0"}  # "* 8" = 16 is right mod 10, so it is not planted
    assert lines("swapped_operand", 2) == {"3) 8 - 6 = 2", "3) 6 - 3 = 3"}
    assert lines("wrong_carry", 1) == {"2) 7 * 3 = 1", "2) 5 * 3 = 5"}
    assert lines("dropped_step", 1) == {"3) 2 - 8 = 4"}
    assert lines("repeated_step", 1) == {"1) 7 + 5 = 2"}
    assert "Answer: 6" in lines("wrong_answer", 3) and "Answer: 8" not in lines("wrong_answer", 3)
    assert set(PRMBENCH_CLASSES.values()) <= {"redundency", "circular", "counterfactual", "step_contradiction",
                                              "domain_inconsistency", "confidence", "missing_condition", "deception"}


def test_coincidences_are_not_planted():
    problem = Problem("c", "Start 2 1) * 2 (mod 2)", "0")  # modulo 2, + and - agree and 2 * 2 = 2 + 2
    task = TASKS["digits"]
    assert task.corrupt(0, problem, task.solve(problem), "wrong_operator", 0) is None
    assert task.corrupt(0, problem, task.solve(problem), "repeated_step", 0) is None


def test_corruption_continues_a_wrong_prefix():
    prefix = ("1) 7 + 5 = 3",)
    steps = TASKS["digits"].corrupt(0, PROBLEM, prefix, "repeated_step", 1)
    assert steps == ("1) 7 + 5 = 3", "1) 7 + 5 = 3", "2) 3 * 3 = 9", "3) 9 - 8 = 1", "Answer: 1")


@pytest.mark.parametrize(("kind", "step", "steps", "field"), [
    ("typo", 0, REFERENCE, "kind"), ("off_by_one", 4, REFERENCE, "step"), ("off_by_one", -1, REFERENCE, "step"),
    ("off_by_one", 1, ("what?",), "steps"), ("off_by_one", 2, REFERENCE[:1], "steps")])
def test_bad_corruptions_are_input_errors(kind, step, steps, field):
    with pytest.raises(InputError, match=f"field '{field}'"):
        TASKS["digits"].corrupt(0, PROBLEM, steps, kind, step)


def test_lines_parse_back():
    assert parse_line(" 1) 7 + 5 = 2 ", "digits") == Line(1, 7, "+", 5, 2)
    assert parse_line("Twenty-first, one-hundred-five minus zero is eleven.", "words") == Line(21, 105, "-", 0, 11)
    assert parse_line("1) 7 + 5 = " + "9" * 5000, "digits") is None


def test_expected_steps_by_hand():
    task = ArithmeticTask()
    problem = Problem("p", "Start 5 1) + 2 2) - 3 (mod 7)", "4")
    steps = ("1) 5 + 2 = 1", "2) 1 - 3 = 5", "Answer: 4", "Answer: 5")
    assert task.expected_steps(problem, steps) == ("1) 5 + 2 = 0", "2) 1 - 3 = 5", "Answer: 5", None)
    # A skipped step: what should stand there; then the solution goes on from what it wrote. Nonsense changes nothing.
    assert task.expected_steps(problem, ("2) 5 - 3 = 2", "Answer: 2")) == ("1) 5 + 2 = 0", "Answer: 2")
    assert task.expected_steps(problem, ("hm", "1) 5 + 2 = 0")) == ("1) 5 + 2 = 0", "1) 5 + 2 = 0")


@pytest.mark.parametrize("style", ["digits", "words"])
def test_a_step_is_valid_if_it_is_the_expected_one(style):
    task = ArithmeticTask(style=style)
    for key in range(300):
        problem = task.sample(key)
        steps = derive(key, problem, careless(key % 8, 0.06)).solution.steps
        expected = task.expected_steps(problem, steps)
        assert task.judge(problem, steps).valid == tuple(step == wanted for step, wanted in zip(steps, expected, strict=True))
