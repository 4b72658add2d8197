"""Choosing one answer among the solutions of a problem.

Answers are canonical: equal answers are equal values (see `tasks` for grading). The same rules everywhere:

- Ties go to the answer (or candidate) seen first.
- None means that a solution has no final answer. It neither votes nor wins, whatever its score; only where no candidate
  has an answer the choice is None.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

Vote = Literal["majority", "best", "weighted"]
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


def select_at(answers: Sequence[Sequence[Hashable]] | np.ndarray, scores, n: int, how: Vote) -> Int[np.ndarray, " problems"]:
    """Which of the first `n` candidates of each problem is chosen: one point of an accuracy-against-N curve.

      In:   answers [["4", "6", "6"]], scores [[.9, .3, .4]], n = 3
      Out:  majority [1], best [0], weighted [0]      (.9 for "4", .7 for "6")

    Args:
      answers: per problem, the same number of canonical answers.
      scores: `[problems, N]`, one score per candidate; not read by `majority`.
      n: how many candidates take part, in order.
      how: one of `VOTES`.

    Returns:
      Index in 0..n-1 of the chosen candidate (of the first that has the chosen answer); -1 where none of them has an
      answer.

    Raises:
      ValueError: shapes that differ, n outside 1..N, a score that is not a number, a negative weight, or an unknown
        `how`.
    """
    ids = np.array([answer_ids(row) for row in answers], np.int64).reshape(len(answers), -1)
    scores = np.asarray(scores, np.float64).reshape(len(answers), -1)
    if scores.shape != ids.shape:
        raise ValueError(f"scores {scores.shape} and answers {ids.shape} differ in shape")
    if not 1 <= n <= ids.shape[1]:
        raise ValueError(f"n must be between 1 and the {ids.shape[1]} candidates, not {n}")
    return _select(ids[:, :n], scores[:, :n], how)


def answer_ids(answers: Sequence[Hashable] | np.ndarray) -> Int[np.ndarray, " N"]:
    """Equal answers get equal ids, numbered by first appearance; None gets -1.

      In:   ["6", None, "4", "6"]
      Out:  [0, -1, 1, 0]
    """
    seen: dict[Hashable, int] = {}
    ids = [NO_ANSWER if answer is None else seen.setdefault(answer, len(seen)) for answer in answers]
    return np.array(ids, np.int64)


def _answer(answers, scores, how: Vote):
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(answers),):
        raise ValueError(f"scores {scores.shape} for {len(answers)} answers")
    if not len(answers):
        return None
    chosen = int(_select(answer_ids(answers)[None], scores[None], how)[0])
    return None if chosen == NO_ANSWER else answers[chosen]


def _select(ids: Int[np.ndarray, "P N"], scores: Float[np.ndarray, "P N"], how: Vote) -> Int[np.ndarray, " P"]:
    if how != "majority" and np.isnan(scores).any():
        raise ValueError("a score is not a number")
    valid = ids != NO_ANSWER
    if how == "best":
        value = scores
    elif how in ("majority", "weighted"):
        weights = np.ones_like(scores) if how == "majority" else scores
        if (weights < 0).any():
            raise ValueError("weighted votes need scores that are not negative, such as probabilities")
        # Every candidate of a class gets the total of its class, so that argmax finds the first member of the first
        # best class.
        value = np.sum((ids[:, :, None] == ids[:, None, :]) * weights[:, None, :], axis=-1)
    else:
        raise ValueError(f"unknown vote {how!r}; use one of {', '.join(VOTES)}")
    chosen = np.argmax(np.where(valid, value, -np.inf), axis=-1)
    return np.where(valid.any(-1), chosen, NO_ANSWER)
