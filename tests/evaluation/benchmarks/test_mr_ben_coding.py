"""Mr-Ben's coding subject for MR-Score: programs by lines, blank lines among them, errors that nobody could locate."""

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import BENCHMARKS, EvaluateOptions, ReadPolicies


def test_the_published_programs(shared):
    benchmark, file = BENCHMARKS["mr_score"], shared / "data/dev_eval/mr_ben_coding.jsonl.gz"
    with pytest.raises(InputError, match=r"mr_ben_coding.jsonl.gz:1: field 'steps\[3\]' = '': is an empty step"):
        benchmark.read([file], ReadPolicies())
    items = benchmark.read([file], ReadPolicies(drop_empty=True))
    assert len(items) == 238 and {item.kind for item in items} == {"coding"} and not any(item.skip for item in items)
    assert sum(item.meta["empty_steps_dropped"] for item in items if "empty_steps_dropped" in item.meta) == 1653
    first = [None if item.labels is None else item.labels.first_error for item in items]
    assert (sum(error == -1 for error in first), first.count(None)) == (74, 20)
    perfect = [np.array([1.0 if value is None else value for value in item.labels.values]) if item.labels is not None
               else np.zeros(len(item.solution.steps)) for item in items]
    numbers = benchmark.evaluate(items, perfect, EvaluateOptions(resamples=20)).numbers
    # Wrong at a place nobody could name: called wrong, and not found.
    assert numbers["Matthews correlation"].mean == 1 and numbers["step accuracy"].mean == pytest.approx(144 / 164)
    assert numbers["MR-Score without reasons"].mean == pytest.approx(0.2 + 0.3 * 144 / 164)
