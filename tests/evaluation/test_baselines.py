import builtins
import sys

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.baselines import fit_position_length, fit_tfidf
from jaxprm.evaluation.steps import StepPredictions, evaluate_steps
from jaxprm.metrics import auroc
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels, read_solutions

pytest.importorskip("sklearn")


def _items(count, seed, wrong_word=" banana"):
    """Solutions whose last step is wrong in half of the cases; a wrong step contains a word of its own."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(count):
        length = int(rng.integers(2, 6))
        wrong = rng.random() < 0.5
        steps = [f"add {rng.integers(100)} to get {rng.integers(100)}" for _ in range(length)]
        if wrong:
            steps[-1] += wrong_word
        labels = (1.0,) * (length - 1) + (0.0 if wrong else 1.0,)
        items.append(LabeledSolution(str(i), Solution(Problem(str(i), f"problem {seed} {i}"), tuple(steps)),
                                     StepLabels(labels, length - 1 if wrong else -1)))
    return items


def _area(baseline, items):
    scores = baseline(items)
    assert [len(row) for row in scores] == [len(item.solution.steps) for item in items]
    assert all(((row >= 0) & (row <= 1)).all() for row in scores)
    return auroc(np.concatenate(scores), np.concatenate([item.labels.values for item in items]))


def test_position_sees_the_last_step_only_with_look_ahead():
    # Without the word (same length of all steps) only "is this the last step" tells.
    train, test = _items(300, 0, wrong_word=""), _items(200, 1, wrong_word="")
    ahead = fit_position_length(train)
    causal = fit_position_length(train, look_ahead=False)
    assert ahead.examples == causal.examples == sum(len(item.solution.steps) for item in train)
    assert (ahead.name, causal.name) == ("position and length", "position and length (causal)")
    assert _area(ahead, test) > 0.85
    assert _area(ahead, test) > _area(causal, test) + 0.1


def test_tfidf_reads_words():
    assert _area(fit_tfidf(_items(300, 0)), _items(100, 1)) > 0.99


def test_a_small_vocabulary_keeps_frequent_words_only():
    baseline = fit_tfidf(_items(300, 0), vocabulary=2)  # "add", "to": in every step, and they say nothing
    assert abs(_area(baseline, _items(100, 1)) - 0.5) < 0.1


def test_equal_input_gives_equal_scores():
    train, test = _items(80, 0), _items(5, 1)
    for fit in (fit_position_length, fit_tfidf):
        np.testing.assert_array_equal(np.concatenate(fit(train)(test)), np.concatenate(fit(train)(test)))
    assert fit_tfidf(train)([]) == []


def test_one_class_or_no_label():
    right = [item for item in _items(20, 0) if item.labels.first_error == -1]
    for fit in (fit_position_length, fit_tfidf):
        with pytest.raises(InputError, match="needs both classes"):
            fit(right)
        with pytest.raises(InputError, match="0 of 0 judged steps"):
            fit([])


def test_without_scikit_learn(monkeypatch):
    real = builtins.__import__
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(builtins, "__import__", real)
    with pytest.raises(InputError, match=r"pip install 'jaxprm\[test\]'"):
        fit_tfidf(_items(20, 0))


def test_repeated_prefixes_flatter_a_reader_of_positions(shared):
    """PRM800K's expanded test rows: 0.99 if shared right steps are counted in every row, far less if once."""
    path = shared / "data" / "dev_eval" / "prm800k_phase1_test_expanded.jsonl.gz"
    if not path.is_file():
        pytest.skip("no PRM800K")
    items = list(read_solutions(path, drop_empty=True))
    problems = sorted({item.solution.problem.prompt for item in items})
    train = [item for item in items if item.solution.problem.prompt in set(problems[::2])]
    test = [item for item in items if item.solution.problem.prompt not in set(problems[::2])]
    scores = fit_position_length(train)(test)
    once, always = (evaluate_steps(StepPredictions.from_solutions(test, scores, distinct=distinct), 0, resamples=20)
                    for distinct in (True, False))
    assert always.auroc.mean > 0.97
    assert once.auroc.mean < 0.90
