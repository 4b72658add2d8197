"""Host data: problems, solutions in steps, step labels, and their JSONL form.

A label is a number in [0, 1] (1 = the step is right) or ``None`` (not judged). Ratings in files are -1 / 0 / +1 or
null; how a *neutral* rating (0) counts and what happens *after the first error* are explicit policies, written next
to the labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from jaxprm.errors import InputError

NeutralPolicy = Literal["good", "bad", "ignore"]
AfterErrorPolicy = Literal["keep", "ignore", "bad"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with its reference answer (``None`` where unknown). ``meta`` holds whatever the task or source
    adds."""

    id: str
    prompt: str
    answer: str | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Solution:
    """A solution in steps. ``answer`` is its final answer, ``correct`` whether that answer is right (``None`` =
    unknown)."""

    problem: Problem
    steps: tuple[str, ...]
    answer: str | None = None
    correct: bool | None = None
    generator: str | None = None


@dataclasses.dataclass(frozen=True)
class StepLabels:
    """One label per step.

    Attributes:
      values: number in [0, 1] or ``None`` (not judged) per step.
      first_error: 0-based index of the first wrong step, -1 = no wrong step, ``None`` = unknown.
      made_by: who made the labels and with what settings, e.g. ``"verifier"`` or ``"human; neutral=good,
        after_error=ignore"``.
      cost: what they cost (``{"rollouts": 8, "policy_tokens": 512}``), empty where free.
    """

    values: tuple[float | None, ...]
    first_error: int | None = None
    made_by: str = ""
    cost: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LabeledSolution:
    """One row of a step-labelled file: a solution, its labels (``None`` where no step is judged) and an id."""

    id: str
    solution: Solution
    labels: StepLabels | None = None


def label_from_rating(rating: int | float | None, neutral: NeutralPolicy) -> float | None:
    """-1 -> 0.0, +1 -> 1.0, 0 -> by ``neutral`` (1.0, 0.0 or None), None -> None."""
    if rating is None:
        return None
    if rating == 0:
        return {"good": 1.0, "bad": 0.0, "ignore": None}[neutral]
    return 1.0 if rating > 0 else 0.0


def labels_from_ratings(ratings: Iterable[int | None], *, neutral: NeutralPolicy, after_error: AfterErrorPolicy,
                        made_by: str = "", first_error: int | None = None) -> StepLabels:
    """Turns -1 / 0 / +1 / null ratings into labels.

    ``after_error``: steps after the first wrong one keep their own rating (``keep``), count as not judged
    (``ignore``), or count as wrong (``bad``). ``first_error`` is computed from the labels if not given: it is the
    first 0.0, else -1 if every step is judged, else unknown.
    """
    values = [label_from_rating(rating, neutral) for rating in ratings]
    wrong = next((i for i, value in enumerate(values) if value == 0.0), None)
    if first_error is None and wrong is not None:
        first_error = wrong
    elif first_error is None and values and all(value is not None for value in values):
        first_error = -1
    if first_error is not None and first_error >= 0 and after_error != "keep":
        tail = 0.0 if after_error == "bad" else None
        values[first_error + 1:] = [tail] * len(values[first_error + 1:])
    policy = f"neutral={neutral}, after_error={after_error}"
    return StepLabels(tuple(values), first_error, f"{made_by}; {policy}" if made_by else policy)


def _require(row: dict, field: str, kind, file, number: int, *, optional: bool = False):
    value = row.get(field)
    if field not in row or (value is None and not optional):
        if optional:
            return None
        raise InputError("is missing" if field not in row else "must not be null", file=file, row=number, field=field,
                         hint="each row needs 'problem' (text) and 'steps' (list of texts)")
    if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise InputError(f"has type {type(value).__name__}", file=file, row=number, field=field, value=value,
                         hint=f"it must be a {_JSON_TYPES[kind]}" + (" or null" if optional else ""))
    return value


_JSON_TYPES = {str: "text", list: "list", dict: "JSON object", bool: "boolean (true or false)", int: "whole number"}


def _labels_field(row: dict, field: str, steps: int, allowed, message: str, file, number: int) -> list | None:
    """A list with one number or null per step, ``None`` if the row has none."""
    values = _require(row, field, list, file, number, optional=True)
    if values is None:
        return None
    if len(values) != steps:
        raise InputError(f"has {len(values)} labels for {steps} steps", file=file, row=number, field=field,
                         hint="one label per step is needed, null where a step is not judged")
    for index, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not allowed(value)):
            raise InputError(message, file=file, row=number, field=f"{field}[{index}]", value=value)
    return values


