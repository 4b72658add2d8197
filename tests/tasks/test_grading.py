"""Answers that say the same."""

import json
import threading

import pytest

from jaxprm.errors import InputError
from jaxprm.tasks.grading import answer_classes, choice_letter, same_answer, same_math


@pytest.mark.parametrize(("given", "reference", "exact", "numeric"), [
    ("42", "42", True, True), (" 4  2 ", "4 2", True, True), ("42", "43", False, False), ("42.0", "42", False, True),
    ("1,234", "1234", False, True), ("1,23", "123", False, False), ("$5", "5", False, True), ("50%", "50", False, True),
    ("1/2", ".5", False, True), ("1/3", "0.333", False, False), ("1/0", "1", False, False), ("-7", "- 7", False, False),
    ("0.1", "0.10000000000000001", False, False), ("blue", "blue ", True, True), ("blue", "red", False, False),
    ("", "", True, True), (None, "1", False, False), ("1", None, False, False), (None, None, False, False)])
def test_kinds_by_hand(given, reference, exact, numeric):
    assert same_answer(given, reference) is exact
    assert same_answer(given, reference, "numeric") is numeric


@pytest.mark.parametrize(("text", "letter"), [
    ("B", "B"), ("(b)", "B"), ("B.", "B"), ("B) 12 apples", "B"), ("\\boxed{B}", "B"), ("\\boxed{\\text{(B)}}", "B"),
    ("The answer is B", "B"), ("Answer: (C)", "C"), ("option d", "D"), ("**E**", "E"), ("$\\textbf{(A)}$", "A"), ("a", "A"),
    ("A. cat", "A"), ("C 12", "C"), ("a cat", None), ("A cat", None), ("I think", None), ("cab", None), ("12", None),
    ("", None), ("answer", None), ("isotope", None), ("B or C", None), ("A, B", None), ("(b) and (c)", None), ("A, cat", "A"),
    ("B) x or y", "B")])
def test_choice_letters(text, letter):
    assert choice_letter(text) == letter


def test_choices_are_compared_by_letter_and_other_texts_exactly():
    assert same_answer("(b) 12", "B", "choice") and not same_answer("(b) 12", "C", "choice")
    assert same_answer("12", "12", "choice") and not same_answer("12", "13", "choice")


def test_answer_classes():
    assert answer_classes(["1/2", None, "0.5", "3", ".5"], "numeric") == [0, None, 0, 1, 0]
    assert answer_classes([]) == [] and answer_classes([None]) == [None]
    assert answer_classes(["\\frac{1}{2}", "x+1", "0.5", "1+x"], "math") == [0, 1, 0, 1]


def test_unknown_kind(without_type_checks):
    with pytest.raises(InputError, match="field 'kind' = 'fuzzy'"):
        same_answer("1", "1", "fuzzy")


def test_math_by_hand():
    assert same_answer("\\frac{1}{2}", "0.5", "math") and same_answer("x + 1", "1 + x", "math")
    assert not same_answer("x + 1", "x - 1", "math") and not same_answer(None, "1", "math")


def test_math_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(same_answer("\\frac{1}{2}", "0.5", "math")))
    thread.start()
    thread.join()
    assert results == [True]


def test_math_agrees_with_the_graders_of_the_field(shared):
    cases = json.loads((shared / "fixtures" / "golden" / "answer_grading.json").read_text())["cases"]
    unanimous = [case for case in cases if case["outputs"]["unanimous"] is True]
    assert len(unanimous) >= 50
    wrong = [case["inputs"] for case in unanimous
             if same_answer(case["inputs"]["given"], case["inputs"]["reference"], "math")
             != case["outputs"]["math_verify_0_9_0"]]
    assert wrong == []


def test_agreement_with_the_whole_table_of_verdicts(shared):
    """Where graders disagree, ours is math-verify's, but for a dollar sign (\\$5 is 5)."""
    cases = json.loads((shared / "fixtures" / "golden" / "answer_grading.json").read_text())["cases"]
    verdicts = [same_answer(case["inputs"]["given"], case["inputs"]["reference"], "math") for case in cases]
    agreed = {name: sum(verdict == case["outputs"][name] for verdict, case in zip(verdicts, cases))
              for name in ("math_verify_0_9_0", "qwen_math_equal_after_strip_string", "prm800k_grade_answer")}
    assert len(cases) == 101 and agreed["math_verify_0_9_0"] >= 100 and min(agreed.values()) >= 70, agreed
    others = [case["inputs"]["given"] for verdict, case in zip(verdicts, cases)
              if verdict != case["outputs"]["math_verify_0_9_0"]]
    assert others in ([], ["\\$5"])


def test_answer_classes_equal_those_of_search_and_learn(shared):
    """But for the texts where it is wrong: a set does not change with its order, 1 1/2 is 3/2, and yes is yes."""
    cases = json.loads((shared / "fixtures" / "golden" / "search_and_learn.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "canonical_form"]
    assert len(cases) >= 10
    right = {("\\{1,2\\}", "\\{2,1\\}"): [0, 0], ("1 \\frac{1}{2}", "\\frac{3}{2}"): [0, 0],
             ("\\text{yes}", "yes"): [0, 0]}
    for case in cases:
        answers = case["inputs"]["answers"]
        assert answer_classes(answers, "math") == right.get(tuple(answers), case["outputs"]["class_of"]), answers


def test_math_verify_gives_the_verdicts_of_its_authors(shared):
    cases = json.loads((shared / "fixtures" / "golden" / "math_verify_suite.json").read_text())["cases"]
    assert len(cases) >= 100
    wrong = []
    for case in cases:
        inputs, options = case["inputs"], {"boxed_first": case["inputs"]["mode"] == "compare_strings"}
        names = {"precision": "precision", "strict": "strict", "allow_set_relation_comp": "set_relations"}
        options |= {names[key]: value for key, value in inputs["options"].items() if key in names}
        if "match_types" in inputs["options"]:
            kinds = inputs["options"]["match_types"]
            options |= {"latex": "latex" in kinds, "plain": "expr" in kinds}
        if same_math(inputs["pred"], inputs["gold"], **options) != bool(case["outputs"]["expected"]):
            wrong.append((case["id"], inputs["gold"], inputs["pred"][-80:]))
    assert wrong == []
