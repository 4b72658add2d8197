import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxprm.metrics import auroc, auroc_within_position, average_precision, brier, expected_calibration_error, f1_at


def sample(seed, size=200, levels=12):
    """Scores with many ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < 0.4
    return (rng.integers(0, levels, size) + 3 * labels) / (levels + 3), labels


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_with_ties(seed):
    scores, labels = sample(seed)
    assert auroc(scores, labels) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    precision = sklearn_metrics.average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(precision, abs=1e-12)
    assert brier(scores, labels) == pytest.approx(sklearn_metrics.brier_score_loss(labels, scores), abs=1e-12)
    assert f1_at(scores, labels, 0.4) == pytest.approx(sklearn_metrics.f1_score(labels, scores > 0.4), abs=1e-12)


def test_auroc_by_hand():
    assert auroc([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert auroc([4, 3, 2, 1], [0, 0, 1, 1]) == 0
    assert auroc([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5
    assert auroc([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]) == (1 + 0.5 + 2) / 4
    assert auroc([-1e300, 1e300], [False, True]) == 1


def test_one_class_or_nothing_is_undefined_not_a_number():
    assert auroc([0.1, 0.2], [1, 1]) is None and auroc([0.1], [0]) is None and auroc([], []) is None
    assert average_precision([0.3], [0]) is None and average_precision([0.3], [1]) == 1
    assert f1_at([0.3], [0], 0.5) == 0
    assert np.isnan(brier([], [])) and np.isnan(expected_calibration_error([], []).error)


@pytest.mark.parametrize(
    "scores, labels", [([0.1], [0, 1]), ([[0.1]], [[1]]), ([np.nan, 0.2], [0, 1]), ([0.1, 0.2], [0, 0.5])]
)
def test_bad_input_raises(scores, labels):
    for metric in (auroc, average_precision):
        with pytest.raises(ValueError):
            metric(scores, labels)
    with pytest.raises(ValueError):
        brier([1.2], [1])


def test_a_reader_of_position_has_exactly_one_half_within_position():
    rng = np.random.default_rng(0)
    positions = rng.integers(0, 5, 500)
    labels = rng.random(500) < 0.9 - 0.15 * positions
    reader = -positions.astype(float)
    assert auroc(reader, labels) > 0.65
    assert auroc_within_position(reader, labels, positions).mean == 0.5


def test_within_position_is_the_share_of_right_pairs_and_its_table_adds_up():
    rng = np.random.default_rng(1)
    positions, labels = rng.integers(0, 4, 60), rng.random(60) < 0.5
    scores = rng.integers(0, 9, 60) + labels
    right = pairs = 0
    for i in np.flatnonzero(labels):
        for j in np.flatnonzero(~labels):
            if positions[i] == positions[j]:
                pairs += 1
                right += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    result = auroc_within_position(scores, labels, positions)
    assert result.mean == pytest.approx(right / pairs, abs=1e-12)
    assert result.pairs.sum() == pairs and list(result.positions) == sorted(set(positions))
    for position, value in zip(result.positions, result.values):
        assert value == auroc(scores[positions == position], labels[positions == position])


def test_positions_with_one_class_have_no_part():
    result = auroc_within_position([0.1, 0.9, 0.5, 0.6], [0, 1, 1, 1], [0, 0, 1, 1])
    assert (result.mean, list(result.positions), list(result.pairs)) == (1.0, [0], [1])
    empty = auroc_within_position([0.5, 0.6], [1, 1], [0, 1])
    assert empty.mean is None and len(empty.positions) == 0
    with pytest.raises(ValueError):
        auroc_within_position([0.5], [1], [0, 1])


def test_calibration_by_hand():
    result = expected_calibration_error([0.0, 0.05, 0.5, 0.55, 1.0], [0, 1, 1, 0.5, 1], bins=10)
    assert list(result.count) == [2, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert result.confidence[[0, 5, 9]] == pytest.approx([0.025, 0.525, 1.0])
    assert result.accuracy[[0, 5, 9]] == pytest.approx([0.5, 0.75, 1.0])
    assert np.isnan(result.confidence[1]) and np.isnan(result.accuracy[1])
    assert result.error == pytest.approx((2 * 0.475 + 2 * 0.225 + 0) / 5)
    assert result.edges == pytest.approx(np.arange(11) / 10)


def test_calibration_of_calibrated_and_overconfident_probabilities():
    rng = np.random.default_rng(2)
    p = rng.random(20000)
    labels = rng.random(20000) < p
    assert expected_calibration_error(p, labels).error < 0.02
    assert expected_calibration_error(np.round(p), labels).error == pytest.approx(0.25, abs=0.01)
    assert brier(p, labels) == pytest.approx(1 / 6, abs=0.01)
    with pytest.raises(ValueError):
        expected_calibration_error(p, labels, bins=0)


def test_equals_published_numbers_of_real_reward_models(shared):
    cases = json.loads((shared / "fixtures/golden/binary_metrics.json").read_text())["cases"]
    for case in cases:
        inputs, outputs = case["inputs"], case["outputs"]
        if inputs["kind"] == "published":
            for level in ("instance_level", "step_level"):
                labels, scores = inputs[f"y_true_{level}"], inputs[f"y_pred_{level}"]
                expected = outputs["recomputed"][level]
                assert auroc(scores, labels) == pytest.approx(expected["auroc"], abs=1e-12)
                if 0 <= expected["threshold"] < 1:
                    assert f1_at(scores, labels, expected["threshold"]) == pytest.approx(expected["f1"], abs=1e-12)
        elif set(inputs["y_true"]) <= {0, 1}:
            value = auroc(inputs["y_pred"], inputs["y_true"])
            assert value is None if outputs["auroc"] == "NaN" else value == pytest.approx(outputs["auroc"], abs=1e-12)
            if 0 <= inputs["threshold"] < 1:
                value = f1_at(inputs["y_pred"], inputs["y_true"], inputs["threshold"])
                assert value == pytest.approx(outputs["f1"], abs=1e-12)