def _labels(row: dict, kept: list[int], ratings: list | None, soft: list | None, first_error: int | None,
            neutral: NeutralPolicy, after_error: AfterErrorPolicy) -> StepLabels | None:
    """The labels of the kept steps.

    A row with ``made_by`` was written by `to_row`: it names its policies already, and is restored exactly unless
    another policy is asked for here.
    """
    if ratings is None and soft is None:
        return None
    if ratings is None:
        ratings = [None if value is None else (1 if value >= 0.5 else -1) for value in soft]
    ratings = [ratings[i] for i in kept]
    soft = None if soft is None else [None if soft[i] is None else float(soft[i]) for i in kept]
    made_by, cost = str(row.get("made_by") or ""), dict(row.get("cost") or {})
    if "made_by" in row and after_error == "keep" and 0 not in ratings:
        values = soft if soft is not None else [label_from_rating(rating, neutral) for rating in ratings]
        return StepLabels(tuple(values), first_error, made_by, cost)
    labels = labels_from_ratings(ratings, neutral=neutral, after_error=after_error,
                                 made_by=made_by or str(row.get("source") or ""), first_error=first_error)
    if "first_error" in row and first_error is None and labels.first_error == -1:
        # An explicit null says "unknown" (a trajectory that stops early): all steps being right does not overrule it.
        labels = dataclasses.replace(labels, first_error=None)
    if soft is not None:
        # The policy has decided the steps after the first error; the others keep their soft labels.
        decided = len(soft) if labels.first_error in (None, -1) or after_error == "keep" else labels.first_error + 1
        labels = dataclasses.replace(labels, values=(*soft[:decided], *labels.values[decided:]))
    return dataclasses.replace(labels, cost=cost)


