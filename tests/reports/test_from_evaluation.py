import numpy as np
import pytest

from jaxprm.evaluation import Candidates, StepPredictions, best_of_n, evaluate_steps, label_agreement
from jaxprm.reports import from_evaluation


def test_accuracy_curves():
    pool = Candidates([["a", "b"], ["a", "a"]], [[True, False], [True, True]], [[0.9, 0.5], [0.1, 0.2]],
                      [[3, 5], [4, 4]])
    result = best_of_n(pool, 0, resamples=20)
    curves = {curve.name: curve for curve in from_evaluation.accuracy_curves(result)}
    assert curves["oracle"].x == (1, 2)
    assert curves["oracle"].y == pytest.approx((0.75, 1.0))
    assert curves["pass@1"].low == tuple(row.low for row in result.accuracy["pass@1"])
    assert from_evaluation.accuracy_curves(result, by_tokens=True)[0].x == (4.0, 8.0)
    without = best_of_n(Candidates([["a"]], [[True]], [[0.5]]), 0, resamples=2)
    with pytest.raises(ValueError, match="no policy tokens"):
        from_evaluation.accuracy_curves(without, by_tokens=True)


def test_parts_of_a_step_evaluation():
    scores, labels = [[0.9, 0.2], [0.8, 0.9], [0.1]], [[1, 0], [1, 1], [0]]
    result = evaluate_steps(StepPredictions(scores, labels, [1, -1, 0], ["a", "b", "c"], ["sign", None, "digit"]), 0,
                            resamples=20)
    bins = from_evaluation.reliability(result)
    assert (bins.count, bins.observed) == ((1, 1, 1, 2), (0.0, 0.0, 1.0, 1.0))
    assert bins.predicted == pytest.approx((0.1, 0.2, 0.8, 0.9))
    curve = from_evaluation.position_curve(result, minimum=1)
    assert (curve.x, curve.y) == ((1, 2), (1.0, 1.0))
    assert from_evaluation.position_curve(result) is None  # fewer than ten steps of a class
    assert [(bar.name, bar.mean, bar.count) for bar in from_evaluation.kind_bars(result)] == [
        ("digit", 1.0, 1), ("sign", 1.0, 1)]


def test_parts_of_an_agreement():
    result = label_agreement([[1.0, 0.0]], [[1, 1]], ["p"], 0, thresholds=np.array([0.5, 1.0]), resamples=5)
    assert from_evaluation.confusion(result).counts == ((0, 0), (1, 1))
    assert from_evaluation.agreement_curve(result).y == (0.5, 0.5)
    assert from_evaluation.agreement_curve(label_agreement([[1.0]], [[1]], ["p"], 0, resamples=5)) is None
