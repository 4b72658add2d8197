"""``results.json``: every number of a run with its interval, under fixed keys.

    {"pass_at_1": {"mean": 0.39, "low": 0.36, "high": 0.42}, ..., "rl": {"start": {"pass_at_1": {...}, ...}, ...},
     "seconds": {"train": 81.2, ...}, "seed": 0, "config_sha256": "9f86d081..."}

Means and bounds are in the unit of the quantity (a fraction for accuracies); ``null`` stands for an undefined number,
as the F1 of a set without wrong steps.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.errors import InputError
from jaxprm.records import atomic_write

NUMBER_KEYS = ("pass_at_1", "majority_at_8", "prm_best_at_8", "prm_weighted_at_8", "beam_at_8", "oracle_at_8",
               "prm_best_minus_majority_at_8", "step_auroc", "step_auroc_within_position", "first_error_f1", "ece",
               "mc_agreement")
RL_VARIANTS = ("start", "outcome", "sum_form", "min_form")
RL_NUMBER_KEYS = ("pass_at_1", "mean_steps", "repeated_steps")
PLAIN_KEYS = ("seconds", "seed", "config_sha256")


def number(interval) -> dict[str, float | None]:
    """An object with ``mean``, ``low`` and ``high`` -> its JSON form; NaN becomes ``None``."""
    values = {name: float(getattr(interval, name)) for name in ("mean", "low", "high")}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def to_json(value):
    """Dataclasses, NumPy arrays and scalars, tuples and mappings -> what ``json.dump`` takes; NaN becomes ``None``."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def build_results(numbers: Mapping[str, Any], rl: Mapping[str, Mapping[str, Any]], *, seconds: Mapping[str, float],
                  seed: int, config_sha256: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Assembles and checks the content of ``results.json``.

    Args:
      numbers: an interval (anything with ``mean``, ``low``, ``high``) for each of `NUMBER_KEYS`, and any others.
      rl: for each of `RL_VARIANTS` an interval for each of `RL_NUMBER_KEYS`, and any others.
      seconds: wall-clock seconds per stage.
      seed: the seed of the run.
      config_sha256: SHA-256 (hex) of the operative configuration.
      extra: further values, see `to_json`; may not replace a key given elsewhere.

    Raises:
      InputError: see `validate_results`; or a key of ``extra`` is already taken.
    """
    results = {key: number(value) for key, value in numbers.items()}
    results["rl"] = {variant: {key: number(value) for key, value in row.items()} for variant, row in rl.items()}
    results |= {"seconds": {stage: float(value) for stage, value in seconds.items()}, "seed": seed,
                "config_sha256": config_sha256}
    for key, value in (extra or {}).items():
        if key in results:
            raise InputError("is already a key of the results", field=key, hint="rename the extra value")
        results[key] = to_json(value)
    return validate_results(results)


def validate_results(results: Any, *, file: str | os.PathLike | None = None) -> dict[str, Any]:
    """Returns ``results`` if it holds every key of the schema with values of the right form. Other keys are allowed.

    Raises:
      InputError: a key is missing, a number is not ``{"mean", "low", "high"}``, its bounds are out of order,
        ``seconds`` is not a non-negative number per stage, ``seed`` not an integer, or ``config_sha256`` not 64
        hexadecimal digits.
    """
    if not isinstance(results, dict):
        raise InputError("results must be a JSON object", file=file, value=results)
    for key in (*NUMBER_KEYS, "rl", *PLAIN_KEYS):
        _require(results, key, key, file)
    for key in NUMBER_KEYS:
        _check_number(results[key], key, file)
    for variant in RL_VARIANTS:
        row = _require(results["rl"], variant, f"rl.{variant}", file)
        for key in RL_NUMBER_KEYS:
            _check_number(_require(row, key, f"rl.{variant}.{key}", file), f"rl.{variant}.{key}", file)
    if not isinstance(results["seconds"], dict):
        raise InputError("must be an object stage -> seconds", file=file, field="seconds", value=results["seconds"])
    for stage, value in results["seconds"].items():
        if not _is_number(value) or value < 0:
            raise InputError("must be a number >= 0", file=file, field=f"seconds.{stage}", value=value)
    if not isinstance(results["seed"], int) or isinstance(results["seed"], bool):
        raise InputError("must be an integer", file=file, field="seed", value=results["seed"])
    if not isinstance(results["config_sha256"], str) or not re.fullmatch("[0-9a-f]{64}", results["config_sha256"]):
        raise InputError("must be 64 hexadecimal digits", file=file, field="config_sha256",
                         value=results["config_sha256"])
    return results


def write_results(path: str | os.PathLike, results: dict[str, Any]) -> None:
    """Checks ``results`` and writes them as JSON, all or nothing."""
    validate_results(results)
    text = json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False)
    with atomic_write(path) as out:
        out.write(text + "\n")


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """Reads and checks a ``results.json``.

    Raises:
      InputError: the file is missing, is not JSON, or does not follow the schema.
    """
    if not Path(path).is_file():
        raise InputError("no such file", file=path, hint="check the path")
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not valid JSON ({error})", file=path) from None
    return validate_results(results, file=path)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(row, key: str, field: str, file):
    if not isinstance(row, dict) or key not in row:
        raise InputError("is missing", file=file, field=field)
    return row[key]


def _check_number(value, field: str, file) -> None:
    if not isinstance(value, dict) or not {"mean", "low", "high"} <= value.keys():
        raise InputError('must be {"mean", "low", "high"}', file=file, field=field, value=value)
    parts = [value["mean"], value["low"], value["high"]]
    if all(part is None for part in parts):
        return
    if not all(_is_number(part) for part in parts):
        raise InputError("must hold three finite numbers, or three nulls if undefined", file=file, field=field,
                         value=value)
    if value["low"] > value["high"]:
        raise InputError("has low > high", file=file, field=field, value=value)
