import copy
import json
import math

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.results import (
    NUMBER_KEYS,
    RL_NUMBER_KEYS,
    RL_VARIANTS,
    build_results,
    number,
    read_results,
    to_json,
    validate_results,
    write_results,
)
from jaxprm.metrics import Interval

HALF = Interval(0.5, 0.4, 0.6)


def _results(**options):
    return build_results({key: HALF for key in NUMBER_KEYS},
                         {variant: {key: HALF for key in RL_NUMBER_KEYS} for variant in RL_VARIANTS},
                         **({"seconds": {"train": 1.5}, "seed": 3, "config_sha256": "0" * 64} | options))


def test_keys():
    assert set(_results()) == {
        "pass_at_1", "majority_at_8", "prm_best_at_8", "prm_weighted_at_8", "beam_at_8", "oracle_at_8",
        "prm_best_minus_majority_at_8", "step_auroc", "step_auroc_within_position", "first_error_f1", "ece",
        "mc_agreement", "rl", "seconds", "seed", "config_sha256"}
    assert _results()["step_auroc"] == {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert set(_results()["rl"]) == {"start", "outcome", "sum_form", "min_form"}
    assert set(_results()["rl"]["start"]) == {"pass_at_1", "mean_steps", "repeated_steps"}


def test_round_trip_with_extra_values(tmp_path):
    results = _results(extra={"table": np.arange(3), "interval": HALF, "undefined": float("nan")})
    path = tmp_path / "run" / "results.json"
    write_results(path, results)
    assert read_results(path) == results == json.loads(path.read_text())
    assert results["table"] == [0, 1, 2]
    assert results["interval"] == number(HALF)
    assert results["undefined"] is None
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_undefined_numbers_are_null():
    assert number(Interval(math.nan, math.nan, math.nan)) == {"mean": None, "low": None, "high": None}
    results = _results()
    results["ece"] = number(Interval(math.nan, math.nan, math.nan))
    assert validate_results(results) is results


def test_nothing_is_written_if_the_results_are_bad(tmp_path):
    results = _results()
    del results["ece"]
    with pytest.raises(InputError, match="field 'ece': is missing"):
        write_results(tmp_path / "results.json", results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change, message", [
    (lambda r: r.pop("rl"), "field 'rl': is missing"),
    (lambda r: r["rl"].pop("min_form"), "field 'rl.min_form': is missing"),
    (lambda r: r["rl"]["start"].pop("mean_steps"), "field 'rl.start.mean_steps': is missing"),
    (lambda r: r.update(ece=0.5), "field 'ece' = 0.5: must be"),
    (lambda r: r["ece"].update(low=0.7), "has low > high"),
    (lambda r: r["ece"].update(low=None), "three finite numbers"),
    (lambda r: r["ece"].update(mean=float("inf")), "three finite numbers"),
    (lambda r: r["seconds"].update(train=-1), "field 'seconds.train' = -1"),
    (lambda r: r.update(seconds=3), "stage -> seconds"),
    (lambda r: r.update(seed=True), "field 'seed' = True: must be an integer"),
    (lambda r: r.update(config_sha256="abc"), "64 hexadecimal digits"),
])
def test_bad_results(change, message):
    results = copy.deepcopy(_results())
    change(results)
    with pytest.raises(InputError, match=message):
        validate_results(results)


def test_extra_values_do_not_replace_others():
    with pytest.raises(InputError, match="already a key"):
        _results(extra={"seed": 4})


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_results(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"pass_at_1":')
    with pytest.raises(InputError, match="half.json: is not valid JSON"):
        read_results(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="must be a JSON object"):
        read_results(tmp_path / "list.json")


def test_to_json_of_nested_values():
    assert to_json({"a": (HALF, np.float32(0.5), np.array([[1, 2]]), None, True)}) == {
        "a": [{"mean": 0.5, "low": 0.4, "high": 0.6}, 0.5, [[1, 2]], None, True]}
