import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from jaxprm.metrics import brier, expected_calibration_error
from jaxprm.scoring.budgets import chance_of_success, samples_needed
from jaxprm.scoring.calibration import (
    Temperature,
    as_dict,
    fit_isotonic,
    fit_platt,
    fit_quantile_bins,
    fit_quantile_shift,
    fit_temperature,
    from_dict,
    logit,
    odds_weights,
)

FITS = {"temperature": fit_temperature, "platt": lambda p, y: fit_platt(p, y, of_logit=True), "isotonic": fit_isotonic,
        "bins": fit_quantile_bins}


def overconfident(count, seed=0, temperature=3.0):
    """Scores whose logits are three times too large, and labels drawn from the right ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 1.5, count)
    labels = rng.random(count) < 1 / (1 + np.exp(-logits))
    return 1 / (1 + np.exp(-temperature * logits)), labels.astype(float)


def test_the_planted_temperature_is_found():
    scores, labels = overconfident(20_000)
    assert fit_temperature(scores, labels).temperature == pytest.approx(3.0, rel=0.05)
    platt = fit_platt(scores, labels, of_logit=True)
    assert platt.slope == pytest.approx(1 / 3, rel=0.05) and platt.offset == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("name", FITS)
def test_every_map_repairs_scores_of_other_problems(name):
    scores, labels = overconfident(4000)
    new, truth = overconfident(4000, seed=1)
    calibrator = FITS[name](scores, labels)
    fixed = calibrator(new)
    assert expected_calibration_error(fixed, truth).error < 0.05 < expected_calibration_error(new, truth).error
    assert brier(fixed, truth) < brier(new, truth)
    assert (np.diff(calibrator(np.linspace(0, 1, 101))) >= (-1e-12 if name != "bins" else -0.1)).all()
    again = from_dict(json.loads(json.dumps(as_dict(calibrator))))
    assert again == calibrator
    assert float(calibrator(0.5)) == calibrator([0.5])[0]
    assert np.isnan(calibrator([np.nan])).all() and calibrator(np.full((2, 3), 0.5)).shape == (2, 3)


def test_isotonic_equals_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 30, 400) / 30
    labels, weights = (rng.random(400) < scores).astype(float), rng.random(400)
    ours = fit_isotonic(scores, labels, weights)
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels, sample_weight=weights)
    grid = np.linspace(-0.2, 1.2, 300)
    np.testing.assert_allclose(ours(grid), theirs.predict(grid), atol=1e-9)
    assert len(ours.scores) < 30 and fit_isotonic([0.3], [1]).probabilities == (1.0,)
    assert fit_isotonic([0.1, 0.2], [1, 0])([0.0, 0.15, 1.0]).tolist() == [0.5] * 3


def test_platt_equals_logistic_regression_on_its_targets():
    rng = np.random.default_rng(4)
    values = rng.normal(5, 20, 500)
    labels = (rng.random(500) < 1 / (1 + np.exp(-(values - 5) / 10))).astype(float)
    ours = fit_platt(values, labels)
    positive, negative = labels.sum(), (1 - labels).sum()
    targets = np.where(labels > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    both = np.concatenate([values, values])[:, None]
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        both, np.repeat([1, 0], 500), sample_weight=np.concatenate([targets, 1 - targets]))
    assert ours.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-4)
    assert ours.offset == pytest.approx(theirs.intercept_[0], rel=1e-4, abs=1e-4)


def test_separable_and_hopeless_data_stay_finite():
    right = fit_temperature([0.9, 0.1], [1, 0])
    assert right.temperature == pytest.approx(0.01) and np.isfinite(right([0.0, 1.0])).all()
    assert fit_temperature([0.9, 0.1], [0, 1]).temperature == pytest.approx(100)
    platt = fit_platt([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert np.isfinite([platt.slope, platt.offset]).all() and platt.slope > 0
    assert fit_platt([0.5, 0.5, 0.5], [1, 1, 0])([0.5])[0] == pytest.approx((2 * 3 / 4 + 1 / 3) / 3, abs=1e-6)
    assert Temperature(2.0)([0.0, 1.0]).tolist() == pytest.approx([3.16e-4, 1 - 3.16e-4], abs=1e-6)


def test_quantile_bins_by_hand():
    bins = fit_quantile_bins([0.1, 0.2, 0.3, 0.4], [0, 1, 1, 1], bins=2)
    assert bins([0.0, 0.29, 0.3, 1.0]).tolist() == [0.5, 0.5, 1, 1]
    assert fit_quantile_bins([0.5] * 9, [1] * 6 + [0] * 3).probabilities == (pytest.approx(2 / 3),)
    with pytest.raises(ValueError, match="bins must be"):
        fit_quantile_bins([0.5], [1], bins=0)


def test_the_shifted_quantile_covers_what_it_says():
    rng = np.random.default_rng(6)
    truth = rng.random(3000)
    predicted = truth + rng.normal(0.2, 0.1, 3000)  # too high by .2
    shift = fit_quantile_shift(predicted[:500], truth[:500], 0.1)
    assert np.mean(truth[500:] >= predicted[500:] + shift) == pytest.approx(0.9, abs=0.03)
    assert fit_quantile_shift([0.5] * 9, [0.4] * 9, 0.1) == pytest.approx(-0.1)
    assert fit_quantile_shift([0.5] * 5, [0.5] * 5, 0.1) == -np.inf
    with pytest.raises(ValueError, match="level in"):
        fit_quantile_shift([0.5], [0.5], 1.0)


@pytest.mark.parametrize("scores, labels, weights, match", [
    ([], [], None, "not empty"), ([0.5], [1, 0], None, "equal lists"), ([float("inf")], [1], None, "not finite"),
    ([0.5], [2], None, "outside .0, 1."), ([0.5], [1], [0.0], "not all zero"), ([0.5], [1], [-1.0], "not negative")])
def test_bad_data(scores, labels, weights, match):
    for fit in (fit_temperature, fit_platt, fit_isotonic):
        with pytest.raises(ValueError, match=match):
            fit(scores, labels, weights)


def test_raw_values_are_no_probabilities_and_files_are_checked():
    with pytest.raises(ValueError, match="no probability"):
        fit_temperature([1.5], [1])
    with pytest.raises(ValueError, match="'Sharpen'; use one of Temperature, Platt, Isotonic, QuantileBins"):
        from_dict({"kind": "Sharpen"})
    with pytest.raises(ValueError, match="Temperature has the fields temperature, not slope"):
        from_dict({"kind": "Temperature", "slope": 1.0})


def test_odds_weights_equal_its_hub(shared):
    cases = json.loads((shared / "fixtures/golden/its_hub.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "particle_weights"]
    assert len(cases) >= 5
    for case in cases:
        np.testing.assert_allclose(logit(case["inputs"]["scores"]), case["outputs"]["log_weights"], rtol=1e-9)
        np.testing.assert_allclose(odds_weights(case["inputs"]["scores"]), case["outputs"]["probabilities"], rtol=1e-9)


def test_budgets_by_hand_and_at_the_edges():
    assert samples_needed([0.5, 0.1, 0.0, 1.0], 0.99, 32).tolist() == [7, 32, 32, 1]
    assert samples_needed([0.1], 0.99, 100).tolist() == [44] and samples_needed(0.5, 0.75, 9) == 2  # exactly 2
    assert samples_needed([0.3], 0.0, 5).tolist() == [1] and samples_needed([1e-300], 0.9, 7).tolist() == [7]
    assert samples_needed([1 - 1e-16, 0.999999], 0.5, 7).tolist() == [1, 1]
    for success in (0.03, 0.2, 0.77):
        needed = int(samples_needed(success, 0.95, 1000))
        assert chance_of_success(success, needed) >= 0.95 > chance_of_success(success, needed - 1)
    assert chance_of_success(1.0, 1) == 1 and chance_of_success(0.0, 5) == 0 and chance_of_success(0.5, 0) == 0
    for arguments, match in (((1.1, 0.5, 3), "outside"), ((np.nan, 0.5, 3), "outside"), ((0.5, 1.0, 3), "below 1"),
                             ((0.5, 0.5, 0), "limit must be")):
        with pytest.raises(ValueError, match=match):
            samples_needed(*arguments)
