"""Step-labelled files in, labelled solutions out: explicit policies, counts of what was left out, splits by problem."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from jaxprm.errors import InputError
from jaxprm.records import AfterErrorPolicy, LabeledSolution, NeutralPolicy, parse_row, read_json_lines

DATA_VARIABLE = "JAXPRM_DATA"
"""Environment variable that names the folder in which relative data paths of a config are looked up."""


@dataclasses.dataclass(frozen=True)
class SolutionFiles:
    """Which files to learn from and what their ratings mean.

    Attributes:
      files: ``.jsonl`` or ``.jsonl.gz`` paths; see `data_path` for how relative ones are found.
      neutral: how a neutral rating (0) counts: "good", "bad", or "ignore" (not judged).
      after_error: what the steps behind the first wrong one count as: "keep" their own rating, "ignore", or "bad".
      drop_empty_steps: leave out steps without text (counted) instead of refusing the file.
      keep_unlabeled: keep solutions in which no step is judged; otherwise they are left out (counted).
    """

    files: tuple[str, ...]
    neutral: NeutralPolicy = "good"
    after_error: AfterErrorPolicy = "keep"
    drop_empty_steps: bool = False
    keep_unlabeled: bool = False

    def __post_init__(self):
        if not self.files or isinstance(self.files, str):
            raise InputError("must be a tuple of at least one path", field="files", value=self.files)
        if self.neutral not in ("good", "bad", "ignore"):
            raise InputError("must be one of good, bad, ignore", field="neutral", value=self.neutral)
        if self.after_error not in ("keep", "ignore", "bad"):
            raise InputError("must be one of keep, ignore, bad", field="after_error", value=self.after_error)


@dataclasses.dataclass(frozen=True)
class LoadCounts:
    """What `load_solutions` read and left out: ``rows == kept solutions + unlabeled`` (unless those are kept too)."""

    rows: int = 0
    unlabeled: int = 0
    empty_steps: int = 0


def data_path(path: str | os.PathLike) -> Path:
    """Finds a data file: an absolute path as it is, a relative one in ``$JAXPRM_DATA``, then in the working directory.

    Raises:
      InputError: there is no such file.
    """
    path = Path(path).expanduser()
    folder = os.environ.get(DATA_VARIABLE)
    candidates = [path] if path.is_absolute() or not folder else [Path(folder).expanduser() / path, path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    hint = "check the path" if path.is_absolute() else f"set {DATA_VARIABLE} to the folder that holds it"
    raise InputError("no such file", file=candidates[0], hint=hint)


def load_solutions(source: SolutionFiles) -> tuple[list[LabeledSolution], LoadCounts]:
    """Reads all files of ``source`` in order.

    Raises:
      InputError: a missing or damaged file, a malformed row, or nothing left; it names file, row, field and value.
    """
    paths = [data_path(path) for path in source.files]  # all of them first: a wrong second path should not cost a read
    kept: list[LabeledSolution] = []
    rows = unlabeled = empty_steps = 0
    for path in paths:
        for number, row in read_json_lines(path):
            item, empty = parse_row(row, file=path, number=number, neutral=source.neutral,
                                    after_error=source.after_error, drop_empty=source.drop_empty_steps)
            rows += 1
            empty_steps += empty
            judged = item.labels is not None and any(value is not None for value in item.labels.values)
            if judged or source.keep_unlabeled:
                kept.append(item)
            else:
                unlabeled += 1
    if not kept:
        raise InputError(f"no usable solutions ({rows} rows, {unlabeled} of them without a judged step)",
                         file=", ".join(map(str, paths)))
    return kept, LoadCounts(rows, unlabeled, empty_steps)


def problem_hash(prompt: str, salt: int = 0) -> int:
    """64-bit hash of a problem's text in which white space and case do not matter."""
    normalised = "".join(prompt.split()).casefold()
    return int.from_bytes(hashlib.sha256(f"{salt}:{normalised}".encode()).digest()[:8], "big")


def split_by_problem(items: Iterable[LabeledSolution], held_out: float,
                     salt: int = 0) -> tuple[list[LabeledSolution], list[LabeledSolution]]:
    """Splits into (train, held out) so that all solutions of a problem fall on the same side.

    The side depends on the problem's text and ``salt`` alone: it stays when files are added, reordered or filtered.
    ``held_out`` is therefore the expected share of problems, not an exact count.
    """
    if not 0.0 <= held_out < 1.0:
        raise InputError("must be in [0, 1)", field="held_out", value=held_out)
    threshold = held_out * 2**64
    train, test = [], []
    for item in items:
        (test if problem_hash(item.solution.problem.prompt, salt) < threshold else train).append(item)
    return train, test


@dataclasses.dataclass(frozen=True)
class LabelStatistics:
    """Counts over labelled solutions.

    Attributes:
      solutions, problems: rows, and distinct problem texts (white space and case ignored).
      steps, judged: all steps, and those with a label.
      good, bad, soft: labels equal to 1, equal to 0, and strictly between.
      with_error, clean, unknown: solutions whose first error is known, known to be absent, or unknown.
      max_steps: steps of the longest solution.
      mean_label: mean of the judged labels; 0 if there are none.
    """

    solutions: int
    problems: int
    steps: int
    judged: int
    good: int
    bad: int
    soft: int
    with_error: int
    clean: int
    unknown: int
    max_steps: int
    mean_label: float


def label_statistics(items: Iterable[LabeledSolution]) -> LabelStatistics:
    """Counts solutions, steps and labels; solutions without labels count as unknown."""
    problems: set[int] = set()
    lengths: list[int] = []
    judged: list[float] = []
    errors: list[int | None] = []
    for item in items:
        problems.add(problem_hash(item.solution.problem.prompt))
        lengths.append(len(item.solution.steps))
        errors.append(item.labels.first_error if item.labels else None)
        judged += [value for value in (item.labels.values if item.labels else ()) if value is not None]
    good, bad = sum(value == 1.0 for value in judged), sum(value == 0.0 for value in judged)
    clean, unknown = sum(error == -1 for error in errors), sum(error is None for error in errors)
    return LabelStatistics(
        solutions=len(lengths), problems=len(problems), steps=sum(lengths), judged=len(judged), good=good, bad=bad,
        soft=len(judged) - good - bad, with_error=len(errors) - clean - unknown, clean=clean, unknown=unknown,
        max_steps=max(lengths, default=0), mean_label=sum(judged) / len(judged) if judged else 0.0)
