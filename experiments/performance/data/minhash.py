"""Our near duplicates beside those of datasketch: time of a signature, memory of the index, pairs that are found.

    pip install datasketch
    python experiments/performance/data/minhash.py --rows 20000

Both get the same hashed word sequences of synthetic rows (`convert.py`). Prints one JSON object; times are CPU time.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from convert import write_rows
from datasketch import MinHash as Theirs
from datasketch import MinHashLSH

from jaxprm.data.tools.minhash import MinHash, ngram_hashes

THRESHOLD, PERMUTATIONS = 0.8, 128


def found(bands: int, rows: int) -> float:
    """Chance that a pair whose similarity is the threshold agrees in a whole band."""
    return 1 - (1 - THRESHOLD**rows) ** bands


def theirs(grams: list[np.ndarray]) -> list[Theirs]:
    empty = Theirs(PERMUTATIONS, hashfunc=lambda value: int(value) & 0xFFFFFFFF)
    signatures = [empty.copy() for _ in grams]
    for signature, values in zip(signatures, grams):
        signature.update_batch(values)
    return signatures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows)
        texts = [json.loads(line)["input"] for line in path.open(encoding="utf-8")]
    ours, index = MinHash(THRESHOLD, permutations=PERMUTATIONS), MinHashLSH(THRESHOLD, PERMUTATIONS)
    moments = [time.process_time()]
    grams = [ngram_hashes(text, ours.shingle) for text in texts]
    moments.append(time.process_time())
    for text in texts:
        ours.signature(text)
    moments.append(time.process_time())
    signatures = theirs(grams)
    moments.append(time.process_time())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for row, signature in enumerate(signatures):
        index.insert(row, signature)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    sequences, whole, other = (round(1e6 * seconds / options.rows, 1) for seconds in np.diff(moments))
    print(json.dumps({"rows": options.rows, "microseconds_sequences": sequences,
                      "microseconds_signature": {"ours": round(whole - sequences, 1), "datasketch": other},
                      "index_bytes_per_row": round(memory / options.rows),
                      "bands": {"ours": [ours.bands, ours.rows], "datasketch": [index.b, index.r]},
                      "found_at_threshold": {"ours": round(found(ours.bands, ours.rows), 3),
                                             "datasketch": round(found(index.b, index.r), 3)}}))


if __name__ == "__main__":
    main()
