"""Every row that cannot be read, by file and line, and what is odd about those that can."""

from __future__ import annotations

import dataclasses
import hashlib

from jaxprm.data.tools.source import Errors, HashSet, Source


@dataclasses.dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
      rows, solutions: that could be read.
      unreadable: rows that could not; ``messages`` holds the first ones.
      repeated_ids: solutions with an id that an earlier one has.
      unlabeled: solutions without a judged step.
      clean_but_wrong: no wrong step, and a final answer that is wrong.
      error_but_right: a wrong step, and a final answer that is right (both may be true; many hint at a wrong index base).
    """

    rows: int
    solutions: int
    unreadable: int
    messages: tuple[str, ...]
    repeated_ids: int
    unlabeled: int
    clean_but_wrong: int
    error_but_right: int


def validate(source: Source) -> Validation:
    """Reads everything and stops at nothing but a file that cannot be opened."""
    errors, ids = Errors(strict=False), HashSet()
    rows = solutions = repeated = unlabeled = clean = error = 0
    for _, _, items in source.rows(errors):
        rows += 1
        for item in items:
            solutions += 1
            key = hashlib.blake2b(item.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            repeated += not ids.add(int.from_bytes(key, "big"))
            unlabeled += item.labels is None or all(value is None for value in item.labels.values)
            wrong = item.labels.first_error if item.labels else None
            clean += wrong == -1 and item.solution.correct is False
            error += wrong is not None and wrong >= 0 and item.solution.correct is True
    return Validation(rows, solutions, errors.count, tuple(errors.messages), repeated, unlabeled, clean, error)
