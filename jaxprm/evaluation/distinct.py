"""Counting a step once where many rows share it.

In PRM800K (expanded) each candidate for a step is a row with the whole solution before it, so the right steps at the
beginning of a solution come again in dozens of rows. Counted each time they teach, and reward, nothing but "the last
step is the doubtful one": a logistic regression on position and length reaches a step AUROC of 0.99 on these sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from jaxprm.records import LabeledSolution


def distinct_steps(items: Sequence[LabeledSolution]) -> list[tuple[int, int]]:
    """The judged steps of a set, each prefix (problem and all steps up to here) once.

    The longest row that holds a prefix stands for it, the first of equally long ones.

        rows: (x; a, b), (x; a, c), (x; a, b, d), all judged  ->  [(2, 0), (2, 1), (2, 2), (1, 1)]

    Returns:
      (row, 0-based step index) pairs.
    """
    seen: set[bytes] = set()
    places = []
    for row in sorted(range(len(items)), key=lambda row: -len(items[row].solution.steps)):
        solution, labels = items[row].solution, items[row].labels
        if labels is None:
            continue
        digest = hashlib.blake2b(solution.problem.prompt.encode(), digest_size=16)
        for step, (text, label) in enumerate(zip(solution.steps, labels.values)):
            digest.update(b"\x1e" + text.encode())
            if label is not None and (prefix := digest.digest()) not in seen:
                seen.add(prefix)
                places.append((row, step))
    return places
