"""Length statistics by hand, and the padding that packing leaves against what the pipeline really gives out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.data.examples import step_example
from jaxprm.data.lengths import (
    Distribution,
    RowFit,
    expected_padding,
    length_statistics,
    longest_padding,
    packed_padding,
    packing_window,
    row_sizes,
)
from jaxprm.data.pipeline import StepDataset
from jaxprm.errors import InputError


def test_statistics():
    found = length_statistics([10, 20, 30, 40], [1, 2, 3, 8], [(30, 8), (40, 4), (5, 5)])
    assert found.solutions == 4
    assert found.tokens == Distribution(100, 25.0, {"5": 10, "25": 10, "50": 20, "75": 30, "90": 40, "95": 40, "99": 40,
                                                    "100": 40})
    assert found.steps.percentiles["50"] == 2 and found.steps.total == 14
    assert found.fits == (RowFit(30, 8, 0.75, 0.6), RowFit(40, 4, 0.75, 0.6), RowFit(5, 5, 0.0, 0.0))
    with pytest.raises(InputError, match="has 0 entries for 0 solutions"):
        length_statistics([], [])
    with pytest.raises(InputError, match="has 1 entries for 2 solutions"):
        length_statistics([1, 2], [1])


def test_row_sizes():
    assert row_sizes(1024, 128, 1500, 100) == [(128, 16), (256, 32), (512, 64), (1024, 128), (2048, 256)]
    assert row_sizes(8, 2, 8, 2) == [(1, 1), (2, 1), (4, 1), (8, 2)]
    assert row_sizes(8, 2, 10**6, 2)[-1] == (128, 32)


def test_padding_by_hand():
    # two rows of 10: 6 | 5, then 4 completes the first, 5 the second; then 9 opens new rows
    assert packed_padding([6, 5, 4, 5, 9], [1] * 5, 10, 5, 2) == 0.0
    assert packed_padding([6, 5, 4, 5], [1] * 4, 10, 5, 2) == 0.0
    assert packed_padding([6, 5, 4, 5, 9], [1] * 5, 10, 1, 2) == pytest.approx(1 - 20 / 40)  # one step per row
    assert packed_padding([], [], 10, 5, 2) == 0.0 == longest_padding([], 2)
    assert longest_padding([4, 2, 3], 2) == pytest.approx(1 - 9 / 11)
    assert expected_padding(np.array([5, 5]), np.array([1, 1]), 10, 5, 1) == {"packed": 0.0, "longest": 0.0, "full_rows": 0.5}
    with pytest.raises(InputError, match=r"field 'tokens' = \[11, 1\]: is longer than a row"):
        packed_padding([11], [1], 10, 5, 2)


@given(sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=300),
       row_steps=st.integers(4, 8), batch_rows=st.sampled_from([2, 3, 80]))
def test_packed_padding_is_that_of_the_pipeline(sizes, row_steps, batch_rows):
    sizes = [(max(tokens, steps), steps) for tokens, steps in sizes]
    tokens, steps = np.array(sizes).T
    examples = [step_example(range(1, 1 + t), range(t - s, t), [1.0] * s) for t, s in sizes]
    window = packing_window(batch_rows)
    batches = list(StepDataset(examples, row_tokens=12, row_steps=row_steps, batch_rows=batch_rows, seed=None, epochs=1))
    filled = np.concatenate([(batch["segment_ids"] > 0).sum(axis=1) for batch in batches])
    filled = filled[:np.count_nonzero(filled)]  # the last batch is filled up with empty rows
    if len(filled) > window:
        filled = filled[:(len(filled) - 1) // window * window]
    assert packed_padding(tokens, steps, 12, row_steps, window) == pytest.approx(1 - filled.sum() / (12 * len(filled)))
