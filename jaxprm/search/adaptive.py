"""Instance-adaptive budgets: easy problems get few samples, hard ones many, by what the reward model says of the prompt.

"Know What You Don't Know" (PRM calibration and instance-adaptive scaling): a lower quantile of the success probability gives
the number of samples (`jaxprm.scoring.budgets.samples_needed`). Each width is a compiled program, so widths are powers of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import prefill
from jaxprm.scoring.budgets import samples_needed

Result = TypeVar("Result")


def prompt_success(reward_model: RewardModel, prompts: Int[Array | np.ndarray, "B P"], lengths: Int[Array | np.ndarray, " B"],
                   level: float) -> Float[Array, " B"]:
    """The ``level`` quantile of the probability that a solution will be right, read at the last token of each prompt.

    It reads each prompt once, which a search that follows does again; `run_by_width` needs it before any search starts.

    Raises:
      InputError: the head gives no quantiles, or not this one.
    """
    head = reward_model.head.config
    if head.kind != "quantile":
        raise InputError("gives no quantiles; a quantile head does", field="kind", value=head.kind)
    if level not in head.levels:
        raise InputError(f"must be one of the head's levels {head.levels}", field="level", value=level)
    return _read(reward_model, prompts, lengths)[:, head.levels.index(level)]


@jax.jit
def _read(reward_model, prompts, lengths):
    hidden, _ = prefill(reward_model.backbone, prompts, lengths)
    last = jax.vmap(lambda row, index: row[index])(hidden, lengths - 1)
    return reward_model.head.quantiles(reward_model.outputs(last))


def widths_for(success: Float[np.ndarray | Array, " B"], confidence: float, limit: int) -> Int[np.ndarray, " B"]:
    """Samples per problem: the next power of two of what is needed for one right solution with this confidence.

    In:  success [.5, .2, .05, 1], confidence .9, limit 32       needed: 4, 11, 45 and 1
    Out: [4, 16, 32, 1]

    Raises:
      ValueError: see `samples_needed`.
    """
    needed = samples_needed(np.asarray(success), confidence, limit)
    return np.minimum(2 ** np.ceil(np.log2(needed)).astype(np.int64), limit)


def run_by_width(widths: Sequence[int] | Int[np.ndarray, " B"],
                 run: Callable[[int, np.ndarray], Sequence[Result]]) -> list[Result]:
    """``run(width, indices)`` for the problems of each width, small widths first; its results (one per index) in the problems'
    order.

    In:  widths [4, 1, 4], run = lambda width, indices: [(width, i) for i in indices]
    Out: [(4, 0), (1, 1), (4, 2)]

    Raises:
      ValueError: ``run`` returned another number of results.
    """
    widths = np.asarray(widths)
    results: dict[int, Result] = {}
    for width in np.unique(widths).tolist():
        indices = np.flatnonzero(widths == width)
        found = run(width, indices)
        if len(found) != len(indices):
            raise ValueError(f"{len(found)} results for the {len(indices)} problems of width {width}")
        results.update(zip(indices.tolist(), found))
    return [results[index] for index in range(len(widths))]
