"""Labels from outcomes: copies, and the soft maximum of ER-PRM."""

import json
import math

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.labeling import entropic_value, outcome_labels


def test_outcome_is_copied_to_every_step():
    assert outcome_labels(3, True).values == (1.0, 1.0, 1.0) and outcome_labels(3, True).first_error == -1
    assert outcome_labels(2, False).values == (0.0, 0.0) and outcome_labels(2, False).first_error is None
    with pytest.raises(InputError, match="field 'steps' = 0: must be at least 1"):
        outcome_labels(0, True)


@pytest.mark.parametrize("eta, expected", [(0.1, 0.512495), (1, 0.620115), (2, 0.716890), (10, 0.930690)])
def test_golden_numbers(eta, expected):
    assert abs(entropic_value([1, 0, 0, 1], eta) - expected) < 1e-6


def test_limits_are_the_mean_and_the_best():
    rewards = [0.2, 0.9, 0.4]
    assert abs(entropic_value(rewards, 1e-6) - np.mean(rewards)) < 1e-6
    assert abs(entropic_value(rewards, 1e6) - 0.9) < 1e-5
    values = [entropic_value(rewards, eta) for eta in (0.1, 1, 10, 1000)]
    assert values == sorted(values) and entropic_value([0, 0], 5) == 0 and abs(entropic_value([1, 1], 5) - 1) < 1e-12


@pytest.mark.parametrize("rewards, eta, field", [([1], 0, "eta"), ([1], -1.0, "eta"), ([1], math.inf, "eta"),
                                                 ([], 1.0, "rewards"), ([math.nan], 1.0, "rewards")])
def test_bad_input(rewards, eta, field):
    with pytest.raises(InputError, match=f"field '{field}'"):
        entropic_value(rewards, eta)


def test_equals_the_code_of_er_prm(shared):
    """The reference rounds the labels of steps to three decimals and takes the answer for the last one."""
    cases = json.loads((shared / "fixtures/golden/misc_methods.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "er_prm_label"]
    assert len(cases) >= 5
    for case in cases:
        inputs = case["inputs"]
        np.testing.assert_allclose(entropic_value(inputs["rewards"], inputs["eta"]), case["outputs"]["soft_label"], rtol=1e-9)
        labels = [entropic_value(rewards, inputs["eta"]) for rewards in inputs["steps"]]
        np.testing.assert_allclose(case["outputs"]["step_labels_rounded"][:-1], labels, atol=5.1e-4)
        assert case["outputs"]["step_labels_rounded"][-1] == inputs["last_correct"]
