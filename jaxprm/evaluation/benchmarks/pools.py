"""Pools of candidates: several solutions per problem with final answers, of which a rule chooses one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks.base import Item, Read, ReadPolicies, Scores, read_labeled
from jaxprm.metrics import GroupStatistic, statistic_of_sums
from jaxprm.scoring.aggregation import AGGREGATIONS, Aggregation, aggregate
from jaxprm.scoring.votes import NO_ANSWER, VOTES, Vote, answer_ids, select_ids
from jaxprm.tasks.grading import same_answer

DATA = ("JSON lines, one candidate each: problem, steps, final_answer (or meta.boxed_answer, else meta.extracted_answer) and "
        "final_correct; candidates of one problem share problem_id (or meta.problem_id, else the problem's text). Without "
        "final_correct the final answer is compared with answer by math-verify.")

OF_PROBABILITIES = ("prod", "geometric_mean", "logit_mean", "first_below", "weighted", "weighted_frequency",
                    "unanimity_plurality")
"""Aggregations and votes that say nothing about scores outside [0, 1]."""


def read_pool(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """The candidates of all files, as `DATA` describes them.

    Raises:
      InputError: a row that cannot be read, or whose answer cannot be told right or wrong; a right candidate without an answer
        where others have one.
    """
    items = []
    for path in files:
        found = [_candidate(read) for read in read_labeled(path, (), policies)]
        answered = any(item.solution.answer is not None for item in found)
        for item in found:
            if answered and item.solution.correct and item.solution.answer is None:
                raise InputError("is missing, and a candidate without an answer cannot be correct", file=item.file,
                                 row=item.row, field="final_answer")
        items += found
    return items


def _candidate(read: Read) -> Item:
    solution, meta = read.item.solution, read.item.solution.problem.meta
    group = solution.problem.id if solution.problem.id != read.item.id else meta.get("problem_id")
    answer = next((text for text in (solution.answer, meta.get("boxed_answer"), meta.get("extracted_answer"))
                   if text is not None), None)
    answer, correct = None if answer is None else " ".join(str(answer).split()), solution.correct
    if correct is None:
        if answer is None or solution.problem.answer is None:
            raise InputError("is missing, and without final_answer and answer it cannot be found out", file=read.file,
                             row=read.row, field="final_correct", hint="say of every candidate whether it is right")
        correct = same_answer(answer, solution.problem.answer, "math")
    item = dataclasses.replace(read.item, solution=dataclasses.replace(solution, answer=answer, correct=correct))
    return Item.of(dataclasses.replace(read, item=item), group=None if group is None else str(group))


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Q problems with at most M candidates each; places behind a problem's last candidate are empty.

    Attributes:
      problems: their names, in order of appearance.
      ids: int[Q, M], equal where answers are equal, -1 without an answer or candidate. Where no candidate at all has an answer,
        each is its own.
      present: bool[Q, M], which places hold a candidate.
      correct: bool[Q, M].
      scores, mask: float32[Q, M, S] step scores and bool[Q, M, S] which exist.
      answered: whether there are answers, so that votes mean something.
    """

    problems: tuple[str, ...]
    ids: Int[np.ndarray, "Q M"]
    present: Bool[np.ndarray, "Q M"]
    correct: Bool[np.ndarray, "Q M"]
    scores: Float[np.ndarray, "Q M S"]
    mask: Bool[np.ndarray, "Q M S"]
    answered: bool

    @classmethod
    def of(cls, items: Sequence[Item], scores: Scores) -> Pool:
        """From candidates and one list of step scores each.

        Raises:
          InputError: no candidate, one of which it is not known whether it is right, or a score that is not finite.
        """
        places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            if item.solution.correct is None:
                raise InputError("is not known", row=place + 1, field="final_correct", value=item.id)
            places.setdefault(item.group, []).append(place)
        if not places:
            raise InputError("has no candidate", field="pool")
        shape = len(places), max(map(len, places.values()))
        longest = max(len(row) for row in scores)
        ids, correct = np.full(shape, NO_ANSWER), np.zeros(shape, bool)
        values, mask = np.zeros((*shape, longest), np.float32), np.zeros((*shape, longest), bool)
        answered = any(item.solution.answer is not None for item in items)
        for problem, group in enumerate(places.values()):
            ids[problem, :len(group)] = (answer_ids([items[place].solution.answer for place in group]) if answered
                                         else np.arange(len(group)))
            for number, place in enumerate(group):
                correct[problem, number] = bool(items[place].solution.correct)
                steps = np.asarray(scores[place], np.float64)
                if not np.isfinite(steps).all():
                    raise InputError("is not finite", row=place + 1, field="scores", value=items[place].id)
                values[problem, number, :len(steps)], mask[problem, number, :len(steps)] = steps, True
        sizes = np.array([len(group) for group in places.values()])
        return cls(tuple(places), ids, np.arange(shape[1]) < sizes[:, None], correct, values, mask, answered)

    @property
    def sizes(self) -> Int[np.ndarray, " Q"]:
        """Candidates per problem."""
        return self.present.sum(axis=1)

    @property
    def probable(self) -> bool:
        """Whether every score is in [0, 1]."""
        return bool(((self.scores >= 0) & (self.scores <= 1)).all())

    @property
    def aggregations(self) -> tuple[str, ...]:
        """Those that are defined for these scores, "min" first."""
        return tuple(how for how in AGGREGATIONS if self.probable or how not in OF_PROBABILITIES)

    @property
    def rules(self) -> tuple[str, ...]:
        """The votes that read scores and are defined here, "best" first."""
        return tuple(rule for rule in VOTES if rule == "best" or (
            rule != "majority" and self.answered and (self.probable or rule not in OF_PROBABILITIES)))

    def aggregate(self, how: Aggregation) -> Float[np.ndarray, "Q M"]:
        """One score per candidate; 0 where there is none."""
        return np.asarray(aggregate(self.scores, self.mask, how), np.float64)

    def solved(self, scores: Float[np.ndarray, "Q M"], rule: Vote) -> Float[np.ndarray, " Q"]:
        """1 where the rule, given all candidates of a problem, chooses a right one."""
        chosen = select_ids(self.ids, scores, rule)
        right = self.correct[np.arange(len(chosen)), np.maximum(chosen, 0)]
        return np.where(chosen == NO_ANSWER, 0.0, right)

    def by_size(self) -> list[tuple[int, Int[np.ndarray, " q"]]]:
        """(M, the problems with M candidates) for every M that occurs."""
        return [(int(size), np.flatnonzero(self.sizes == size)) for size in np.unique(self.sizes)]

    def statistic(self, values: Float[np.ndarray, " Q"]) -> GroupStatistic:
        """The mean over problems."""
        return statistic_of_sums(np.stack([values, np.ones(len(values))], axis=1), lambda sums: sums[..., 0] / sums[..., 1],
                                 self.problems)

    @property
    def pass_at_1(self) -> Float[np.ndarray, " Q"]:
        """The share of right candidates per problem."""
        return self.correct.sum(axis=1) / self.sizes
