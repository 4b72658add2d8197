"""Scores kept on disk, so that a second metric of the same model on the same solutions costs no forward pass.

A score is known by the model's fingerprint (every weight and setting) and by what it read: the token ids and read positions of
the solution. These are made anew each time, so that a change of tokenizer, template or step format can never meet an old score.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxprm.errors import InputError
from jaxprm.models.parameters import parameters
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.implicit import ImplicitModel

MAX_BYTES = 256 * 2**20
_ROW_BYTES = 100  # of key, time and index, beside the scores
_VERSION = b"scores-1"


def model_fingerprint(model: RewardModel | ImplicitModel) -> str:
    """SHA-256 (hex) of everything in a model that its scores depend on: architecture, head, type, weights."""
    digest = hashlib.sha256(type(model).__name__.encode())
    if isinstance(model, ImplicitModel):
        digest.update(repr(model.coefficient).encode())
        _add(digest, model.policy)
        _add(digest, model.reference)
    else:
        _add(digest, model)
    return digest.hexdigest()


def _add(digest, model: RewardModel | LanguageModel) -> None:
    digest.update(repr(model.config).encode())
    if isinstance(model, RewardModel):
        digest.update(repr(model.head.config).encode())
    for name, value in parameters(model).items():
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8))


def score_key(fingerprint: str, rows: Sequence[tuple]) -> bytes:
    """The key of one solution: of the model, and of the rows that it reads (see `StepScorer.encode_rows`)."""
    content = json.dumps(rows, default=int, separators=(",", ":"))
    return hashlib.sha256(_VERSION + fingerprint.encode() + content.encode()).digest()


class ScoreCache:
    """A file of scores, float32; the least recently used ones make room.

    Writes are transactions of SQLite: a process that is killed leaves the scores of the last whole batch, and several processes
    may share the file.

    Args:
      folder: where the file lies; it is made.
      max_bytes: about the most it may hold.

    Raises:
      InputError: (by every method, too) the file cannot be opened, or is damaged.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: int = MAX_BYTES):
        self.path, self.max_bytes = Path(folder) / "scores.sqlite", max_bytes
        with self._access():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self.path, timeout=60)
            with self._file:
                self._file.execute("CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, value BLOB, used REAL)"
                                   " WITHOUT ROWID")

    def get(self, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Those of the keys that are known, with their scores."""
        found = {}
        with self._access(), self._file:
            for key in keys:
                row = self._file.execute("SELECT value FROM scores WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = np.frombuffer(row[0], np.float32)
            now = time.time()
            self._file.executemany("UPDATE scores SET used = ? WHERE key = ?", [(now, key) for key in found])
        return found

    def put(self, scores: dict[bytes, np.ndarray]) -> None:
        """Adds scores; the ones longest unused go where there are more than fit."""
        now = time.time()
        rows = [(key, np.asarray(value, np.float32).tobytes(), now) for key, value in scores.items()]
        with self._access(), self._file:
            self._file.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)
            held, = self._file.execute(f"SELECT TOTAL(LENGTH(value) + {_ROW_BYTES}) FROM scores").fetchone()
            if held > self.max_bytes:
                # A fifth more than needed, so that the next call does not have to do it again.
                surplus, dropped = held - 0.8 * self.max_bytes, []
                for key, size in self._file.execute("SELECT key, LENGTH(value) FROM scores ORDER BY used"):
                    if surplus <= 0:
                        break
                    surplus -= size + _ROW_BYTES
                    dropped.append((key,))
                self._file.executemany("DELETE FROM scores WHERE key = ?", dropped)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @contextlib.contextmanager
    def _access(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"cannot be used as a score cache ({error})", file=self.path,
                             hint="delete it, choose another folder with --cache, or give --no-cache") from None
