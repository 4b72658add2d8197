"""Exact and near duplicates out; the first of each group of equals stays."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxprm.data.tools.minhash import MinHash
from jaxprm.data.tools.source import Errors, HashSet, Source, refuse_same, write_line
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, atomic_write

By = Literal["solution", "problem"]

_PAIRS = 1 << 16  # candidate pairs that are compared at a time
_WAITING = 1 << 12  # signatures that are written at a time


@dataclasses.dataclass(frozen=True)
class DedupCounts:
    """Rows read, exact duplicates left out, near duplicates left out, rows written."""

    rows: int
    exact: int
    near: int
    kept: int


def dedup(source: Source, output: str | os.PathLike, *, by: By = "solution", near: MinHash | None = None,
          errors: Errors | None = None) -> DedupCounts:
    """Writes the raw rows that are no duplicate of an earlier one.

    Exact duplicates agree in their text, white space and case ignored. 8 bytes of memory per distinct row (24 while the set
    grows); near duplicates take 40 bytes per row, and about 700 bytes per row of disk beside the output while it works.

    Args:
      by: compare problem and steps ("solution"), or the problem alone.
      near: also leave out texts whose word sequences are about as similar as ``near.threshold`` (Jaccard, estimated; groups are
        closed under similarity: A near B and B near C make one group of three).

    Raises:
      InputError: a bad row (unless ``errors`` counts), an output that is also read.
    """
    if by not in ("solution", "problem"):
        raise InputError("must be one of solution, problem", field="by", value=by)
    refuse_same(output, source.paths)
    duplicates = None if near is None else _near_duplicates(source, output, by, near)
    seen, rows, exact, close, kept = HashSet(), 0, 0, 0, 0
    with atomic_write(output) as out:
        for _, raw, items in source.rows(errors):
            if not items:
                continue
            if not seen.add(_key(_text(items, by))):
                exact += 1
            elif duplicates is not None and duplicates[rows]:
                close += 1
            else:
                write_line(out, raw)
                kept += 1
            rows += 1
    return DedupCounts(rows, exact, close, kept)


def _text(items: Sequence[LabeledSolution], by: By) -> str:
    problem = items[0].solution.problem.prompt
    if by == "problem":
        return problem
    return "\n".join([problem, *(step for item in items for step in item.solution.steps)])


def _key(text: str) -> int:
    normal = "".join(text.split()).casefold().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(normal, digest_size=8).digest(), "big")


def _near_duplicates(source: Source, output, by: By, near: MinHash) -> np.ndarray:
    """bool[rows]: whether a row is similar to an earlier one. Signatures and band keys wait on disk."""
    folder = Path(output).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dedup-", dir=folder) as scratch:
        signatures, keys = Path(scratch) / "signatures", [Path(scratch) / f"band{band}" for band in range(near.bands)]
        count, waiting = 0, []
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "wb")) for path in (signatures, *keys)]

            def store() -> None:
                table = np.array(waiting, np.uint32).reshape(-1, near.permutations)
                for file, rows in zip(files, (table, *near.band_keys(table))):
                    file.write(rows.tobytes())
                waiting.clear()

            for _, _, items in source.rows(Errors(strict=False)):  # the second pass over the rows reports the errors
                if not items:
                    continue
                waiting.append(near.signature(_text(items, by)))
                count += 1
                if len(waiting) == _WAITING:
                    store()
            store()
        if not count:
            return np.zeros(0, bool)
        table = np.memmap(signatures, np.uint32, "r", shape=(count, near.permutations))
        first = np.arange(count, dtype=np.int32)  # union-find: each row's group is named by its earliest row
        for path in keys:
            for left, right in _candidates(np.fromfile(path, np.uint64)):
                same = (table[left] == table[right]).mean(axis=1) >= near.threshold
                for a, b in zip(left[same].tolist(), right[same].tolist()):
                    _join(first, a, b)
        del table
    return first != np.arange(count)


def _candidates(keys: np.ndarray):
    """Pairs of rows with equal keys, in pieces: each row with the first of its bucket, and with the one before it."""
    order = np.argsort(keys, kind="stable")
    equal = keys[order][1:] == keys[order][:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~equal]))
    heads = order[np.repeat(starts, np.diff(np.append(starts, len(order))))]
    right = order[1:][equal]
    for left in (heads[1:][equal], order[:-1][equal]):
        for start in range(0, len(right), _PAIRS):
            yield left[start:start + _PAIRS], right[start:start + _PAIRS]


def _join(first: np.ndarray, a: int, b: int) -> None:
    roots = []
    for row in (a, b):
        while first[row] != row:
            first[row] = first[first[row]]
            row = int(first[row])
        roots.append(row)
    first[max(roots)] = min(roots)
