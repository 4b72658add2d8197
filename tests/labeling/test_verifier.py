"""Labels from the verifier."""

import pytest

from jaxprm.errors import InputError
from jaxprm.labeling.verifier import VerifierLabeler
from jaxprm.records import Problem, Solution, StepLabels
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.tasks.countdown import CountdownTask
from jaxprm.tasks.misconceptions import derive

PROBLEM = Problem("p", "Start 7 1) + 5 2) * 3 3) - 8 (mod 10)", "8")
# A misread step, a consistent one, another slip, a consistent answer.
WRONG = Solution(PROBLEM, ("1) 7 + 5 = 2", "2) 2 + 3 = 5", "3) 5 - 8 = 7", "Answer: 6"))


@pytest.mark.parametrize(("after_error", "values"), [
    ("bad", (1.0, 0.0, 0.0, 0.0)), ("ignore", (1.0, 0.0, None, None)), ("local", (1.0, 0.0, 1.0, 0.0))])
def test_policies_by_hand(after_error, values):
    labels = VerifierLabeler(ArithmeticTask(), after_error)(0, [PROBLEM], [WRONG])
    assert labels == [StepLabels(values, 1, f"verifier ArithmeticTask; after_error={after_error}", {})]


def test_a_dead_end_is_an_error_under_every_policy():
    problem = Problem("c", "Reach 24 from 4 5 6 10")
    solution = Solution(problem, ("10 - 4 = 6 (left: 5 6 6)", "6 / 6 = 1 (left: 1 5)", "1 * 5 = 5 (left: 5)"))
    for after_error, last in (("bad", 0.0), ("ignore", None), ("local", 1.0)):
        assert VerifierLabeler(CountdownTask(), after_error)(0, [problem], [solution])[0].values == (1.0, 0.0, last)


def test_labels_are_exact_on_derivations():
    task = ArithmeticTask()
    problems = [task.sample(key) for key in range(200)]
    derivations = [derive(key, problem) for key, problem in enumerate(problems)]
    labels = VerifierLabeler(task)(None, problems, [derivation.solution for derivation in derivations])
    for derivation, label in zip(derivations, labels, strict=True):
        first = derivation.planted[0][0] if derivation.planted else len(derivation.solution.steps)
        assert label.values == tuple(float(step < first) for step in range(len(derivation.solution.steps)))
        assert label.first_error == (derivation.planted[0][0] if derivation.planted else -1)


def test_edges():
    labeler = VerifierLabeler(ArithmeticTask())
    assert labeler(0, [], []) == []
    assert labeler(0, [PROBLEM], [Solution(PROBLEM, ())])[0].values == ()
    with pytest.raises(InputError, match="field 'solutions': has 1 rows for 2 problems"):
        labeler(0, [PROBLEM, PROBLEM], [WRONG])


def test_bad_policy(without_type_checks):
    with pytest.raises(InputError, match="field 'after_error' = 'keep'"):
        VerifierLabeler(ArithmeticTask(), "keep")
