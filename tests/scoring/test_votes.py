import collections
import json
from fractions import Fraction

import numpy as np
import pytest

from jaxprm.scoring.aggregation import aggregate
from jaxprm.scoring.votes import (
    VOTES,
    answer_ids,
    best,
    hybrid_majority,
    majority,
    select_at,
    select_ids,
    unanimity_plurality,
    weighted,
    weighted_frequency,
)

SCORED = {"best": best, "weighted": weighted, "hybrid_majority": hybrid_majority, "weighted_frequency": weighted_frequency,
          "unanimity_plurality": unanimity_plurality}


def oracle(answers, scores, how):
    """Index of the chosen candidate, by dictionaries and exact fractions; -1 where nobody has an answer."""
    members = collections.OrderedDict()
    for index, answer in enumerate(answers):
        if answer is not None:
            members.setdefault(answer, []).append(index)
    if not members:
        return -1
    score = lambda index: Fraction(scores[index])
    everybody = sum(map(len, members.values()))
    top = max(len(group) for group in members.values())
    if how == "hybrid_majority":
        how = "majority" if 2 * top >= everybody else "best"
    if how == "unanimity_plurality":
        sound = {answer: [i for i in group if scores[i] >= 0.5] for answer, group in members.items()}
        sound = {answer: group for answer, group in sound.items() if group}
        members = collections.OrderedDict(sorted(sound.items(), key=lambda item: item[1][0])) if sound else members
        how = "majority"
    means = {answer: sum(map(score, group)) / len(group) for answer, group in members.items()}
    rewards = {answer: mean / sum(means.values()) if sum(means.values()) else 0 for answer, mean in means.items()}
    value = {
        "majority": lambda answer: len(members[answer]),
        "weighted": lambda answer: sum(map(score, members[answer])),
        "best": lambda answer: max(map(score, members[answer])),
        "weighted_frequency": lambda answer: rewards[answer] / 2 + Fraction(len(members[answer]), 2 * everybody),
    }[how]
    best_value = max(map(value, members))
    winners = [answer for answer in members if value(answer) == best_value]
    if how == "best":
        return min(i for answer in winners for i in members[answer] if score(i) == best_value)
    return members[winners[0]][0]


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


def test_hybrid_majority_asks_the_model_where_candidates_disagree():
    answers, scores = ["4", "6", "6", "5"], [0.9, 0.3, 0.4, 0.1]
    assert hybrid_majority(answers, scores) == "6" and hybrid_majority(answers, scores, consensus=0.6) == "4"
    assert hybrid_majority([*answers, None, None], [*scores, 1, 1]) == "6"  # no answer, no part in the share
    assert hybrid_majority(["a"] * 7 + ["b"] * 3, [0.1] * 7 + [0.9] * 3, consensus=0.7) == "a"  # .7 * 10 > 7 in binary
    for consensus, expected in ((0.0, majority(answers)), (1.0, best(answers, scores))):
        assert hybrid_majority(answers, scores, consensus=consensus) == expected


def test_weighted_frequency_by_hand():
    # means .9 and .35, their shares .72 and .28; frequencies 1/3 and 2/3: .5267 against .4733
    answers, scores = ["4", "6", "6"], [0.9, 0.3, 0.4]
    assert weighted_frequency(answers, scores) == "4" and weighted_frequency(answers, scores, reward_weight=0.3) == "6"
    assert weighted_frequency(answers, [0.0, 0.0, 0.0]) == "6" == weighted_frequency(answers, scores, reward_weight=0.0)
    assert weighted_frequency(answers, scores, reward_weight=1.0) == "4"


def test_unanimity_plurality_counts_the_valid_chains():
    answers, scores = ["6", "6", "4", "5", "4"], [0.4, 0.3, 0.8, 0.9, 0.5]
    assert unanimity_plurality(answers, scores) == "4" and unanimity_plurality(answers, scores, valid_from=0.6) == "4"
    assert unanimity_plurality(answers, scores, valid_from=0.95) == majority(answers) == "6"
    assert select_at([answers], [scores], 5, "unanimity_plurality")[0] == 2


@pytest.mark.parametrize("how", SCORED)
def test_the_same_for_all_votes_with_scores(how):
    vote = SCORED[how]
    assert vote([], []) is None and vote([None, None], [0.1, 0.9]) is None and vote([None, "1"], [0.9, 0.0]) == "1"
    assert vote(["b", "a", "c"], [0.5, 0.5, 0.5]) == "b"
    assert vote(["b", "a", "a", "b"], [0.0, 0.0, 0.0, 0.0]) == "b"
    with pytest.raises(ValueError, match="not a number"):
        vote(["1", "2"], [0.1, float("nan")])


@pytest.mark.parametrize("how", VOTES)
def test_the_order_of_the_candidates_matters_in_ties_alone(how):
    rng = np.random.default_rng(1)
    for _ in range(30):
        answers, scores = rng.integers(-1, 4, 9), rng.random(9)
        counts = np.bincount(answers[answers >= 0], minlength=4)
        if (np.sort(counts)[-2:] == counts.max()).all() or how == "unanimity_plurality":
            continue
        order = rng.permutation(9)
        first = select_ids(answers[None], scores[None], how)[0]
        second = select_ids(answers[order][None], scores[order][None], how)[0]
        assert answers[first] == answers[order][second]


def test_options_outside_their_range_raise():
    for options, match in (({"consensus": 1.5}, "consensus must"), ({"reward_weight": -0.1}, "reward_weight must"),
                           ({"valid_from": float("nan")}, "valid_from is")):
        with pytest.raises(ValueError, match=match):
            select_at([["1"]], [[0.5]], 1, "best", **options)


def test_the_empty_string_is_an_answer_like_any_other():
    assert majority(["", "", "1"]) == ""


def test_bad_scores_raise():
    with pytest.raises(ValueError, match="not a number"):
        best(["1", "2"], [0.1, float("nan")])
    with pytest.raises(ValueError, match="not negative"):
        weighted(["1", "2"], [0.1, -0.2])
    with pytest.raises(ValueError, match="not negative"):
        weighted_frequency(["1", "2"], [0.1, -0.2])
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


def test_equals_openr(shared):
    """There a solution without steps counts -1; here the same holds through its aggregate, which is the caller's."""
    cases = json.loads((shared / "fixtures/golden/tree_search.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "openr_vote"]
    assert len(cases) >= 5
    for case in cases:
        answers, outputs, steps = case["inputs"]["answers"], case["outputs"], case["inputs"]["step_scores"]
        assert majority(answers) == outputs["majority_vote"]
        for how in ("min", "last"):
            total = [float(aggregate(np.array(row, np.float32), np.ones(len(row), bool), how)) for row in steps]
            assert best(answers, total) == outputs[f"prm_{how}_max"]
            assert weighted(answers, total) == outputs[f"prm_{how}_vote"]


def test_the_majority_is_among_its_hubs_most_frequent(shared):
    cases = json.loads((shared / "fixtures/golden/its_hub.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "self_consistency"]
    for case in cases:
        answers = case["inputs"]["projected"]
        chosen = select_at([answers], np.zeros((1, len(answers))), len(answers), "majority")[0]
        assert chosen == case["outputs"]["candidate_indices"][0]
