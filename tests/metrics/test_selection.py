"""Thresholds, selective answering, best-of-N by subsampling, paired tests."""

import itertools
import json

import numpy as np
import pytest

from jaxprm.metrics import (
    auroc,
    best_f1_threshold,
    bootstrap_mean,
    bootstrap_of_sums,
    confusion_at,
    coverage_at_risk,
    expected_best_of_n,
    interval_coverage,
    paired_difference,
    paired_test,
    risk_coverage,
    selective_accuracy,
    subsampled_best_of_n,
)
from jaxprm.metrics.subsampling import chance_of_best, random_subsets


def test_equals_the_published_metrics_of_five_prms(shared):
    cases = json.loads((shared / "fixtures/golden/binary_metrics.json").read_text())["cases"]
    published = [case for case in cases if case["inputs"]["kind"] == "published"]
    assert len(published) >= 5
    for case in published:
        for level in ("step_level", "instance_level"):
            labels, scores = np.array(case["inputs"][f"y_true_{level}"]), np.array(case["inputs"][f"y_pred_{level}"])
            for name in ("published", "recomputed"):
                theirs = case["outputs"][name][level]
                counts = confusion_at(scores, labels, theirs["threshold"])
                ours = {"auroc": auroc(scores, labels), "accuracy": counts.accuracy, "precision": counts.precision,
                        "recall": counts.recall, "f1": counts.f1}
                for key, value in ours.items():
                    assert value == pytest.approx(theirs[key], abs=1e-12)
            assert best_f1_threshold(scores, labels) == case["outputs"]["recomputed"][level]["best_f1_threshold_on_this_data"]


def test_equals_the_random_cases_but_for_labels_that_are_thresholded(shared):
    """The reference compares the labels with the threshold too, so below 0 and from 1 on it reports nonsense; empty
    denominators are 0 there and None here, its nan AUROC is None."""
    cases = json.loads((shared / "fixtures/golden/binary_metrics.json").read_text())["cases"]
    for case in [case for case in cases if case["inputs"]["kind"] == "random"]:
        scores, labels = np.array(case["inputs"]["y_pred"]), np.array(case["inputs"]["y_true"])
        threshold, theirs = case["inputs"]["threshold"], case["outputs"]
        assert auroc(scores, labels) == (None if theirs["auroc"] == "NaN" else pytest.approx(theirs["auroc"], abs=1e-12))
        assert best_f1_threshold(scores, labels) == pytest.approx(theirs["best_f1_threshold"], abs=1e-12)
        counts = confusion_at(scores, labels, threshold)
        if 0 <= threshold < 1:
            for name in ("accuracy", "precision", "recall", "f1"):
                assert (getattr(counts, name) or 0) == pytest.approx(theirs[name], abs=1e-12)
        else:
            assert counts.tp + counts.fn == labels.sum()


def test_confusion_by_hand():
    counts = confusion_at([0.9, 0.8, 0.5, 0.1], [1, 0, 1, 0], 0.5)
    assert (counts.tp, counts.fp, counts.tn, counts.fn) == (1, 1, 1, 1)
    assert counts.accuracy == counts.precision == counts.recall == counts.f1 == counts.negative.f1 == 0.5
    empty = confusion_at([], [], 0.5)
    assert empty.accuracy is empty.precision is empty.recall is empty.f1 is None
    nothing = confusion_at([0.1], [1], 0.5)
    assert nothing.precision is None and nothing.recall == 0 == nothing.f1


def test_risk_coverage_by_hand():
    curve = risk_coverage([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 1 / 3, 0.5])
    np.testing.assert_allclose(curve.threshold, [0.9, 0.8, 0.1])
    assert curve.area == pytest.approx((0 + 0.25 + 1 / 3 + 0.5) / 4)  # the tied pair answers 1.5 of 2 in expectation
    assert coverage_at_risk([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0], 1 / 3) == 0.75
    assert coverage_at_risk([0.9], [0], 0.1) == 0 and np.isnan(risk_coverage([], []).area)


def test_selective_accuracy_does_not_depend_on_the_order_of_ties():
    assert selective_accuracy([0.9, 0.5, 0.5], [1, 1, 0], 2 / 3) == 0.75
    assert selective_accuracy([0.5, 0.9, 0.5], [0, 1, 1], 2 / 3) == 0.75
    assert selective_accuracy([0.9, 0.5], [1, 0], 1.0) == 0.5 and selective_accuracy([0.9, 0.5], [1, 0], 0.01) == 1
    assert np.isnan(selective_accuracy([], [], 0.5))
    with pytest.raises(ValueError, match="coverage must be"):
        selective_accuracy([0.5], [1], 0)


