import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.steps import StepPredictions, evaluate_steps
from jaxprm.metrics import auroc, auroc_within_position, expected_calibration_error
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels


def _by_hand():
    return StepPredictions(
        scores=[[0.9, 0.8, 0.2], [0.7, 0.4], [0.6, 0.9], [0.3]],
        labels=[[1, 1, 0], [1, 0], [1, 1], [None]],
        first_errors=[2, 1, -1, None], problems=["p", "p", "q", "r"], kinds=["sign", "digit", None, None])


def test_by_hand():
    result = evaluate_steps(_by_hand(), 0, threshold=0.5, resamples=200)
    assert (result.solutions, result.problems, result.judged) == (4, 3, 7)
    assert result.right == pytest.approx(5 / 7)
    assert result.auroc.mean == 1.0
    # Position 0 has right steps only; 1: right .8, .9 against wrong .4; 2: a wrong step only.
    assert [(row.position, row.auroc.mean, row.right, row.wrong) for row in result.positions] == [(1, 1.0, 2, 1)]
    assert result.auroc_within_position.mean == 1.0
    # Bins: .2 (0), .4 (0), .6 (1), .7 (1), .8 (1), {.9, .9} (1): the gaps are .2 + .4 + .4 + .3 + .2 + 2 * .1 over 7.
    assert result.ece.mean == pytest.approx(1.7 / 7)
    assert result.calibration.error == pytest.approx(result.ece.mean)
    (fixed,) = result.first_error
    assert (fixed.threshold, fixed.chosen_on, fixed.erroneous, fixed.clean) == (0.5, "fixed", 2, 1)
    assert (fixed.f1.mean, fixed.acc_error.mean, fixed.acc_clean.mean) == (1.0, 1.0, 1.0)
    assert [(row.kind, row.count, row.caught.mean, row.located.mean, row.auroc.mean) for row in result.kinds] == [
        ("digit", 1, 1.0, 1.0, 1.0), ("sign", 1, 1.0, 1.0, 1.0)]


def test_fixed_and_chosen_thresholds():
    # At .3 only one of two errors is found: F1 = 2 * .5 * 1 / 1.5. The split says that .5 is better.
    split = StepPredictions([[0.9, 0.45], [0.55, 0.8]], [[1, 0], [1, 1]], [1, -1], ["s", "t"])
    result = evaluate_steps(_by_hand(), 0, threshold=0.3, calibration=("gsm8k", split), resamples=50)
    fixed, chosen = result.first_error
    assert fixed.f1.mean == pytest.approx(2 / 3)
    assert (fixed.acc_error.mean, fixed.acc_clean.mean) == (0.5, 1.0)
    assert [(row.kind, row.caught.mean) for row in result.kinds] == [("digit", 0.0), ("sign", 1.0)]
    assert chosen.chosen_on == "gsm8k"
    assert chosen.threshold == pytest.approx(0.5)
    assert chosen.f1.mean == 1.0


def test_caught_is_not_located_if_an_earlier_step_is_blamed():
    predictions = StepPredictions([[0.1, 0.2, 0.9]], [[1, 0, 0]], [1], ["p"], ["sign"])
    (row,) = evaluate_steps(predictions, 0, resamples=5).kinds
    assert (row.caught.mean, row.located.mean, row.auroc.mean) == (1.0, 0.0, 0.0)


