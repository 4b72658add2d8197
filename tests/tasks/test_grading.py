"""Answers that say the same."""

import json
import threading

import pytest

from jaxprm.errors import InputError
from jaxprm.tasks.grading import same_answer


@pytest.mark.parametrize(("given", "reference", "exact", "numeric"), [
    ("42", "42", True, True), (" 4  2 ", "4 2", True, True), ("42", "43", False, False), ("42.0", "42", False, True),
    ("1,234", "1234", False, True), ("1,23", "123", False, False), ("$5", "5", False, True), ("50%", "50", False, True),
    ("1/2", ".5", False, True), ("1/3", "0.333", False, False), ("1/0", "1", False, False), ("-7", "- 7", False, False),
    ("0.1", "0.10000000000000001", False, False), ("blue", "blue ", True, True), ("blue", "red", False, False),
    ("", "", True, True), (None, "1", False, False), ("1", None, False, False), (None, None, False, False)])
def test_kinds_by_hand(given, reference, exact, numeric):
    assert same_answer(given, reference) is exact
    assert same_answer(given, reference, "numeric") is numeric


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
