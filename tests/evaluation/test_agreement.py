import numpy as np
import pytest
from scipy import stats

from jaxprm.errors import InputError
from jaxprm.evaluation.agreement import label_agreement
from jaxprm.metrics import auroc


def test_by_hand():
    estimated = [[1.0, 0.5, 0.25], [0.0, None, 0.75]]
    exact = [[1, 1, 0], [0, 1, 0]]
    result = label_agreement(estimated, exact, ["p", "q"], 0, threshold=0.5, thresholds=(0.25, 1.0), resamples=50)
    assert result.steps == 5
    assert result.agreement.mean == pytest.approx(4 / 5)
    assert result.confusion == ((2, 1), (0, 2))
    # From .25 on, .25 and .75 are called right against the verdict; from 1 on, only the .5 is wrongly called wrong.
    assert [(limit, row.mean) for limit, row in result.by_threshold] == [(0.25, 0.6), (1.0, 0.8)]
    assert result.auroc.mean == pytest.approx(auroc([1, 0.5, 0.25, 0, 0.75], [1, 1, 0, 0, 0]))
    assert result.spearman.mean == pytest.approx(stats.spearmanr([1, 0.5, 0.25, 0, 0.75], [1, 1, 0, 0, 0]).statistic)


def test_spearman_of_resamples_equals_scipy():
    rng = np.random.default_rng(0)
    exact = [rng.integers(0, 2, 4).tolist() for _ in range(12)]
    estimated = [(rng.binomial(4, 0.2 + 0.6 * np.array(row)) / 4).tolist() for row in exact]
    problems = [str(i // 2) for i in range(12)]
    result = label_agreement(estimated, exact, problems, 7, resamples=30)
    draws = np.random.default_rng(7).multinomial(6, np.full(6, 1 / 6), size=30)
    values = []
    for draw in draws:
        rows = [i for i in range(12) for _ in range(draw[i // 2])]
        values.append(stats.spearmanr(np.concatenate([estimated[i] for i in rows]),
                                      np.concatenate([exact[i] for i in rows])).statistic)
    np.testing.assert_allclose((result.spearman.low, result.spearman.high), np.quantile(values, [0.025, 0.975]))
    assert result.spearman.low <= result.spearman.mean <= result.spearman.high
    assert result.agreement.low <= result.agreement.mean <= result.agreement.high


def test_constant_estimates_have_no_correlation():
    result = label_agreement([[0.5, 0.5]], [[1, 0]], ["p"], 0, resamples=5)
    assert np.isnan(result.spearman.mean)
    assert result.auroc.mean == 0.5


def test_bad_input():
    with pytest.raises(InputError, match="row 1: field 'estimated': has 1 values for 2 exact labels"):
        label_agreement([[1]], [[1, 0]], ["p"], 0)
    with pytest.raises(InputError, match="share no judged step"):
        label_agreement([[None]], [[1]], ["p"], 0)
    with pytest.raises(InputError, match="has 1 solutions, exact 0"):
        label_agreement([[1]], [], ["p"], 0)
