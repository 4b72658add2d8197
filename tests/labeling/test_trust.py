"""The rule by which an ensemble labels what it is sure about."""

import json

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.labeling import trust


def logit(p):
    return np.log(p) - np.log1p(-np.asarray(p, float))


def test_by_hand():
    p = np.array([[[0.99, 0.99], [0.01, 0.01], [0.5, 0.5]],  # sure up to its error, in doubt behind it
                  [[0.99, 0.99], [0.9, 0.9], [0.99, 0.99]],  # a step that is not confident
                  [[0.99, 0.97], [0.99, 0.99], [0.99, 0.99]],  # members that differ
                  [[0.99, 0.99], [0.6, 0.1], [0.6, 0.1]]])  # the doubtful places hold no step
    mask = np.ones((4, 3), bool)
    mask[3, 1:] = False
    found = trust(logit(p), mask, max_deviation=0.01, confidence=0.95)
    assert found.trusted.tolist() == [True, False, False, True]
    assert found.mask.tolist() == [[True, True, False], [True] * 3, [True] * 3, [True, False, False]]
    assert (found.labels[found.mask] == [1, 0, 1, 1, 1, 1, 1, 1, 1]).all()
    np.testing.assert_allclose(found.deviation[2, 0], 0.02 / np.sqrt(2))
    assert trust(logit(p), mask, max_deviation=0.02, confidence=0.9).trusted.all()


def test_places_without_a_step_are_never_read():
    outputs = np.full((1, 2, 2), np.nan)
    outputs[0, 0] = 9
    found = trust(outputs, np.array([[True, False]]))
    assert found.trusted.all() and np.isfinite(found.mean).all()


def test_bad_thresholds():
    with pytest.raises(InputError, match="field 'confidence' = 0.4: must be in"):
        trust(np.zeros((1, 1, 2)), np.ones((1, 1), bool), confidence=0.4)
    with pytest.raises(InputError, match="field 'max_deviation' = -0.1: must not be negative"):
        trust(np.zeros((1, 1, 2)), np.ones((1, 1), bool), max_deviation=-0.1)


def test_equals_the_code_of_actprm(shared):
    cases = json.loads((shared / "fixtures/golden/misc_methods.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "actprm_trust"]
    assert len(cases) >= 4
    for case in cases:
        inputs, expected = case["inputs"], case["outputs"]
        outputs = np.moveaxis(np.array(inputs["logits"]), 0, -1)
        mask = np.array(inputs["labels"]) != -100
        found = trust(outputs, mask, max_deviation=inputs["std_threshold"], confidence=inputs["pred_threshold"])
        np.testing.assert_allclose(found.mean[mask], np.array(expected["mean"])[mask], atol=1e-6)
        np.testing.assert_allclose(found.deviation[mask], np.array(expected["std"])[mask], atol=1e-6)
        assert (np.where(found.mask, found.labels, -100) == np.array(expected["pseudo_labels"])).all()
        assert found.trusted.tolist() == expected["trusted"]
