import json

import numpy as np
import pytest

from jaxprm.metrics import best_threshold, first_below, first_error_f1


def test_f1_is_the_harmonic_mean_of_two_accuracies():
    true = [2] * 10 + [-1] * 10
    predicted = [2] * 6 + [1] * 3 + [-1] + [-1] * 9 + [0]
    result = first_error_f1(predicted, true)
    assert (result.accuracy_erroneous, result.accuracy_clean) == (0.6, 0.9)
    assert result.f1 == pytest.approx(0.72) and (result.erroneous, result.clean) == (10, 10)


def test_undefined_cases_are_zero():
    assert first_error_f1([], []).f1 == 0
    assert first_error_f1([0, 0], [1, -1]).f1 == 0
    only_erroneous = first_error_f1([1, 2], [1, 2])
    assert only_erroneous.f1 == 0 and only_erroneous.accuracy_erroneous == 1 and only_erroneous.clean == 0


def test_no_verdict_never_matches():
    assert first_error_f1([None, None], [0, -1]) == first_error_f1([9, 9], [0, -1])
    with pytest.raises(ValueError):
        first_error_f1([0], [0, 1])


@pytest.mark.parametrize("scores, threshold, expected", [
    ([0.9, 0.8, 0.3, 0.1], 0.5, 2),
    ([0.9, 0.8], 0.5, -1),
    ([0.5], 0.5, -1),  # strictly below
    ([0.1, 0.9], 0.5, 0),
    ([], 0.5, -1),
])
def test_first_below(scores, threshold, expected):
    assert first_below(scores, threshold) == expected


@pytest.mark.parametrize("seed", range(6))
def test_best_threshold_is_the_best_of_all_candidates(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, 30)
    scores = [rng.integers(0, 8, length) / 8 for length in lengths]
    true = [int(rng.integers(-1, length)) for length in lengths]

    def f1(threshold):
        return first_error_f1([first_below(row, threshold) for row in scores], true).f1

    grid = [f1(threshold) for threshold in np.linspace(-0.2, 1.2, 200)]
    chosen = best_threshold(scores, true)
    assert f1(chosen) == pytest.approx(max(grid), abs=1e-12)


def test_best_threshold_separates_where_it_can():
    assert best_threshold([[0.9, 0.8, 0.2], [0.7, 0.9]], [2, -1]) == pytest.approx(0.45)
    for scores, true in [([], []), ([[]], [-1]), ([[0.5]], [1]), ([[0.5]], [0, 1])]:
        with pytest.raises(ValueError):
            best_threshold(scores, true)


def test_equals_processbench(shared):
    cases = json.loads((shared / "fixtures/golden/benchmarks.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "processbench"]
    assert len(cases) >= 5
    for case in cases:
        result = first_error_f1(case["outputs"]["predictions"], case["inputs"]["labels"])
        ours = {"error_acc": result.accuracy_erroneous, "correct_acc": result.accuracy_clean, "f1": result.f1}
        for name, value in ours.items():
            expected = case["outputs"][name]
            assert 100 * value == pytest.approx(0 if expected == "NaN" else expected, abs=1e-9)
