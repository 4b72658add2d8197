"""Best-of-N from a pool of M >= N scored samples: the exact expectation over all subsets, and the trials of PRM800K.

PRM800K (Lightman et al. 2023, arXiv:2305.20050) draws N of the M samples of every problem without replacement, takes
the one with the highest score, and reports mean and standard deviation of the accuracy over 400 such trials. The mean
has a closed form, which needs no trial: with the samples sorted best first, that of 0-based rank r is the best of a
random subset with probability C(M - 1 - r, N - 1) / C(M, N). Of equal scores the first in the pool is the better one.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

TRIALS = 400


@dataclasses.dataclass(frozen=True)
class Trials:
    """Accuracy over trials.

    Attributes:
      mean, deviation: over the trials; the deviation (divided by the number of trials) says how much the choice of
        samples matters on these problems. It is no interval for other problems: bootstrap the problems for that.
      accuracy: float[T], share of the problems solved in every trial.
    """

    mean: float
    deviation: float
    accuracy: Float[np.ndarray, " T"]


def chance_of_best(pool: int, size: int) -> Float[np.ndarray, " M"]:
    """Probability that the sample of each rank is the best of a random subset of this size."""
    return np.array([math.comb(pool - 1 - rank, size - 1) / math.comb(pool, size) for rank in range(pool)])


def expected_best_of_n(scores, correct, size: int) -> Float[np.ndarray, " Q"]:
    """Exact probability that the best of `size` random samples is right, per problem.

    Args:
      scores: float[Q, M].
      correct: bool[Q, M].

    Raises:
      ValueError: shapes that differ, a score that is not a number, size outside 1..M.
    """
    scores, correct = _pool(scores, correct, size)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(correct, order, axis=1) @ chance_of_best(scores.shape[1], size)


def subsampled_best_of_n(scores, correct, size: int, key, *, trials: int = TRIALS) -> Trials:
    """The protocol of PRM800K; use `expected_best_of_n` for the mean alone."""
    scores, correct = _pool(scores, correct, size)
    if trials < 1:
        raise ValueError(f"trials must be positive, not {trials}")
    rng = np.random.default_rng(key)
    accuracy = np.empty(trials)
    for trial in range(trials):
        members = random_subsets(rng, len(scores), scores.shape[1], size)
        best = np.argmax(np.take_along_axis(scores, members, axis=1), axis=1)
        chosen = np.take_along_axis(members, best[:, None], axis=1)
        accuracy[trial] = np.take_along_axis(correct, chosen, axis=1).mean()
    return Trials(float(accuracy.mean()), float(accuracy.std()), accuracy)


def random_subsets(rng: np.random.Generator, problems: int, pool: int, size: int) -> Int[np.ndarray, "Q N"]:
    """One random subset per problem, without replacement, in the order of the pool."""
    return np.sort(np.argpartition(rng.random((problems, pool), np.float32), size - 1, axis=1)[:, :size], axis=1)


def _pool(scores, correct, size: int):
    scores, correct = np.asarray(scores, np.float64), np.asarray(correct, bool)
    if scores.ndim != 2 or scores.shape != correct.shape:
        raise ValueError(f"scores {scores.shape} and correct {correct.shape} must be one [problems, samples] shape")
    if not scores.size or np.isnan(scores).any():
        raise ValueError("no sample at all" if not scores.size else "a score is not a number")
    if not 1 <= size <= scores.shape[1]:
        raise ValueError(f"size must be between 1 and the {scores.shape[1]} samples, not {size}")
    return scores, correct
