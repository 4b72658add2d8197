"""Accuracy of an oracle that sees k samples."""

from __future__ import annotations

import math


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that `k` of the `samples`, drawn without replacement, hold at least one of the `correct` ones.

    ``1 - C(n - c, k) / C(n, k)`` with n samples and c correct ones: the unbiased estimate of Chen et al. 2021
    (arXiv:2107.03374).

    Raises:
      ValueError: counts that are not ``0 <= correct <= samples`` and ``1 <= k <= samples``.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {correct} correct among {samples} samples is not defined")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
