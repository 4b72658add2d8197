"""Splits by problem: all solutions of a problem fall into one part, whatever file and order they come in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from jaxprm.data.solutions import problem_hash
from jaxprm.data.tools.source import Errors, Source, refuse_same, write_line
from jaxprm.errors import InputError
from jaxprm.records import atomic_write


def split(source: Source, folder: str | os.PathLike, parts: Mapping[str, float], *, salt: int = 0,
          errors: Errors | None = None, suffix: str = ".jsonl") -> dict[str, int]:
    """Writes raw rows to ``FOLDER/PART.jsonl``; returns the number of rows of each part.

    The part depends on the problem's text (white space and case ignored) and ``salt`` alone: it stays when files are added or
    reordered, and when only later parts are resized. Shares are expected shares of problems, not exact counts.

    Args:
      parts: name -> share; the shares sum to 1.

    Raises:
      InputError: shares that do not sum to 1, a name that is no file name, a row that cannot be read. No part is written then.
    """
    for name, share in parts.items():
        if not name or set(name) & set("/\\") or name.startswith("."):
            raise InputError("must be a plain name", field="parts", value=name)
        if not 0 < share <= 1:
            raise InputError(f"must have a share in (0, 1], not {share}", field="parts", value=name)
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise InputError(f"sum to {sum(parts.values()):g}", field="parts", value=dict(parts), hint="shares must sum to 1")
    bounds, total = [], 0.0
    for name, share in parts.items():
        total += share
        bounds.append((total * 2**64, name))
    bounds[-1] = (2.0**65, bounds[-1][1])  # rounding must not leave anything over
    paths = {name: Path(folder) / f"{name}{suffix}" for name in parts}
    for path in paths.values():
        refuse_same(path, source.paths)
    counts = dict.fromkeys(parts, 0)
    with contextlib.ExitStack() as files:
        outputs = {name: files.enter_context(atomic_write(path)) for name, path in paths.items()}
        for _, raw, items in source.rows(errors):
            if not items:
                continue
            place = problem_hash(items[0].solution.problem.prompt, salt)
            name = next(name for bound, name in bounds if place < bound)
            write_line(outputs[name], raw)
            counts[name] += 1
    return counts
