"""Best-of-N benchmarks: pools by hand, pools from files, the published pools."""

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import EvaluateOptions, ReadPolicies
from jaxprm.evaluation.benchmarks.best_of_n import BEST_OF_N
from jaxprm.evaluation.benchmarks.pools import Pool, read_pool
from jaxprm.evaluation.benchmarks.prm800k_best_of_n import PRM800K_BEST_OF_N
from jaxprm.records import dump_row

OPTIONS = EvaluateOptions(resamples=50)


def rows(answers, correct, **extra):
    return [{"id": f"{problem}/{number}", "problem_id": problem, "problem": "Q", "steps": ["a", "b"], "final_answer": answer,
             "final_correct": right, **extra}
            for problem in answers for number, (answer, right) in enumerate(zip(answers[problem], correct[problem]))]


def written(folder, content):
    path = folder / "pool.jsonl"
    path.write_text("".join(dump_row(row) + "\n" for row in content))
    return read_pool([path], ReadPolicies())


@pytest.fixture
def small(tmp_path):
    """Problem p: the majority is wrong, the best right. Problem q has three candidates, of which one has no answer."""
    return written(tmp_path, rows({"p": ["1", "2", "2", "3"], "q": ["5", None, "6"]},
                                  {"p": [True, False, False, False], "q": [True, False, False]}))


SCORES = [[0.9, 0.8], [0.5, 0.4], [0.5, 0.6], [0.9, 0.1], [0.7, 0.7], [1.0, 1.0], [0.6, 0.9]]


def test_a_pool_by_hand(small):
    result = BEST_OF_N.evaluate(small, [np.array(row) for row in SCORES], OPTIONS)
    mean = {name: number.mean for name, number in result.numbers.items()}
    # p: minima .8 .4 .5 .1, so best 1, weighted 2 (.9); q: .7 (right), 1.0 without an answer, .6
    assert mean["best, min"] == 1 and mean["best, last"] == 0.5 and mean["best, max"] == 0.5
    assert mean["weighted vote, min"] == 0.5 and mean["majority"] == 0.5 and mean["oracle"] == 1
    assert mean["pass@1"] == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert mean["HMR, min"] == 0.5 and mean["unanimity-plurality, min"] == 1  # p: valid are the .8 and the .5, the first wins
    assert result.headline == "best, min" and result.settings["candidates"] == [3, 4]
    assert result.compared.keys() <= result.numbers.keys() and result.compared["best, min"].groups.tolist() == ["p", "q"]
    curve = result.tables["accuracy against N (min)"]
    assert list(curve) == ["1", "2", "3"] and curve["1"]["best"].mean == pytest.approx(
        (1 / 4 + 1 / 3) / 2) == curve["1"]["majority"].mean
    assert curve["3"]["best"].mean == pytest.approx((3 / 4 + 1) / 2)  # three of the four subsets of p hold its best


def test_scores_that_are_no_probabilities_and_pools_without_answers(tmp_path, small):
    raw = [np.array(row) * 10 - 5 for row in SCORES]
    result = BEST_OF_N.evaluate(small, raw, OPTIONS)
    assert result.numbers["best, min"].mean == 1 and "best, prod" not in result.numbers and not result.lines
    assert "HMR, min" in result.numbers and "weighted vote, min" not in result.numbers
    with pytest.raises(InputError, match="must be probabilities: the protocol multiplies"):
        PRM800K_BEST_OF_N.evaluate(small, raw, OPTIONS)
    items = written(tmp_path, rows({"p": [None, None], "q": [None, None]}, {"p": [True, False], "q": [False, True]}))
    result = BEST_OF_N.evaluate(items, [np.array([score]) for score in (0.9, 0.1, 0.8, 0.2)], OPTIONS)
    assert result.numbers["best, min"].mean == 0.5 and "majority" not in result.numbers
    with pytest.raises(InputError, match="is not finite"):
        Pool.of(items, [np.array([np.nan])] * 4)


def test_files(tmp_path):
    graded = rows({"p": ["1/2", "0.5", "2"]}, {"p": [None, None, None]}, answer="\\frac{1}{2}")
    assert [item.solution.correct for item in written(tmp_path, graded)] == [True, True, False]
    by_meta = [{"id": str(number), "problem": f"Q{number % 2}", "steps": ["a"], "final_correct": True, "labels": None,
                "meta": {"extracted_answer": " 4  apples", "boxed_answer": boxed}}
               for number, boxed in enumerate(["4", None, "5"])]
    items = written(tmp_path, by_meta)
    assert [item.solution.answer for item in items] == ["4", "4 apples", "5"]
    assert [item.group for item in items] == ["Q0", "Q1", "Q0"]
    with pytest.raises(InputError, match=r"pool.jsonl:1: field 'final_correct': is missing.*say of every candidate"):
        written(tmp_path, rows({"p": ["1"]}, {"p": [None]}))
    with pytest.raises(InputError, match=":2: field 'final_answer': is missing, and a candidate without"):
        written(tmp_path, rows({"p": ["1", None]}, {"p": [False, True]}))


def test_the_protocol_of_prm800k(small):
    result = PRM800K_BEST_OF_N.evaluate(small, [np.array(row) for row in SCORES], OPTIONS)
    # Sizes up to the smaller pool; products .72 .2 .3 .09 and .49 1. .54: q's best is a candidate without an answer.
    assert result.headline == "best of 3" and result.numbers["best of 3"].mean == pytest.approx((3 / 4 + 0) / 2)
    table = result.tables["by N"]
    assert table["1"]["exact"].mean == pytest.approx((1 / 4 + 1 / 3) / 2)
    for row in table.values():
        assert row["mean of trials"] == pytest.approx(row["exact"].mean, abs=4 * max(row["deviation of trials"], 1e-9) / 20)
    # p: two of the four subsets tie, and the first candidate of a tie is right; q: 5 comes before 6.
    assert table["3"]["majority"].mean == pytest.approx((1 / 2 + 1) / 2, abs=0.05)
