"""Host examples: their fields, and what is refused, cut or left out."""

import pytest

from jaxprm.data.examples import (
    FitCounts,
    encode_solutions,
    fit_language_model_examples,
    language_model_example,
    step_example,
)
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels


def test_step_example():
    example = step_example([5, 6, 7, 8], [1, 3], StepLabels((None, 0.25)), weight=2.0)
    assert {name: (array.tolist(), array.dtype.name) for name, array in example.items()} == {
        "tokens": ([5, 6, 7, 8], "int32"), "step_ends": ([1, 3], "int32"), "labels": ([0.0, 0.25], "float32"),
        "label_mask": ([False, True], "bool"), "weights": ([2.0, 2.0], "float32")}
    assert step_example([5, 6], [1])["label_mask"].tolist() == [False]


@pytest.mark.parametrize(("arguments", "message"), [
    (([5, 6], [], None), "has no steps"),
    (([5, 6], [1], [1.0, 0.0]), "has 2 labels for 1 steps"),
    (([5, 6], [2], None), "must increase and lie inside the 2 tokens"),
    (([5, 6], [-1], None), "must increase and lie inside"),
    (([5, 6, 7], [1, 1], None), "must increase and lie inside"),
    (([5, 6], [1], [1.5]), r"must be in \[0, 1\]"),
    (([5, 6], [1], [float("nan")]), r"must be in \[0, 1\]"),
    (([5, 6], [1], [1.0], -1.0), "must be finite and not negative"),
])
def test_step_example_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        step_example(*arguments)


def test_fit_language_model_examples():
    example = language_model_example([1, 2], [3, 4])
    assert example["loss_mask"].tolist() == [False, False, True, True]
    (cut,), counts = fit_language_model_examples([example], 3, "truncate")
    assert cut["tokens"].tolist() == [1, 2, 3] and counts == FitCounts(truncated=1)
    assert fit_language_model_examples([example], 2, "truncate")[1] == FitCounts(dropped=1)
    with pytest.raises(InputError, match="example 0 has 4 tokens"):
        fit_language_model_examples([example], 3)
    with pytest.raises(InputError, match="is empty"):
        language_model_example([1], [])


def test_encode_solutions_names_the_solution():
    def encode(prompt, steps):
        if "bad" in steps:
            raise InputError("is an empty step", field="step")
        return list(range(2 + len(steps))), list(range(2, 2 + len(steps)))

    good = LabeledSolution("a", Solution(Problem("p", "Q"), ("x", "y")), StepLabels((1.0, None)))
    (example,) = encode_solutions([good], encode)
    assert example["step_ends"].tolist() == [2, 3] and example["label_mask"].tolist() == [True, False]
    with pytest.raises(InputError, match="solution 'b': field 'step': is an empty step"):
        encode_solutions([LabeledSolution("b", Solution(Problem("p", "Q"), ("bad",)))], encode)
