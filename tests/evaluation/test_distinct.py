from jaxprm.evaluation.distinct import distinct_steps
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels


def _item(steps, labels, prompt="x"):
    labels = None if labels is None else StepLabels(tuple(labels))
    return LabeledSolution("id", Solution(Problem("id", prompt), tuple(steps)), labels)


def test_the_longest_row_stands_for_a_prefix():
    items = [_item("ab", (1, 0)), _item("ac", (1, 1)), _item("abd", (1, 0, 1))]
    assert distinct_steps(items) == [(2, 0), (2, 1), (2, 2), (1, 1)]


def test_the_same_text_elsewhere_is_another_step():
    # Another prompt, another place, another step before it, or another cut between steps.
    items = [_item("aa", (1, 1)), _item("a", (1,), prompt="y"), _item("ba", (0, 1)), _item(["aa"], (1,))]
    assert len(distinct_steps(items)) == 6


def test_steps_without_a_verdict_are_not_counted():
    assert distinct_steps([_item("ab", (None, 1)), _item("ab", (1, 1)), _item("c", None)]) == [(0, 1), (1, 0)]
