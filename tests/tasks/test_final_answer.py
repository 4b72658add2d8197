"""Where the final answer of a text is."""

import pytest

from jaxprm.tasks.final_answer import final_answer


@pytest.mark.parametrize(("steps", "answer"), [
    (["so 3", "Answer: 3"], "3"), (["Answer: 2", "no, Answer:  4 \nqed"], "4"),
    (["thus \\boxed{\\frac{1}{2}}."], "\\frac{1}{2}"),
    (["Answer: 3, so \\boxed{ 4 }"], "4"), (["\\boxed{1} and \\boxed{2}"], "2"), (["\\boxed{never closed", "Answer: 5"], "5"),
    (["so 3"], None), (["Answer:"], None), ([], None)])
def test_final_answer(steps, answer):
    assert final_answer(steps) == answer


def test_other_markers():
    assert final_answer(["#### 7"], "####") == "7" and final_answer(["Answer: 3"], "") is None
