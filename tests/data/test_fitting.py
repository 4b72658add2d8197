"""Examples that do not fit a row: refused with their place, left out, or cut before the step that does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.data.example_table import UNKNOWN, Examples, Origin
from jaxprm.data.examples import FitCounts, step_example
from jaxprm.data.fitting import FittedExamples
from jaxprm.errors import InputError


def example():
    """tokens  p p a a ; b b b ;    step ends 4 and 8"""
    return step_example(np.arange(9), [4, 8], [1.0, 0.0])


def test_fits():
    whole = example()
    fitted = FittedExamples([whole], 9, 2)
    assert fitted[0] is whole and len(fitted) == 1 and fitted.counts == FitCounts(whole=1)


@pytest.mark.parametrize("row_tokens", [5, 8])
def test_cut_before_the_step_that_does_not_fit(row_tokens):
    fitted = FittedExamples([example()], row_tokens, 2, "truncate")
    (cut,) = fitted
    assert cut["tokens"].tolist() == [0, 1, 2, 3, 4] and cut["step_ends"].tolist() == [4]
    assert cut["labels"].tolist() == [1.0] and cut["label_mask"].tolist() == [True] and len(cut["weights"]) == 1
    assert fitted.counts == FitCounts(truncated=1)


def test_step_budget_and_what_cannot_be_cut():
    (cut,) = FittedExamples([example()], 100, 1, "truncate")
    assert cut["step_ends"].tolist() == [4]
    nothing = FittedExamples([example()], 4, 2, "truncate")
    assert list(nothing) == [] and nothing.counts == FitCounts(dropped=1)
    dropped = FittedExamples([example(), step_example([1], [0])], 8, 2, "drop")
    assert [len(item["tokens"]) for item in dropped] == [1] and dropped.counts == FitCounts(whole=1, dropped=1)


def test_error_names_the_place():
    with pytest.raises(InputError, match=r"example 0 has 9 tokens \(a row has 8\) and 2 steps \(a row has 2\)"):
        FittedExamples([example()], 8, 2)
    located = Examples([step_example([1], [0]), example()], [Origin(), Origin(file=1, row=7)], ["a.jsonl", "b.jsonl"])
    with pytest.raises(InputError, match="b.jsonl:7: field 'steps': has 9 tokens and 2 steps; room is for 8 tokens and 3"):
        FittedExamples(located, 8, 3)


def test_refuses_an_unknown_policy(without_type_checks):
    with pytest.raises(InputError, match="field 'overlong' = 'cut'"):
        FittedExamples([example()], 8, 2, "cut")


def test_the_table_is_that_of_the_cut_examples():
    items = [step_example(np.arange(9), [4, 8], [1.0, 0.0], weight=0.5), step_example([1, 2], [1], [0.25])]
    origins = [Origin(problem=3, first_error=1, file=0, row=1), Origin(problem=4, first_error=-1, file=0, row=2)]
    fitted = FittedExamples(Examples(items, origins, ["a"]), 8, 2, "truncate")
    rows = {name: fitted.table[name].tolist() for name in fitted.table.dtype.names}
    assert rows == {"tokens": [5, 2], "steps": [1, 1], "judged": [1, 1], "good": [1, 0], "bad": [0, 0],
                    "labels": [1.0, 0.25], "weight": [0.5, 1.0], "problem": [3, 4], "first_error": [UNKNOWN, -1],
                    "file": [0, 0], "row": [1, 2]}


@given(steps=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=6), min_size=1, max_size=12),
       row_tokens=st.integers(1, 30), row_steps=st.integers(1, 6))
def test_every_example_is_whole_cut_or_counted(steps, row_tokens, row_steps):
    items = [step_example(np.arange(sum(lengths)), np.cumsum(lengths) - 1, [1.0] * len(lengths)) for lengths in steps]
    fitted = FittedExamples(items, row_tokens, row_steps, "truncate")
    cut = {}
    for index, lengths in enumerate(steps):
        ends = np.cumsum(lengths)
        room = min(int((ends <= row_tokens).sum()), row_steps)
        if room:
            cut[index] = int(ends[room - 1])
    assert [len(item["tokens"]) for item in fitted] == list(cut.values())
    assert fitted.counts.dropped == len(items) - len(cut) and len(fitted) == len(cut)
    assert fitted.counts.whole == sum(len(items[index]["tokens"]) == size for index, size in cut.items())
    assert fitted.table["tokens"].tolist() == list(cut.values())
