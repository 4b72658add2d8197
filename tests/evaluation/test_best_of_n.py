import itertools

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.best_of_n import METHODS, Candidates, best_of_n
from jaxprm.records import read_json_lines
from jaxprm.scoring.votes import best, majority, weighted


def test_three_candidates_by_hand():
    # "a" is right and scores .9; "b", "b" are wrong. Subsets of two: {a, b} and {a, b} go to a, {b, b} to b.
    pool = Candidates([["a", "b", "b"]], [[True, False, False]], [[0.9, 0.5, 0.3]], [[10, 20, 30]])
    result = best_of_n(pool, 0, sizes=(1, 2, 3), subsets=3000, resamples=10)
    expected = {"pass@1": [1 / 3] * 3, "PRM best": [1 / 3, 2 / 3, 1], "oracle": [1 / 3, 2 / 3, 1]}
    for method, values in expected.items():
        np.testing.assert_allclose(result.per_problem[method][:, 0], values, rtol=1e-12)
    # A tie of one vote each goes to the first, which is "a"; three votes: majority b, weights .9 > .8.
    np.testing.assert_allclose(result.per_problem["majority"][:, 0], [1 / 3, 2 / 3, 0], atol=0.03)
    np.testing.assert_allclose(result.per_problem["PRM weighted"][:, 0], [1 / 3, 2 / 3, 1], atol=0.03)
    assert result.tokens == (20.0, 40.0, 60.0)
    assert result.difference("PRM best", "majority", 3).mean == 1.0


def _random_pool(rng, problems=5, size=6):
    answers = rng.integers(0, 4, (problems, size))
    names = [[None if answer == 3 else str(answer) for answer in row] for row in answers]
    return names, answers == 0, np.round(rng.random((problems, size)), 1)  # rounded: ties occur


def test_equals_enumeration_of_all_subsets():
    answers, correct, scores = _random_pool(np.random.default_rng(1))
    result = best_of_n(Candidates(answers, correct, scores), 0, sizes=(2, 3, 4), subsets=4000, resamples=10)
    for at, size in enumerate(result.sizes):
        for problem in range(len(answers)):
            hits = {method: [] for method in METHODS}
            for subset in itertools.combinations(range(6), size):
                names = [answers[problem][i] for i in subset]
                points = scores[problem, list(subset)]
                hits["pass@1"].append(np.mean(correct[problem, list(subset)]))
                hits["oracle"].append("0" in names)
                hits["majority"].append(majority(names) == "0")
                hits["PRM best"].append(best(names, points) == "0")
                hits["PRM weighted"].append(weighted(names, points) == "0")
            for method, values in hits.items():
                exact = method in ("pass@1", "oracle", "PRM best")
                np.testing.assert_allclose(result.per_problem[method][at, problem], np.mean(values),
                                           atol=1e-12 if exact else 0.04, err_msg=f"{method} {size}")


def test_intervals_hold_the_mean_and_equal_keys_give_equal_numbers():
    rng = np.random.default_rng(2)
    answers, correct, scores = _random_pool(rng, 60, 8)
    pool = Candidates(answers, correct, scores)
    first, second, other = (best_of_n(pool, key, resamples=200) for key in (3, 3, (3, 4)))
    assert first.sizes == (1, 2, 4, 8)
    assert first.accuracy == second.accuracy
    assert first.accuracy != other.accuracy
    for method in METHODS:
        for row, size in zip(first.accuracy[method], first.sizes):
            assert 0 <= row.low <= row.mean <= row.high <= 1
            assert row == first.at(method, size)
    gap = first.difference("oracle", "pass@1", 8)
    assert gap.mean == pytest.approx(first.at("oracle", 8).mean - first.at("pass@1", 8).mean)
    assert 0 < gap.low <= gap.mean <= gap.high
    same = first.difference_from(first.per_problem["oracle"][-1], "oracle", 8)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_default_sizes_end_with_the_whole_pool():
    pool = Candidates([["a"] * 6], [[True] * 6], np.ones((1, 6)))
    result = best_of_n(pool, 0, resamples=2)
    assert result.sizes == (1, 2, 4, 6)
    assert result.tokens is None
    assert all(row.mean == pytest.approx(1) for rows in result.accuracy.values() for row in rows)


def test_no_candidate_has_an_answer():
    result = best_of_n(Candidates([[None, None]], [[False, False]], [[0.9, 0.8]]), 0, resamples=2)
    assert all(row.mean == 0 for rows in result.accuracy.values() for row in rows)


@pytest.mark.parametrize("change, message", [
    ({"scores": [[0.1]]}, "shape of correct"),
    ({"scores": [[0.1, float("nan")]]}, "finite"),
    ({"scores": [[0.1, -2.0]]}, ">= 0"),
    ({"answers": [["a"]]}, "shape of correct"),
    ({"answers": [[None, "b"]]}, "cannot be correct"),
    ({"correct": [True, False]}, "problems, candidates"),
    ({"policy_tokens": [[1]]}, "policy_tokens"),
])
def test_bad_pools(change, message):
    fields = {"answers": [["a", "b"]], "correct": [[True, False]], "scores": [[0.1, 0.2]]} | change
    with pytest.raises(InputError, match=message):
        Candidates(**fields)


def test_bad_sizes():
    pool = Candidates([["a", "b"]], [[True, False]], [[0.1, 0.2]])
    with pytest.raises(InputError, match="between 1 and the 2"):
        best_of_n(pool, 0, sizes=(3,))
    with pytest.raises(InputError, match="positive"):
        best_of_n(pool, 0, subsets=0)


def test_published_pool(shared):
    """238 MATH-500 problems x 32 candidates with the scores of Qwen2.5-Math-PRM-7B: numbers computed independently."""
    folder = shared / "data" / "dev_eval"
    if not (folder / "strict_bon_math500_dev.jsonl.gz").is_file():
        pytest.skip("no pool")
    scores = {row["id"]: row["prm_step_scores"]["qwen_prm"]
              for _, row in read_json_lines(folder / "strict_bon_math500_dev.prm_scores.jsonl.gz")}
    problems = {}
    for _, row in read_json_lines(folder / "strict_bon_math500_dev.jsonl.gz"):
        meta = row["meta"]
        answer = meta.get("boxed_answer") or meta.get("extracted_answer") or "no answer"
        problems.setdefault(meta["problem_id"], {})[meta["candidate_index"]] = (answer, row["final_correct"],
                                                                                 scores[row["id"]][-1])
    rows = [[candidates[i] for i in sorted(candidates)] for candidates in problems.values()]
    pool = Candidates(*([[row[part] for row in candidates] for candidates in rows] for part in range(3)))
    result = best_of_n(pool, 0, sizes=(32,), resamples=200)
    found = {method: round(result.at(method, 32).mean, 4) for method in ("pass@1", "majority", "PRM best", "oracle")}
    assert found == {"pass@1": 0.8817, "majority": 0.9118, "PRM best": 0.9412, "oracle": 0.9790}
