import json
import math

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.reports.details import Bar, Confusion, Curve, Reliability, ReportDetails, ScoredSolution


def test_json_round_trip(example_run):
    _, details = example_run
    text = json.dumps(details.to_json(), allow_nan=False)
    assert ReportDetails.from_json(json.loads(text)) == details


def test_undefined_values_survive_json():
    details = ReportDetails(planted_errors=[Bar("sign", math.nan, math.nan, math.nan, 0)],
                            auroc_by_position=Curve("", (1.0, 2.0), (0.5, math.nan)))
    again = ReportDetails.from_json(json.loads(json.dumps(details.to_json(), allow_nan=False)))
    assert math.isnan(again.planted_errors[0].mean)
    assert math.isnan(again.auroc_by_position.y[1])
    assert again.auroc_by_position.low is None


def test_arrays_and_lists_become_tuples_of_plain_numbers():
    curve = Curve("a", np.arange(3), [np.float32(0.5), 1, 2])
    assert (curve.x, curve.y) == ((0, 1, 2), (0.5, 1, 2))
    assert type(curve.x[0]) is int and type(curve.y[0]) is float


def test_defaults_and_unknown_keys():
    assert ReportDetails.from_json({}) == ReportDetails()
    with pytest.raises(InputError, match="field 'plots': is not a field of ReportDetails"):
        ReportDetails.from_json({"plots": []})


@pytest.mark.parametrize("make, message", [
    (lambda: Curve("a", (1, 2), (1,)), "has 1 values for 2 points"),
    (lambda: Curve("a", (1,), (1,), low=(0,)), "both low and high"),
    (lambda: Reliability((0.5,), (0.5, 0.6), (1,)), "one length"),
    (lambda: Confusion(((1, 2), (3,)), 0.5), "2 x 2"),
    (lambda: ScoredSolution("p", ("a", "b"), (0.5,)), "1 values for 2 steps"),
    (lambda: ScoredSolution("p", ("a",), (0.5,), labels=(1.0, 0.0)), "2 values for 1 steps"),
    (lambda: ScoredSolution("p", ("a",), (0.5,), first_error=1), "not a step index"),
])
def test_bad_parts(make, message):
    with pytest.raises(InputError, match=message):
        make()
