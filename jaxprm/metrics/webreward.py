"""WebRewardBench (Chae et al. 2025, Web-Shepherd, arXiv:2505.15277): the expert's next action among rejected ones.

At every step of a web task the expert's action is scored beside (usually four) rejected ones. Definitions follow the published
evaluation: tied candidates all stand before the expert's action, so that a model which scores everything alike gains nothing,
and a task counts as right if every one of its steps does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

MISSING = -100.0
"""The score of a candidate for which a model gave none: behind every probability."""


@dataclasses.dataclass(frozen=True)
class WebChoice:
    """One step of a task.

    Attributes:
      task: names the task.
      chosen: score of the expert's action, None where the model gave none.
      rejected: scores of the others, at least one.
    """

    task: str
    chosen: float | None
    rejected: Sequence[float | None]

    def __post_init__(self):
        if not len(self.rejected):
            raise ValueError(f"a step of task {self.task!r} has no rejected action")

    @property
    def rank(self) -> int:
        """Place of the expert's action, from 1; behind the rejected ones of equal score."""
        chosen, *rejected = (MISSING if score is None else float(score) for score in (self.chosen, *self.rejected))
        if np.isnan([chosen, *rejected]).any():
            raise ValueError(f"a score of task {self.task!r} is not a number")
        return 1 + sum(score >= chosen for score in rejected)


@dataclasses.dataclass(frozen=True)
class WebReward:
    """The three numbers.

    Attributes:
      mrr: mean of 1 / rank over the steps.
      step_accuracy: share of the steps where the expert's action scores above every rejected one.
      task_accuracy: share of the tasks of which every step is right ("trajectory accuracy").
    """

    mrr: float
    step_accuracy: float
    task_accuracy: float


def web_reward(choices: Sequence[WebChoice]) -> WebReward:
    """The numbers of any set of steps; nan without any."""
    return WebReward(*web_reward_of_sums(task_columns(choices)[1].sum(axis=0)).tolist())


def task_columns(choices: Sequence[WebChoice]) -> tuple[list[str], Float[np.ndarray, "Q 5"]]:
    """The tasks by first appearance, and for each of them: sum of 1 / rank, steps right, steps, task right, 1.

    The sums are what `jaxprm.metrics.bootstrap_of_sums` resamples, task by task.
    """
    ranks: dict[str, list[int]] = {}
    for choice in choices:
        ranks.setdefault(choice.task, []).append(choice.rank)
    rows = [[sum(1 / rank for rank in places), places.count(1), len(places), max(places) == 1, 1] for places in ranks.values()]
    return list(ranks), np.array(rows, np.float64).reshape(-1, 5)


def web_reward_of_sums(sums: np.ndarray) -> np.ndarray:
    """`[..., 5]` sums of `task_columns` -> `[..., 3]`: MRR, step accuracy, task accuracy; nan without a task."""
    reciprocal, right, steps, whole, tasks = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.stack([reciprocal / steps, right / steps, whole / tasks], axis=-1)