def test_interval_coverage():
    assert interval_coverage([0, 0.5], [0.4, 0.9], [0.4, 0.2]) == 0.5 and np.isnan(interval_coverage([], [], []))
    with pytest.raises(ValueError, match="below its lower"):
        interval_coverage([0.5], [0.4], [0.4])
    with pytest.raises(ValueError, match="not a number"):
        interval_coverage([float("nan")], [0.4], [0.4])


def test_the_expectation_equals_all_subsets_with_ties():
    rng = np.random.default_rng(0)
    scores, correct = rng.integers(0, 4, (5, 7)) / 4, rng.random((5, 7)) < 0.4
    for size in range(1, 8):
        every = [[correct[row][list(chosen)][np.argmax(scores[row][list(chosen)])] for row in range(5)]
                 for chosen in itertools.combinations(range(7), size)]
        np.testing.assert_allclose(expected_best_of_n(scores, correct, size), np.mean(every, axis=0), atol=1e-12)
    assert chance_of_best(9, 4).sum() == pytest.approx(1)


def test_the_trials_agree_with_the_expectation():
    rng = np.random.default_rng(1)
    scores, correct = rng.random((40, 16)), rng.random((40, 16)) < 0.3
    trials = subsampled_best_of_n(scores, correct, 4, 0)
    assert len(trials.accuracy) == 400
    expected = expected_best_of_n(scores, correct, 4).mean()
    assert abs(trials.mean - expected) < 4 * trials.deviation / 20
    whole = subsampled_best_of_n(scores, correct, 16, 0, trials=3)
    np.testing.assert_allclose(whole.accuracy, expected_best_of_n(scores, correct, 16).mean(), rtol=1e-12)
    again = [subsampled_best_of_n(scores, correct, 4, 7, trials=3).mean for _ in range(2)]
    assert again[0] == again[1]
    subsets = random_subsets(np.random.default_rng(0), 50, 6, 3)
    assert all(len(set(row)) == 3 and (np.diff(row) > 0).all() for row in subsets)


@pytest.mark.parametrize("scores, correct, size, match", [
    ([[0.1, 0.2]], [[True]], 1, "one .problems, samples. shape"), ([[0.1]], [[True]], 2, "between 1 and the 1"),
    ([[float("nan")]], [[True]], 1, "not a number"), (np.zeros((0, 3)), np.zeros((0, 3)), 1, "no sample")])
def test_pools_that_do_not_fit(scores, correct, size, match):
    with pytest.raises(ValueError, match=match):
        expected_best_of_n(scores, correct, size)


def test_bootstrap_of_sums_equals_the_mean():
    rng = np.random.default_rng(2)
    values, groups = rng.random(60), rng.integers(0, 12, 60)
    share = lambda sums: sums[..., 0] / sums[..., 1]
    both = bootstrap_of_sums(np.stack([values, np.ones(60)], 1), share, groups, 3)
    mean = bootstrap_mean(values, groups, 3)
    np.testing.assert_allclose([both.mean, both.low, both.high], [mean.mean, mean.low, mean.high], rtol=1e-12)
    assert np.isnan(bootstrap_of_sums(np.zeros((0, 2)), share, [], 0).mean)


def test_paired_test():
    rng = np.random.default_rng(4)
    hard = rng.random(80)
    first, second = (rng.random(80) > hard - 0.25).astype(float), (rng.random(80) > hard).astype(float)
    columns = lambda values: np.stack([values, np.ones(80)], 1)
    share = lambda sums: sums[..., 0] / sums[..., 1]
    test = paired_test(columns(first), columns(second), share, np.arange(80), 0, resamples=2000)
    plain = paired_difference(first, second, np.arange(80), 0, resamples=2000)
    np.testing.assert_allclose([test.difference.low, test.difference.high], [plain.low, plain.high], rtol=1e-12)
    assert test.groups == 80 and (test.p_value < 0.05) == (test.difference.low > 0 or test.difference.high < 0)
    reverse = paired_test(columns(second), columns(first), share, np.arange(80), 0, resamples=2000)
    assert reverse.p_value == test.p_value and reverse.difference.mean == -test.difference.mean
    same = paired_test(columns(first), columns(first), share, np.arange(80), 0, resamples=200)
    assert same.p_value == 1 and same.difference.mean == 0
    with pytest.raises(ValueError, match="one shape"):
        paired_test(first, second[:3], share, np.arange(80), 0)


def test_the_paired_test_keeps_its_level():
    """Two equal methods: p below .1 in about a tenth of the data sets."""
    share = lambda sums: sums[..., 0] / sums[..., 1]
    rng = np.random.default_rng(5)
    low = 0
    for trial in range(200):
        hard = rng.random(60)
        values = [np.stack([(rng.random(60) > hard).astype(float), np.ones(60)], 1) for _ in range(2)]
        low += paired_test(*values, share, np.arange(60), trial, resamples=300).p_value < 0.1
    assert 8 <= low <= 36
