"""MinHash signatures and their bands, over numpy: which texts share most of their word sequences.

Broder 1997: for a random order of all shingles, two texts have the same first shingle with the probability of their Jaccard
similarity. A signature holds the first ones of many orders; texts that agree in all entries of at least one band of it are
compared (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4).

Why no library: the index of datasketch 2.0 (`MinHashLSH`) holds every row's bands in dictionaries, about 3.4 kB of memory per
row and so 34 GB for ten million, and with its bands for a similarity of 0.8 (9 of 13 entries) 60 % of the pairs that are just
so similar are never compared. Here one sorted band at a time is in memory (`dedup`: 40 bytes per row), and fewer than 1 % of
these pairs are missed. What is left to take over, the signature, is five lines here, and faster
(``python experiments/performance/data/minhash.py``).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib

import numpy as np

from jaxprm.errors import InputError

_WORD = re.compile(r"\w+|[^\w\s]")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SEED = 1


def word_hashes(text: str) -> np.ndarray:
    """uint64[W]: a hash of every word or sign of a text; case does not matter."""
    words = _WORD.findall(text.casefold())
    return np.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words), np.uint64, len(words))


def ngram_hashes(text: str, size: int) -> np.ndarray:
    """uint64[N]: distinct hashes of all runs of ``size`` words; a shorter text is one run. Empty for a text without words."""
    words = word_hashes(text)
    if not len(words):
        return words
    runs = np.lib.stride_tricks.sliding_window_view(words, min(size, len(words)))
    hashes = np.full(len(runs), len(runs[0]), np.uint64)
    for column in runs.T:
        hashes = _scramble(hashes * _MIX + column)
    return np.unique(hashes)


def _scramble(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class MinHash:
    """Signatures of ``permutations`` entries for a similarity of at least ``threshold``."""

    threshold: float = 0.8
    shingle: int = 5
    permutations: int = 128

    def __post_init__(self):
        if not 0 < self.threshold <= 1:
            raise InputError("must be in (0, 1]", field="threshold", value=self.threshold)
        for field in ("shingle", "permutations"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        random = np.random.default_rng(_SEED)
        factors = random.integers(0, 2**63, (2, self.permutations), np.uint64)
        object.__setattr__(self, "_factors", (factors[0] | np.uint64(1), factors[1]))

    @functools.cached_property
    def rows(self) -> int:
        """Entries per band: as many as keep the chance of missing a pair at the threshold below 1 %."""
        return max((rows for rows in range(1, self.permutations + 1)
                    if (1 - self.threshold**rows) ** (self.permutations // rows) <= 0.01), default=1)

    @property
    def bands(self) -> int:
        return self.permutations // self.rows

    def signature(self, text: str) -> np.ndarray:
        """uint32[permutations]; a text without words has all entries at the maximum."""
        grams = ngram_hashes(text, self.shingle)
        if not len(grams):
            return np.full(self.permutations, 2**32 - 1, np.uint32)
        factor, offset = self._factors
        # The high half of a product is the better mixed one (multiply-shift hashing).
        lowest = (grams[:, None] * factor + offset >> np.uint64(32)).min(axis=0)
        return lowest.astype(np.uint32)

    def band_keys(self, signatures: np.ndarray) -> np.ndarray:
        """uint32[N, permutations] -> uint64[bands, N]: equal where two signatures agree in a whole band."""
        entries = signatures[:, :self.bands * self.rows].reshape(len(signatures), self.bands, self.rows).astype(np.uint64)
        keys = np.repeat(np.arange(self.bands, dtype=np.uint64)[:, None], len(signatures), axis=1)
        for entry in range(self.rows):
            keys = _scramble(keys * _MIX + entries[:, :, entry].T)
        return keys
