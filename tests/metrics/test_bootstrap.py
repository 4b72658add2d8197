import numpy as np
import pytest

from jaxprm.metrics import (
    Interval,
    auroc,
    auroc_within_position,
    bootstrap_auroc,
    bootstrap_interval,
    bootstrap_mean,
    paired_difference,
)


def test_the_interval_of_a_mean_is_that_of_the_normal_theory():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap_mean(values, np.arange(400), 0, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.mean == values.mean()
    assert [interval.low, interval.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.03)
    narrow = bootstrap_mean(values, np.arange(400), 0, resamples=4000, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * values.std() / np.sqrt(400), abs=0.02)


def test_repeated_rows_of_a_group_add_no_confidence():
    values = np.random.default_rng(1).random(50)
    once = bootstrap_mean(values, np.arange(50), 3)
    often = bootstrap_mean(np.repeat(values, 20), np.repeat(np.arange(50), 20), 3)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-12)
    rows = bootstrap_mean(np.repeat(values, 20), np.arange(1000), 3)
    assert rows.high - rows.low < 0.4 * (once.high - once.low)


def test_the_vectorised_mean_equals_the_general_one():
    rng = np.random.default_rng(2)
    values, groups = rng.random(60), rng.integers(0, 12, 60).astype(str)
    general = bootstrap_interval(lambda rows: values[rows].mean(), groups, (4, 5))
    fast = bootstrap_mean(values, groups, (4, 5))
    assert (general.mean, general.low, general.high) == pytest.approx((fast.mean, fast.low, fast.high), abs=1e-12)


@pytest.mark.parametrize("within", [False, True])
def test_the_vectorised_auroc_equals_the_general_one(within, monkeypatch):
    rng = np.random.default_rng(3)
    groups, positions, labels = rng.integers(0, 30, 200), rng.integers(0, 4, 200), rng.random(200) < 0.5
    scores = rng.integers(0, 6, 200) + labels

    def statistic(rows):
        if within:
            return auroc_within_position(scores[rows], labels[rows], positions[rows]).mean
        return auroc(scores[rows], labels[rows])

    monkeypatch.setattr("jaxprm.metrics.bootstrap.BLOCK", 200 * 7)
    general = bootstrap_interval(statistic, groups, 5, resamples=100)
    fast = bootstrap_auroc(scores, labels, groups, 5, positions=positions if within else None, resamples=100)
    assert (general.mean, general.low, general.high) == pytest.approx((fast.mean, fast.low, fast.high), abs=1e-12)
    assert general.low < general.mean < general.high


def test_a_paired_difference_cancels_what_is_common():
    rng = np.random.default_rng(4)
    hard = 10 * rng.standard_normal(100)
    first, second = hard + 0.5 + 0.1 * rng.standard_normal(100), hard
    groups = np.arange(100)
    paired = paired_difference(first, second, groups, 0)
    assert 0.45 < paired.low < paired.mean < paired.high < 0.55
    assert bootstrap_mean(first, groups, 0).low < bootstrap_mean(second, groups, 0).high
    with pytest.raises(ValueError):
        paired_difference(first, second[:-1], groups, 0)


def test_same_key_same_interval_other_key_another():
    values = np.random.default_rng(5).random(30)
    assert bootstrap_mean(values, np.arange(30), (1, 2)) == bootstrap_mean(values, np.arange(30), (1, 2))
    assert bootstrap_mean(values, np.arange(30), (1, 2)) != bootstrap_mean(values, np.arange(30), (1, 3))


def test_undefined_statistics_are_nan_and_undefined_resamples_left_out():
    one_class = bootstrap_auroc([0.1, 0.2], [1, 1], [0, 1], 0)
    assert all(np.isnan([one_class.mean, one_class.low, one_class.high]))
    assert np.isnan(bootstrap_interval(lambda rows: None, [0, 1], 0).mean)
    assert np.isnan(bootstrap_mean([], [], 0).mean) and np.isnan(bootstrap_auroc([], [], [], 0).low)
    some = bootstrap_auroc([0.1, 0.9], [0, 1], [0, 1], 0)  # half of the resamples hold one class
    assert some == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("options", [{"resamples": 0}, {"level": 1.0}, {"level": 95.0}])
def test_bad_options_raise(options):
    with pytest.raises(ValueError):
        bootstrap_mean([1.0], [0], 0, **options)
    with pytest.raises(ValueError):
        bootstrap_mean([1.0, 2.0], [0], 0)
