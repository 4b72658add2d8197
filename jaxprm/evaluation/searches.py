"""What searches have achieved on a set of problems: accuracy with intervals, and what it cost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from jaxprm.metrics import Interval, bootstrap_mean, paired_difference
from jaxprm.search.searched import Costs, Searched


@dataclasses.dataclass(frozen=True)
class SearchSummary:
    """One search over its problems; intervals are bootstrapped over problems, nan where nothing was graded.

    Attributes:
      problems, graded: how many there are, and how many of them have an answer to compare with.
      accuracy: share of graded problems whose chosen solution has ended and is right.
      any_right: share of graded problems with a right solution among all that ended: what a perfect choice would give.
      finished: share of problems whose chosen path has ended.
      policy_tokens, reward_tokens: per problem.
      costs: of all problems together.
      stopped, warnings: counted over problems, and over all that went wrong.
    """

    problems: int
    graded: int
    accuracy: Interval
    any_right: Interval
    finished: Interval
    policy_tokens: Interval
    reward_tokens: Interval
    costs: Costs
    stopped: Mapping[str, int]
    warnings: Mapping[str, int]


def summarise_search(found: Sequence[Searched], key: int, *, resamples: int = 1000) -> SearchSummary:
    """Numbers of one search; ``key``: seed of the resampling."""
    graded = [one for one in found if is_graded(one)]
    mean = lambda values: bootstrap_mean(values, np.arange(len(values)), key, resamples=resamples)  # noqa: E731
    return SearchSummary(
        len(found), len(graded), mean([is_right(one) for one in graded]),
        mean([any(solution.correct for solution in one.solutions) for one in graded]),
        mean([one.finished for one in found]), mean([one.costs.policy_tokens for one in found]),
        mean([one.costs.reward_tokens for one in found]), sum((one.costs for one in found), Costs()),
        dict(Counter(one.stopped_by for one in found)), dict(sum((Counter(one.warnings) for one in found), Counter())))


def compare_searches(first: Sequence[Searched], second: Sequence[Searched], key: int, *, resamples: int = 1000) -> Interval:
    """Accuracy of ``first`` minus that of ``second`` on the same problems, paired by problem."""
    pairs = [(is_right(a), is_right(b)) for a, b in zip(first, second, strict=True) if is_graded(a)]
    right, other = np.array(pairs, np.float64).reshape(-1, 2).T
    return paired_difference(right, other, np.arange(len(pairs)), key, resamples=resamples)


def is_graded(found: Searched) -> bool:
    """Whether right and wrong can be told: there is a reference answer, or a task has judged the solutions."""
    return found.problem.answer is not None or any(one.correct is not None for one in found.solutions)


def is_right(found: Searched) -> bool:
    """Whether the chosen solution has ended with a right answer."""
    return found.answer is not None and found.answer.correct is True
