"""Labels of tokens: right up to where a step departs from the one that should stand there."""

import pytest

from jaxprm.errors import InputError
from jaxprm.labeling import token_labels


@pytest.mark.parametrize("written, expected, labels", [
    ([1, 2, 3, 9], [1, 2, 3, 9], [1, 1, 1, 1]),
    ([1, 2, 4, 9], [1, 2, 3, 9], [1, 1, 0, 0]),  # the separator carries the label of the step: wrong
    ([5, 2, 3, 9], [1, 2, 3, 9], [0, 0, 0, 0]),
    ([1, 9], [1, 2, 9], [1, 0]),  # closed too early
    ([1, 2, 3, 9], [1, 2, 9], [1, 1, 0, 0]),  # goes on too long
    ([1, 9], None, [0, 0])])
def test_by_hand(written, expected, labels):
    assert token_labels(written, expected) == labels


def test_a_step_without_tokens_is_refused():
    with pytest.raises(InputError, match="has no token"):
        token_labels([], [1])
