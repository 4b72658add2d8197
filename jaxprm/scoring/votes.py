"""Choosing one answer among the solutions of a problem.

Answers are canonical: equal answers are equal values (see `tasks` for grading). The same rules everywhere:

- Ties go to the answer (or candidate) seen first; that is the only way in which the order of the candidates matters.
- None means that a solution has no final answer. It neither votes nor wins, whatever its score; only where no candidate
  has an answer the choice is None.
- A score that is not a number is an error wherever scores are read.
- Weights that are all zero leave all answers tied: the first one wins.

The rules, for an answer a that n(a) of the n candidates with an answer give:

  majority             the largest n(a) (self-consistency)
  best                 the answer of the candidate with the highest score
  weighted             the largest sum of scores over the candidates of a
  hybrid_majority      majority where its share n(a) / n is at least `consensus`, else best (HMR, UnPRM)
  weighted_frequency   the largest  reward_weight * R(a) + (1 - reward_weight) * n(a) / n  with R(a) the mean score of
                       a's candidates divided by the sum of these means over the answers (WRF, UnPRM)
  unanimity_plurality  majority among the candidates that score at least `valid_from`; among all where none does
                       (Ling et al. 2023, arXiv:2306.03872: a chain counts if each of its steps is valid, which is
                       what a score aggregated by "min" says)

UnPRM (arXiv:2508.01773) names its two votes and says what they mix, but neither constants nor normalisation are public:
the two definitions above are ours.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

Vote = Literal["majority", "best", "weighted", "hybrid_majority", "weighted_frequency", "unanimity_plurality"]
VOTES: tuple[str, ...] = get_args(Vote)

NO_ANSWER = -1


def majority(answers: Sequence[Hashable] | np.ndarray) -> Hashable:
    """The most frequent answer (self-consistency, Wang et al. 2022)."""
    return _answer(answers, np.zeros(len(answers)), "majority")


def best(answers: Sequence[Hashable] | np.ndarray, scores) -> Hashable:
    """The answer of the candidate with the highest score (best-of-N)."""
    return _answer(answers, scores, "best")


def weighted(answers: Sequence[Hashable] | np.ndarray, scores) -> Hashable:
    """The answer with the largest sum of scores over its candidates; scores must not be negative."""
    return _answer(answers, scores, "weighted")


def hybrid_majority(answers: Sequence[Hashable] | np.ndarray, scores, *, consensus: float = 0.5) -> Hashable:
    """The majority's answer if at least this share of the candidates with an answer agrees, else that of `best`.

      In:   answers ["4", "6", "6", "5"], scores [.9, .3, .4, .1]
      Out:  "6" (2 of 4 agree); with consensus = .6: "4"
    """
    return _answer(answers, scores, "hybrid_majority", consensus=consensus)


def weighted_frequency(answers: Sequence[Hashable] | np.ndarray, scores, *, reward_weight: float = 0.5) -> Hashable:
    """The best mixture of an answer's normalised mean score and its frequency; scores must not be negative.

    `reward_weight` 0 is the majority, 1 the answer with the best mean score. Scores that are all zero leave the
    frequency.
    """
    return _answer(answers, scores, "weighted_frequency", reward_weight=reward_weight)


def unanimity_plurality(answers: Sequence[Hashable] | np.ndarray, scores, *, valid_from: float = 0.5) -> Hashable:
    """The majority among the candidates that score at least `valid_from`; among all of them where none does."""
    return _answer(answers, scores, "unanimity_plurality", valid_from=valid_from)


def select_at(answers: Sequence[Sequence[Hashable]] | np.ndarray, scores, n: int, how: Vote, *, consensus: float = 0.5,
              reward_weight: float = 0.5, valid_from: float = 0.5) -> Int[np.ndarray, " problems"]:
    """Which of the first `n` candidates of each problem is chosen: one point of an accuracy-against-N curve.

      In:   answers [["4", "6", "6"]], scores [[.9, .3, .4]], n = 3
      Out:  majority [1], best [0], weighted [0]      (.9 for "4", .7 for "6")

    Args:
      answers: per problem, the same number of canonical answers.
      scores: `[problems, N]`, one score per candidate; not read by `majority`.
      n: how many candidates take part, in order.
      how: one of `VOTES`.
      consensus: of "hybrid_majority", a share in [0, 1]; 0 is the majority, above 1 would be the best.
      reward_weight: of "weighted_frequency", in [0, 1].
      valid_from: of "unanimity_plurality", a score.

    Returns:
      Index in 0..n-1 of the chosen candidate (of the first that has the chosen answer, and among the valid ones for
      "unanimity_plurality"); -1 where none of them has an answer.

    Raises:
      ValueError: shapes that differ, n outside 1..N, a score that is not a number, a negative weight, an option outside
        its range, or an unknown `how`.
    """
    _check(how, consensus, reward_weight, valid_from)
    ids = np.array([answer_ids(row) for row in answers], np.int64).reshape(len(answers), -1)
    scores = np.asarray(scores, np.float64).reshape(len(answers), -1)
    if scores.shape != ids.shape:
        raise ValueError(f"scores {scores.shape} and answers {ids.shape} differ in shape")
    if not 1 <= n <= ids.shape[1]:
        raise ValueError(f"n must be between 1 and the {ids.shape[1]} candidates, not {n}")
    return _select(ids[:, :n], scores[:, :n], how, consensus, reward_weight, valid_from)


def select_ids(ids: Int[np.ndarray, "P N"], scores: Float[np.ndarray, "P N"], how: Vote, *, consensus: float = 0.5,
               reward_weight: float = 0.5, valid_from: float = 0.5) -> Int[np.ndarray, " P"]:
    """As `select_at` for answers that are integer ids already (-1 = no answer), over all N: fast for many subsets."""
    _check(how, consensus, reward_weight, valid_from)
    return _select(np.asarray(ids), np.asarray(scores, np.float64), how, consensus, reward_weight, valid_from)


def answer_ids(answers: Sequence[Hashable] | np.ndarray) -> Int[np.ndarray, " N"]:
    """Equal answers get equal ids, numbered by first appearance; None gets -1.

      In:   ["6", None, "4", "6"]
      Out:  [0, -1, 1, 0]
    """
    seen: dict[Hashable, int] = {}
    ids = [NO_ANSWER if answer is None else seen.setdefault(answer, len(seen)) for answer in answers]
    return np.array(ids, np.int64)


def _answer(answers, scores, how: Vote, **options):
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(answers),):
        raise ValueError(f"scores {scores.shape} for {len(answers)} answers")
    if not len(answers):
        return None
    chosen = int(select_ids(answer_ids(answers)[None], scores[None], how, **options)[0])
    return None if chosen == NO_ANSWER else answers[chosen]


def _check(how: Vote, consensus: float, reward_weight: float, valid_from: float) -> None:
    if how not in VOTES:
        raise ValueError(f"unknown vote {how!r}; use one of {', '.join(VOTES)}")
    for name, value in (("consensus", consensus), ("reward_weight", reward_weight)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, not {value}")
    if np.isnan(valid_from):
        raise ValueError("valid_from is not a number")


def _select(ids, scores, how: Vote, consensus: float, reward_weight: float, valid_from: float) -> Int[np.ndarray, " P"]:
    if how != "majority" and np.isnan(scores).any():
        raise ValueError("a score is not a number")
    if how in ("weighted", "weighted_frequency") and (scores < 0).any():
        raise ValueError("weighted votes need scores that are not negative, such as probabilities")
    valid = ids != NO_ANSWER
    voters = valid
    if how == "unanimity_plurality":
        sound = valid & (scores >= valid_from)
        voters = np.where(sound.any(-1, keepdims=True), sound, valid)
    if how == "best":
        value = scores
    elif how == "weighted":
        value = _class_totals(ids, scores)
    else:
        value = frequency = _class_totals(ids, voters.astype(np.float64))  # exact: whole numbers
    if how == "hybrid_majority":
        needed = consensus * valid.sum(-1) * (1 - 1e-12)  # a share computed in binary must not miss its threshold
        agreed = np.max(np.where(valid, frequency, 0), axis=-1) >= needed
        value = np.where(agreed[:, None], frequency, scores)
    elif how == "weighted_frequency":
        count = np.maximum(frequency, 1)
        mean = _class_totals(ids, np.where(valid, scores, 0)) / count
        # Each class is counted once: its members share one unit of the sum over answers.
        total = np.sum(np.where(valid, mean / count, 0), axis=-1, keepdims=True)
        reward = np.where(total > 0, mean / np.where(total > 0, total, 1), 0)
        share = frequency / np.maximum(valid.sum(-1, keepdims=True), 1)
        # Rounded, so that classes that tie in exact arithmetic tie here.
        value = np.round(reward_weight * reward + (1 - reward_weight) * share, 12)
    chosen = np.argmax(np.where(voters, value, -np.inf), axis=-1)
    return np.where(valid.any(-1), chosen, NO_ANSWER)


def _class_totals(ids, weights) -> Float[np.ndarray, "P N"]:
    """Every candidate gets the total of its class, so that argmax finds the first member of the first best class."""
    total = np.zeros(weights.shape)
    for other in range(ids.shape[1]):  # one column at a time: the memory stays that of the input
        total += (ids == ids[:, other, None]) * weights[:, other, None]
    return total
