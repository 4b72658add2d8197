import collections
import json

import numpy as np
import pytest

from jaxprm.scoring.aggregation import aggregate
from jaxprm.scoring.votes import VOTES, answer_ids, best, majority, select_at, weighted


def oracle(answers, scores, how):
    """Index of the chosen candidate, by dictionaries; -1 where nobody has an answer."""
    totals = collections.OrderedDict()
    for index, (answer, score) in enumerate(zip(answers, scores)):
        if answer is not None:
            old = totals.get(answer, (0 if how != "best" else -np.inf, index))
            new = {"majority": old[0] + 1, "weighted": old[0] + score, "best": max(old[0], score)}[how]
            totals[answer] = (new, index if how == "best" and score > old[0] else old[1])
    return max(totals.values(), key=lambda pair: (pair[0], -pair[1]))[1] if totals else -1


def test_by_hand():
    answers, scores = ["4", "6", "6", "5"], [0.9, 0.3, 0.4, 0.1]
    assert majority(answers) == "6" and best(answers, scores) == "4" and weighted(answers, scores) == "4"
    assert weighted(answers, [0.6, 0.3, 0.4, 0.1]) == "6"


def test_ties_go_to_the_first_seen():
    assert majority(["b", "a", "a", "b"]) == "b"
    assert best(["b", "a"], [0.5, 0.5]) == "b"
    assert weighted(["b", "a", "a"], [0.5, 0.25, 0.25]) == "b"
    assert majority(["c"]) == "c"


def test_a_candidate_without_answer_neither_votes_nor_wins():
    answers, scores = [None, None, None, "2"], [0.9, 0.9, 0.9, 0.0]
    assert majority(answers) == best(answers, scores) == weighted(answers, scores) == "2"
    assert majority([None, None]) is None and best([None], [1.0]) is None and weighted([], []) is None


def test_the_empty_string_is_an_answer_like_any_other():
    assert majority(["", "", "1"]) == ""


def test_bad_scores_raise():
    with pytest.raises(ValueError, match="not a number"):
        best(["1", "2"], [0.1, float("nan")])
    with pytest.raises(ValueError, match="not negative"):
        weighted(["1", "2"], [0.1, -0.2])
    with pytest.raises(ValueError, match="2 answers"):
        best(["1", "2"], [0.1])


def test_answer_ids_number_by_first_appearance():
    np.testing.assert_array_equal(answer_ids(["6", None, "4", "6"]), [0, -1, 1, 0])


@pytest.mark.parametrize("how", VOTES)
def test_select_at_equals_the_oracle_on_every_prefix(how):
    rng = np.random.default_rng(0)
    answers = [[[None, "1", "2", "3"][i] for i in row] for row in rng.integers(0, 4, (40, 8))]
    answers[0] = [None] * 8
    scores = rng.integers(0, 5, (40, 8)) / 4  # exact sums, many ties
    for n in range(1, 9):
        chosen = select_at(answers, scores, n, how)
        assert chosen.tolist() == [oracle(a[:n], s[:n], how) for a, s in zip(answers, scores)]


def test_select_at_checks_its_input():
    with pytest.raises(ValueError, match="between 1 and the 2"):
        select_at([["1", "2"]], [[0.1, 0.2]], 3, "best")
    with pytest.raises(ValueError, match="differ in shape"):
        select_at([["1", "2"]], [[0.1, 0.2, 0.3]], 1, "best")
    assert select_at([["1", "2"]], [[np.nan, -1.0]], 2, "majority").tolist() == [0]


def test_equals_the_votes_of_search_and_learn(shared):
    """Answers are given there as text whose canonical form is found by sympy; the stored equivalence is rebuilt from
    `preds`."""
    same = {"0.5": "\\frac{1}{2}", "2\\sqrt{2}": "\\sqrt{8}", "1+x": "x+1", "2.0": "2"}
    canonical = lambda text: same.get(text, text)
    cases = json.loads((shared / "fixtures/golden/search_and_learn.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "vote"]
    assert len(cases) >= 5
    for case in cases:
        answers, scores = [canonical(pred) for pred in case["outputs"]["preds"]], case["inputs"]["agg_scores"]
        boxed = lambda text: canonical(text.removeprefix("\\boxed{")[:-1])
        assert best(answers, scores) == boxed(case["outputs"]["pred_naive"])
        assert majority(answers) == boxed(case["outputs"]["pred_maj"])
        assert weighted(answers, scores) == boxed(case["outputs"]["pred_weighted"])


def test_equals_rebase_where_it_is_right(shared):
    """REBASE's weighted vote ignores a heavy answer seen once; the right argmax is stored beside it."""
    cases = json.loads((shared / "fixtures/golden/rebase.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "vote"]
    assert len(cases) >= 5
    for case in cases:
        answers, outputs = case["inputs"]["answers"], case["outputs"]
        steps = max(map(len, case["inputs"]["step_scores"]))
        scores = np.array([row + [0] * (steps - len(row)) for row in case["inputs"]["step_scores"]], np.float32)
        mask = np.arange(steps) < np.array([len(row) for row in case["inputs"]["step_scores"]])[:, None]
        for how in ("min", "mean", "prod", "last"):
            total = aggregate(scores, mask, how)
            np.testing.assert_allclose(total, outputs[f"agg_{how}"], rtol=1e-6)
            assert best(answers, total) == outputs[f"best_of_n_agg_{how}"]
            assert weighted(answers, total) == outputs[f"true_weighted_argmax_agg_{how}"]


def test_the_majority_is_among_its_hubs_most_frequent(shared):
    cases = json.loads((shared / "fixtures/golden/its_hub.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "self_consistency"]
    for case in cases:
        answers = case["inputs"]["projected"]
        chosen = select_at([answers], np.zeros((1, len(answers))), len(answers), "majority")[0]
        assert chosen == case["outputs"]["candidate_indices"][0]
