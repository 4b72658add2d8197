"""``jaxprm calibrate``: from the scores of labelled rows to a map that makes them probabilities, measured on other problems.

Rows are those that ``jaxprm score`` writes: our schema with ``scores`` (one per step) and ``aggregate`` (one per solution).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxprm.data.solutions import problem_hash
from jaxprm.errors import InputError
from jaxprm.metrics import brier, expected_calibration_error
from jaxprm.records import LabeledSolution, atomic_write, dump_row, parse_row, read_json_lines
from jaxprm.scoring.calibration import (Calibrator, as_dict, fit_isotonic, fit_platt, fit_quantile_bins, fit_temperature,
                                        from_dict)

Level = Literal["step", "solution"]

KINDS = {"temperature": fit_temperature, "platt": fit_platt, "isotonic": fit_isotonic, "quantile": fit_quantile_bins}


@dataclasses.dataclass(frozen=True)
class CalibrationReport:
    """Numbers of the problems that were not fitted on; ``None`` where scores are no probabilities.

    Attributes:
      fitted, checked: labelled steps (or solutions) on either side.
      bins: equal-width bins of the expected calibration error.
      brier, error: (before, after), mean squared error and expected calibration error.
    """

    fitted: int
    checked: int
    bins: int
    brier: tuple[float | None, float]
    error: tuple[float | None, float]


def fit(paths: Sequence[str | os.PathLike], output: str | os.PathLike, *, kind: str = "temperature", level: Level = "step",
        share: float = 0.5, bins: int = 10) -> CalibrationReport:
    """Fits a calibrator on a share of the problems, measures it on the others, and writes it as JSON.

    Args:
      kind: one of `KINDS`; "temperature" takes probabilities alone, the others any finite scores.
      level: "step" fits step scores to step labels, "solution" aggregates to ``final_correct``.
      share: of the problems that are fitted on, in (0, 1); which ones is decided by their texts alone.
      bins: of the expected calibration error.

    Raises:
      InputError: an option out of range, a bad row, a side without a labelled score, scores that the kind cannot take.
    """
    if kind not in KINDS:
        raise InputError(f"must be one of {', '.join(KINDS)}", field="kind", value=kind)
    if level not in ("step", "solution"):
        raise InputError("must be one of step, solution", field="level", value=level)
    if not 0 < share < 1:
        raise InputError("must be between 0 and 1", field="share", value=share)
    sides: tuple[list, list] = ([], [])
    for path in paths:
        for _, item, row in _rows(Path(path)):
            sides[problem_hash(item.solution.problem.prompt) >= share * 2**64].extend(_pairs(item, row, level))
    names = ", ".join(map(str, paths))
    for side, name in zip(sides, ("fit on", "check with")):
        if not side:
            raise InputError(f"has no labelled score to {name}", file=names, hint="give labelled rows of several problems")
    (scores, labels), (others, truth) = (np.asarray(side, np.float64).T for side in sides)
    try:
        calibrator = KINDS[kind](scores, labels)
        probable = bool(((others >= 0) & (others <= 1)).all())
        after = calibrator(others)
        report = CalibrationReport(
            len(scores), len(others), bins, (brier(others, truth) if probable else None, brier(after, truth)),
            (expected_calibration_error(others, truth, bins).error if probable else None,
             expected_calibration_error(after, truth, bins).error))
    except ValueError as error:
        raise InputError(f"cannot be calibrated ({error})", file=names, field="kind", value=kind) from None
    stored = {"calibrator": as_dict(calibrator), "level": level, "report": dataclasses.asdict(report)}
    with atomic_write(output) as out:
        json.dump(stored, out, indent=2)
        out.write("\n")
    return report


def use(paths: Sequence[str | os.PathLike], calibrator: str | os.PathLike, output: str | os.PathLike) -> int:
    """Writes rows with calibrated ``scores`` (or ``aggregate``, as it was fitted) and returns how many. What was there before
    is kept as ``raw_scores`` (``raw_aggregate``).

    Raises:
      InputError: the calibrator cannot be read, a bad row, a row that is calibrated already.
    """
    fitted, level = load(calibrator)
    field = "scores" if level == "step" else "aggregate"
    count = 0
    with atomic_write(output) as out:
        for path in paths:
            for number, _, row in _rows(Path(path)):
                if f"raw_{field}" in row:
                    raise InputError("is there already: the row is calibrated", file=path, row=number, field=f"raw_{field}")
                row[f"raw_{field}"] = row[field]
                values = row[field] if level == "step" else [row[field]]
                values = [None if value is None else float(fitted(value)) for value in values]
                row[field] = values if level == "step" else values[0]
                out.write(dump_row(row) + "\n")
                count += 1
    return count


def load(path: str | os.PathLike) -> tuple[Calibrator, Level]:
    """A calibrator that `fit` has written, and what it calibrates.

    Raises:
      InputError: it is none.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        return from_dict(stored["calibrator"]), stored["level"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is no calibrator ({error})", file=path, hint="`jaxprm calibrate` writes them") from None


def _rows(path: Path) -> Iterator[tuple[int, LabeledSolution, dict[str, Any]]]:
    for number, row in read_json_lines(path):
        item, _ = parse_row(row, file=path, number=number, keep_empty=True)
        scores = row.get("scores")
        if not isinstance(scores, list) or len(scores) != len(row["steps"]):
            raise InputError(f"must be a list of {len(row['steps'])} numbers, one per step", file=path, row=number,
                             field="scores", value=scores, hint="`jaxprm score` writes such rows")
        for name, value in [(f"scores[{index}]", score) for index, score in enumerate(scores)] + [
                ("aggregate", row.get("aggregate"))]:
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value)):
                raise InputError("must be a finite number or null", file=path, row=number, field=name, value=value)
        yield number, item, row


def _pairs(item: LabeledSolution, row: dict[str, Any], level: Level) -> list[tuple[float, float]]:
    if level == "solution":
        aggregate, correct = row.get("aggregate"), item.solution.correct
        return [] if aggregate is None or correct is None else [(aggregate, float(correct))]
    labels = item.labels.values if item.labels else ()
    return [(score, label) for score, label in zip(row["scores"], labels) if score is not None and label is not None]