def parse_row(row: Any, *, file=None, number: int = 1, neutral: NeutralPolicy = "good",
              after_error: AfterErrorPolicy = "keep", drop_empty: bool = False,
              keep_empty: bool = False) -> tuple[LabeledSolution, int]:
    """One JSON object of the interchange schema -> (LabeledSolution, number of empty steps dropped).

    Labels come from ``labels`` (-1, 0, 1 or null) or, more finely, from ``soft_labels`` (numbers in [0, 1] or null). An
    absent ``first_error`` is computed from the labels. One that is null means unknown: it is not taken for "no error"
    where every label is good, but a label that is wrong does place the error.

    Raises:
      InputError: a field is missing or of the wrong type, a step is empty (unless ``drop_empty``, or ``keep_empty`` for a
        reader that gives a score to empty steps, too), or the number of labels differs from the number of steps.
    """
    if not isinstance(row, dict):
        raise InputError(f"a row must be a JSON object, not {type(row).__name__}", file=file, row=number,
                         hint="write one object with 'problem' and 'steps' per line")
    prompt = _require(row, "problem", str, file, number)
    steps = _require(row, "steps", list, file, number)
    if not steps:
        raise InputError("has no steps", file=file, row=number, field="steps", value=steps)
    for index, step in enumerate(steps):
        if not isinstance(step, str):
            raise InputError("must be a text", file=file, row=number, field=f"steps[{index}]", value=step)
    ratings = _labels_field(row, "labels", len(steps), lambda value: value in (-1, 0, 1),
                            "must be -1, 0, 1 or null (numbers in between go to 'soft_labels')", file, number)
    soft = _labels_field(row, "soft_labels", len(steps), lambda value: 0 <= value <= 1,
                         "must be a number from 0 to 1, or null", file, number)
    first_error = _require(row, "first_error", int, file, number, optional=True)
    if first_error is not None and not -1 <= first_error < len(steps):
        raise InputError(f"is not a step index (the row has {len(steps)} steps)", file=file, row=number,
                         field="first_error", value=first_error)
    kept = [i for i, step in enumerate(steps) if step.strip() or keep_empty]
    if len(kept) < len(steps) and not drop_empty:
        empty = next(i for i in range(len(steps)) if i not in set(kept))
        raise InputError("is an empty step", file=file, row=number, field=f"steps[{empty}]", value=steps[empty],
                         hint="drop empty steps with drop_empty_steps = True in the config (--drop-empty for `score`, `bench`)")
    if not kept:
        raise InputError("has only empty steps", file=file, row=number, field="steps", value=steps)
    if first_error is not None and first_error >= 0:  # re-index; an error at a dropped step moves to the next kept one
        first_error = next((new for new, old in enumerate(kept) if old >= first_error), None)
    identifier, problem_id = row.get("id"), row.get("problem_id")
    identifier = str(number if identifier is None else identifier)
    problem = Problem(id=identifier if problem_id is None else str(problem_id), prompt=prompt,
                      answer=_text(row.get("answer")),
                      meta=_require(row, "meta", dict, file, number, optional=True) or {})
    _require(row, "cost", dict, file, number, optional=True)
    solution = Solution(problem, tuple(steps[i] for i in kept), answer=_text(row.get("final_answer")),
                        correct=_require(row, "final_correct", bool, file, number, optional=True),
                        generator=_text(row.get("generator")))
    labels = _labels(row, kept, ratings, soft, first_error, neutral, after_error)
    return LabeledSolution(identifier, solution, labels), len(steps) - len(kept)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def read_json_lines(path: str | os.PathLike, on_error: Callable[[InputError], None] | None = None,
                    first: int = 1) -> Iterator[tuple[int, Any]]:
    """Yields (1-based line number, JSON value) of a ``.jsonl`` or ``.jsonl.gz`` file; blank lines are skipped.

    ``on_error`` is called with the error of a line that is not JSON or not UTF-8, and reading goes on behind it; without it
    the first such line raises. Lines before number ``first`` are passed over without a look.

    Raises:
      InputError: the file is missing, not gzip although named ``.gz``, truncated, not UTF-8, or a line is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("is not a file" if path.exists() else "no such file", file=path, hint="check the path")
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if number < first:
                    continue
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    if not text.strip():
                        continue
                    value = _parse_json(text, path, number)
                except UnicodeDecodeError as error:
                    value = _damaged(error, path, number)
                except InputError as error:
                    value = error
                if not isinstance(value, InputError):
                    yield number, value
                elif on_error is None:
                    raise value
                else:
                    on_error(value)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise _damaged(error, path, number + 1) from None


def _damaged(error: Exception, path: Path, number: int) -> InputError:
    return InputError(f"cannot be read ({error})", file=path, row=number, hint="the file is damaged or truncated")


def _parse_json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        reason = str(error)
    raise InputError(f"is not valid JSON ({reason})", file=path, row=number, hint="each line must be one JSON object")


def read_solutions(path: str | os.PathLike, *, neutral: NeutralPolicy = "good", after_error: AfterErrorPolicy = "keep",
                   drop_empty: bool = False) -> Iterator[LabeledSolution]:
    """Streams a step-labelled JSONL file; see `parse_row` for what raises."""
    for number, row in read_json_lines(path):
        yield parse_row(row, file=path, number=number, neutral=neutral, after_error=after_error,
                        drop_empty=drop_empty)[0]


def to_row(item: LabeledSolution) -> dict[str, Any]:
    """The interchange form of a labelled solution, which `parse_row` restores exactly.

    Labels 0.0 / 1.0 / None become -1 / 1 / null; soft labels stay numbers under ``soft_labels``, beside their
    rounding."""
    solution, labels = item.solution, item.labels
    row: dict[str, Any] = {"id": item.id, "problem": solution.problem.prompt, "steps": list(solution.steps),
                           "labels": None, "first_error": None, "answer": solution.problem.answer,
                           "final_answer": solution.answer, "final_correct": solution.correct,
                           "generator": solution.generator, "problem_id": solution.problem.id,
                           "meta": solution.problem.meta}
    if labels is not None:
        row["labels"] = [None if value is None else (1 if value >= 0.5 else -1) for value in labels.values]
        row["first_error"] = labels.first_error
        row["made_by"] = labels.made_by
        if any(value not in (None, 0.0, 1.0) for value in labels.values):
            row["soft_labels"] = list(labels.values)
        if labels.cost:
            row["cost"] = labels.cost
    return row


def dump_row(row: dict[str, Any]) -> str:
    """One line of JSON, without the line break; text that UTF-8 cannot hold (lone surrogates) is escaped."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike):
    """Opens a temporary text file beside ``path`` and moves it there only if the block succeeds: no half-written
    output.

    Raises:
      InputError: the path is a folder, or cannot be written, before the block runs; the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("is a folder", file=path, hint="give the name of a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = open(temporary, "wb")
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", file=path, hint="choose another place") from None
    try:
        with contextlib.ExitStack() as files:
            out = files.enter_context(raw)
            if path.suffix == ".gz":  # neither name nor time in the header: equal content makes equal files
                out = files.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0))
            yield files.enter_context(io.TextIOWrapper(out, encoding="utf-8", newline="\n"))
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(f"cannot be written ({error.strerror})", file=path, hint="make room on the disk") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(path: str | os.PathLike, rows: Iterable[dict[str, Any]]) -> int:
    """Writes one JSON object per line, all or nothing; returns how many."""
    count = 0
    with atomic_write(path) as out:
        for row in rows:
            out.write(dump_row(row) + "\n")
            count += 1
    return count


def write_solutions(path: str | os.PathLike, items: Iterable[LabeledSolution]) -> int:
    """Writes rows of the interchange schema, all or nothing; returns how many."""
    return write_rows(path, map(to_row, items))