def _noisy(solutions=120, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, solutions)
    first = [int(rng.integers(0, n)) if rng.random() < 0.5 else -1 for n in lengths]
    labels = [[1.0 if f < 0 or i < f else 0.0 for i in range(n)] for n, f in zip(lengths, first)]
    scores = [1 / (1 + np.exp(-3 * (np.array(row) - 0.5) - rng.normal(size=len(row)))) for row in labels]
    return StepPredictions(scores, labels, first, [str(i // 3) for i in range(solutions)])


def test_equals_the_plain_metrics_and_intervals_hold_them():
    predictions = _noisy()
    result = evaluate_steps(predictions, 0, resamples=200)
    scores = np.concatenate(predictions.scores)
    labels = np.concatenate(predictions.labels)
    positions = np.concatenate([np.arange(len(row)) for row in predictions.scores])
    assert result.auroc.mean == pytest.approx(auroc(scores, labels))
    assert result.auroc_within_position.mean == pytest.approx(auroc_within_position(scores, labels, positions).mean)
    assert result.ece.mean == pytest.approx(expected_calibration_error(scores, labels).error)
    (row,) = result.first_error
    a, b = row.acc_error.mean, row.acc_clean.mean
    assert row.f1.mean == pytest.approx(2 * a * b / (a + b))
    for interval in (result.auroc, result.auroc_within_position, row.f1, row.acc_error, row.acc_clean,
                     *(line.auroc for line in result.positions)):
        assert interval.low <= interval.mean <= interval.high
    assert evaluate_steps(predictions, 0, resamples=200).auroc == result.auroc


def test_ece_bounds_come_from_resampled_problems():
    """The sums per problem and bin give the same ECE as the metric on the resampled rows themselves."""
    predictions = _noisy(30)
    result = evaluate_steps(predictions, 5, resamples=40)
    problems = np.array(sorted(set(predictions.problems)))
    draws = np.random.default_rng(5).multinomial(len(problems), np.full(len(problems), 1 / len(problems)), size=40)
    values = []
    for draw in draws:
        rows = [i for name, times in zip(problems, draw) for i, p in enumerate(predictions.problems) if p == name
                for _ in range(times)]
        values.append(expected_calibration_error(np.concatenate([predictions.scores[i] for i in rows]),
                                                 np.concatenate([predictions.labels[i] for i in rows])).error)
    np.testing.assert_allclose((result.ece.low, result.ece.high), np.quantile(values, [0.025, 0.975]), rtol=1e-9)


def test_clean_solutions_only():
    result = evaluate_steps(StepPredictions([[0.9, 0.8]], [[1, 1]], [-1], ["p"]), 0, resamples=5)
    assert np.isnan(result.auroc.mean)
    assert result.positions == () and result.kinds == ()
    (row,) = result.first_error
    assert np.isnan(row.f1.mean) and np.isnan(row.acc_error.mean)
    assert row.acc_clean.mean == 1.0


def _item(identifier, steps, labels, first=None, prompt="x"):
    problem = Problem(identifier, prompt)
    return LabeledSolution(identifier, Solution(problem, tuple(steps)), StepLabels(tuple(labels), first))


def test_shared_prefixes_count_once_and_prompts_are_problems():
    items = [_item("1", "ab", (1.0, 0.0), 1), _item("2", "abc", (1.0, 0.0, None), 1, prompt="x "),
             _item("3", "ad", (1.0, 1.0))]
    scores = [[0.9, 0.1], [0.8, 0.2, 0.3], [0.7, 0.6]]
    predictions = StepPredictions.from_solutions(items, scores)
    assert list(predictions.problems) == ["x", "x", "x"]
    # "x " is another prompt than "x" when prefixes are compared: only the second "a" of prompt "x" is a repetition.
    assert predictions.labels == [[1.0, 0.0], [1.0, 0.0, None], [None, 1.0]]
    every = StepPredictions.from_solutions(items, scores, distinct=False)
    assert every.labels == [(1.0, 0.0), (1.0, 0.0, None), (1.0, 1.0)]
    assert predictions.first_errors == [1, 1, None]


@pytest.mark.parametrize("change, message", [
    ({"scores": [[0.5, 1.5]]}, "row 1: field 'scores' = 1.5: must be a probability"),
    ({"scores": [[0.5, float("nan")]]}, "must be a probability"),
    ({"scores": [[0.5]]}, "2 labels for 1 scores"),
    ({"first_errors": [2]}, "not a step index"),
    ({"problems": []}, "0 entries for 1 solutions"),
    ({"first_errors": [-1], "kinds": ["sign"]}, "without a first error"),
])
def test_bad_predictions(change, message):
    fields = {"scores": [[0.5, 0.5]], "labels": [[1, 0]], "first_errors": [1], "problems": ["p"]} | change
    with pytest.raises(InputError, match=message):
        StepPredictions(**fields)


def test_bad_evaluations():
    unjudged = StepPredictions([[0.5]], [[None]], [None], ["p"])
    with pytest.raises(InputError, match="no step is judged"):
        evaluate_steps(unjudged, 0)
    with pytest.raises(InputError, match="name of the split"):
        evaluate_steps(_by_hand(), 0, calibration=("", _by_hand()), resamples=2)
    with pytest.raises(InputError, match="known first error"):
        evaluate_steps(_by_hand(), 0, calibration=("dev", unjudged), resamples=2)
    unlabelled = LabeledSolution("1", Solution(Problem("1", "x"), ("a",)))
    with pytest.raises(InputError, match="has no labels"):
        StepPredictions.from_solutions([unlabelled], [[0.5]])
