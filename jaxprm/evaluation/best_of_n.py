"""Accuracy against N: what is gained by sampling N solutions of a problem and choosing one with a reward model.

From one pool of M >= N candidates per problem, the accuracy at N is the mean over *subsets* of size N, in place of one
arbitrary choice of N candidates:

- ``pass@1``, ``PRM best`` and ``oracle`` have closed forms over all subsets (exact and unbiased). With the candidates
  sorted best first, that of 0-based rank r is the best of a subset exactly if it is in it and none of the r better
  ones is: ``C(M - 1 - r, N - 1) / C(M, N)``. The oracle (pass@N) is ``1 - C(M - c, N) / C(M, N)`` with c right
  candidates (Chen et al. 2021, arXiv:2107.03374).
- ``majority`` and ``PRM weighted`` have none; they are averaged over random subsets drawn with the given key (the
  whole pool once if N = M), the same subsets for both.

The rules of `jaxprm.scoring.votes` hold: ties go to the candidate that comes first in the pool, and a candidate
without an answer neither votes nor wins. Intervals are bootstrapped over problems; differences are paired by problem.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.metrics import Interval, bootstrap_mean, paired_difference
from jaxprm.metrics.pass_at_k import pass_at_k
from jaxprm.metrics.subsampling import chance_of_best
from jaxprm.scoring.votes import NO_ANSWER, select_at

METHODS = ("pass@1", "majority", "PRM best", "PRM weighted", "oracle")


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """A pool of M candidate solutions for each of Q problems.

    Attributes:
      answers: `[Q][M]` final answers, equal where they vote together (make them canonical before), ``None`` = no
        answer.
      correct: bool[Q, M], whether the final answer is right; must be False where there is no answer.
      scores: float[Q, M], score of the whole solution (aggregated over steps); finite, and >= 0 as it is the weight of
        a vote.
      policy_tokens: float[Q, M], tokens the policy made for each candidate, or None.

    Raises:
      InputError: shapes differ, no candidate at all, a score is not finite or negative, a candidate without answer is
        correct.
    """

    answers: Sequence[Sequence[str | None]]
    correct: Bool[np.ndarray, "Q M"] | Sequence
    scores: Float[np.ndarray, "Q M"] | Sequence
    policy_tokens: Float[np.ndarray, "Q M"] | Int[np.ndarray, "Q M"] | Sequence | None = None

    def __post_init__(self):
        correct, scores = np.asarray(self.correct, bool), np.asarray(self.scores, np.float64)
        object.__setattr__(self, "correct", correct)
        object.__setattr__(self, "scores", scores)
        if correct.ndim != 2 or not correct.size:
            raise InputError("must be [problems, candidates] with at least one of each", field="correct",
                             value=correct.shape)
        if scores.shape != correct.shape:
            raise InputError(f"must have the shape of correct, {correct.shape}", field="scores", value=scores.shape)
        if [len(row) for row in self.answers] != [correct.shape[1]] * len(correct):
            raise InputError(f"must have the shape of correct, {correct.shape}", field="answers")
        if not (np.isfinite(scores) & (scores >= 0)).all():
            bad = scores[~(np.isfinite(scores) & (scores >= 0))]
            raise InputError("must be finite and >= 0", field="scores", value=float(bad[0]),
                             hint="aggregate probabilities, not raw outputs of a head")
        for row, problem in enumerate(self.answers):
            if any(answer is None and right for answer, right in zip(problem, correct[row])):
                raise InputError("a candidate without an answer cannot be correct", row=row, field="answers")
        if self.policy_tokens is not None:
            object.__setattr__(self, "policy_tokens", np.asarray(self.policy_tokens, np.float64))
            if self.policy_tokens.shape != correct.shape:
                raise InputError(f"must have the shape of correct, {correct.shape}", field="policy_tokens",
                                 value=self.policy_tokens.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class BestOfN:
    """Accuracy against N.

    Attributes:
      sizes: the values of N.
      accuracy: method (of `METHODS`) -> its accuracy at each N, a fraction of the problems.
      per_problem: method -> float[len(sizes), Q], the accuracy on each problem (in [0, 1], a mean over subsets).
      tokens: mean policy tokens per problem at each N, or None.
      key, resamples: of the bootstrap.
    """

    sizes: tuple[int, ...]
    accuracy: dict[str, tuple[Interval, ...]]
    per_problem: dict[str, Float[np.ndarray, "S Q"]]
    tokens: tuple[float, ...] | None
    key: int | tuple[int, ...]
    resamples: int

    def at(self, method: str, size: int) -> Interval:
        """The accuracy of a method at N = ``size``."""
        return self.accuracy[method][self.sizes.index(size)]

    def difference(self, first: str, second: str, size: int) -> Interval:
        """Accuracy of ``first`` minus that of ``second`` at N = ``size``, paired by problem."""
        return self.difference_from(self.per_problem[first][self.sizes.index(size)], second, size)

    def difference_from(self, values: Float[np.ndarray, " Q"], second: str, size: int) -> Interval:
        """As `difference`, for a method measured elsewhere on the same problems (beam search, say), in the same
        order."""
        other = self.per_problem[second][self.sizes.index(size)]
        return paired_difference(values, other, np.arange(len(other)), self.key, resamples=self.resamples)


def best_of_n(candidates: Candidates, key: int | tuple[int, ...], *, sizes: Sequence[int] | None = None,
              subsets: int = 32, resamples: int = 1000) -> BestOfN:
    """Accuracy of pass@1, majority, best and weighted choice, and the oracle, at several N.

    Args:
      candidates: the pool.
      key: seed of subsets and bootstrap; equal keys give equal numbers.
      sizes: values of N, each at most M; default 1, 2, 4, ... up to M, and M itself.
      subsets: random subsets per problem and N for the two votes.
      resamples: bootstrap resamples of the problems.

    Raises:
      InputError: a size is not in 1..M, or ``subsets`` is not positive.
    """
    problems, pool = candidates.correct.shape
    if sizes is None:
        sizes = sorted({pool} | {2**i for i in range(pool.bit_length()) if 2**i <= pool})
    for size in sizes:
        if not 1 <= size <= pool:
            raise InputError(f"must be between 1 and the {pool} candidates per problem", field="sizes", value=size)
    if subsets < 1:
        raise InputError("must be positive", field="subsets", value=subsets)
    rng = np.random.default_rng(np.append(key, 1))  # a stream of its own beside that of the bootstrap
    answers = np.array(candidates.answers, object)
    correct, scores = candidates.correct, candidates.scores
    rows = np.arange(problems)[:, None]
    ranked = correct[rows, np.argsort(np.where(answers == None, np.inf, -scores), axis=1, kind="stable")]  # noqa: E711
    per_problem: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    for size in sizes:
        oracle = np.array([pass_at_k(pool, right, size) for right in range(pool + 1)])
        per_problem["pass@1"].append(correct.mean(axis=1))
        per_problem["PRM best"].append(ranked @ chance_of_best(pool, size))
        per_problem["oracle"].append(oracle[correct.sum(axis=1)])
        if size == 1:  # a single candidate is chosen by any vote
            for method in ("majority", "PRM weighted"):
                per_problem[method].append(correct.mean(axis=1))
            continue
        members = _subsets(rng, problems, pool, size, subsets)
        drawn = answers[rows[..., None], members].reshape(-1, size), scores[rows[..., None], members].reshape(-1, size)
        for method, how in (("majority", "majority"), ("PRM weighted", "weighted")):
            place = select_at(*drawn, size, how).reshape(members.shape[:2])
            chosen = np.take_along_axis(members, np.maximum(place, 0)[..., None], axis=2)[..., 0]
            right = np.take_along_axis(correct, chosen, axis=1) & (place != NO_ANSWER)
            per_problem[method].append(right.mean(axis=1))
    table = {method: np.stack(values) for method, values in per_problem.items()}
    groups = np.arange(problems)
    interval = functools.cache(lambda row: bootstrap_mean(np.frombuffer(row), groups, key, resamples=resamples))
    accuracy = {method: tuple(interval(row.tobytes()) for row in values) for method, values in table.items()}
    tokens = None
    if candidates.policy_tokens is not None:
        tokens = tuple(float(size * candidates.policy_tokens.mean()) for size in sizes)
    return BestOfN(tuple(sizes), accuracy, table, tokens, key, resamples)


def _subsets(rng: np.random.Generator, problems: int, pool: int, size: int, count: int) -> Int[np.ndarray, "Q R N"]:
    """Random subsets without replacement, in the order of the pool; the whole pool once if it is all of it."""
    if size == pool:
        return np.broadcast_to(np.arange(pool), (problems, 1, pool))
    order = np.argpartition(rng.random((problems, count, pool), np.float32), size - 1, axis=2)
    return np.sort(order[..., :size], axis=2)
