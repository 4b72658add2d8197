import itertools
import json

import pytest

from jaxprm.metrics import pass_at_k


@pytest.mark.parametrize("samples, correct", [(6, 0), (6, 1), (6, 4), (6, 6), (1, 1)])
def test_equals_counting_all_subsets(samples, correct):
    for k in range(1, samples + 1):
        subsets = list(itertools.combinations([True] * correct + [False] * (samples - correct), k))
        assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@pytest.mark.parametrize("samples, correct, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_impossible_counts_raise(samples, correct, k):
    with pytest.raises(ValueError):
        pass_at_k(samples, correct, k)


def test_equals_search_and_learn(shared):
    cases = json.loads((shared / "fixtures/golden/search_and_learn.json").read_text())["cases"]
    for case in cases:
        inputs = case["inputs"]
        if inputs["kind"] == "pass_at_k" and inputs["k"] <= inputs["n"]:
            value = pass_at_k(inputs["n"], inputs["c"], inputs["k"])
            assert value == pytest.approx(case["outputs"]["value"], abs=1e-12)
