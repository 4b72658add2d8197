"""The best-of-N protocol of PRM800K (Lightman et al. 2023, arXiv:2305.20050, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import Benchmark, EvaluateOptions, Evaluation, Item, Line, Number, Scores
from jaxprm.evaluation.benchmarks.pools import DATA, Pool, read_pool
from jaxprm.metrics import expected_best_of_n, subsampled_best_of_n
from jaxprm.metrics.subsampling import TRIALS, random_subsets
from jaxprm.scoring.votes import NO_ANSWER, select_ids

BLOCK = 2**20
"""Numbers of candidates that vote at once."""


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """Best of N random candidates by the product of the step scores, for N = 1, 2, 4 ... and all candidates.

    The paper's mean and deviation over 400 random subsets stand in the table; the numbers are the exact expectations over all
    subsets, with intervals over problems, which the deviation is not. Majority is averaged over 400 trials as well.

    Raises:
      InputError: scores that are no probabilities, whose product means nothing.
    """
    pool = Pool.of(items, scores)
    if not pool.probable:
        raise InputError("must be probabilities: the protocol multiplies them", field="scores",
                         hint="use the benchmark best_of_n for other scores")
    totals, most = pool.aggregate("prod"), int(pool.sizes.min())
    sizes = sorted({most} | {2**power for power in range(most.bit_length()) if 2**power <= most}, reverse=True)
    compared, columns = {}, {}
    for size in sizes:
        exact, majority = np.zeros(len(pool.problems)), np.zeros(len(pool.problems))
        trials = np.zeros(TRIALS)
        for width, rows in pool.by_size():
            part = totals[rows, :width], pool.correct[rows, :width]
            exact[rows] = expected_best_of_n(*part, size)
            trials += subsampled_best_of_n(*part, size, (options.key, size)).accuracy * len(rows) / len(pool.problems)
            majority[rows] = _majority(pool.ids[rows, :width], part[1], size, options.key)
        compared[f"best of {size}"] = pool.statistic(exact)
        columns[str(size)] = {"exact": options.interval(compared[f"best of {size}"]), "mean of trials": float(trials.mean()),
                              "deviation of trials": float(trials.std())}
        if pool.answered:
            columns[str(size)]["majority"] = options.interval(pool.statistic(majority))
    numbers: dict[str, Number] = {f"best of {size}": columns[str(size)]["exact"] for size in sizes}
    if pool.answered:
        numbers[f"majority of {most}"] = columns[str(most)]["majority"]
    numbers["oracle"] = options.interval(pool.statistic(pool.correct.any(axis=1).astype(float)))
    ascending = sizes[::-1]
    curve = Line("candidates per problem (N)", "share of problems solved", np.array(ascending, np.float64),
                 np.array([compared[f"best of {size}"].value for size in ascending]), log_x=True)
    settings = {"problems": len(pool.problems), "candidates": [most, int(pool.sizes.max())], "trials": TRIALS,
                "aggregation": "prod"}
    return Evaluation(numbers, {"by N": {str(size): columns[str(size)] for size in ascending}}, {"best of N (prod)": curve},
                      compared=compared, settings=settings)


def _majority(ids: np.ndarray, correct: np.ndarray, size: int, key: int) -> np.ndarray:
    """Per problem, the share of random subsets whose most frequent answer is right."""
    count, width = ids.shape
    times = 1 if size == width else TRIALS
    total = np.zeros(count)
    rng = np.random.default_rng((key, size, 1))
    for trials in np.array_split(np.arange(times), 1 + times * count * size // BLOCK):
        rows = np.tile(np.arange(count), len(trials))
        members = random_subsets(rng, len(rows), width, size)
        chosen = select_ids(np.take_along_axis(ids[rows], members, axis=1), np.zeros(members.shape), "majority")
        place = np.take_along_axis(members, np.maximum(chosen, 0)[:, None], axis=1)[:, 0]
        total += (correct[rows, place] & (chosen != NO_ANSWER)).reshape(len(trials), count).sum(axis=0)
    return total / times


PRM800K_BEST_OF_N = Benchmark(
    name="prm800k_best_of_n",
    title="Best-of-N of PRM800K",
    citation="Lightman et al. 2023, Let's Verify Step by Step, arXiv 2305.20050; scored samples: github.com/openai/prm800k",
    description="Best of N random candidates by the product of step scores: 400 random subsets as in the paper, and the exact "
                "expectation with intervals over problems.",
    data=DATA,
    headline="best of N for the largest N: share of the problems whose candidate with the highest product is right",
    read=read_pool, evaluate=evaluate, twin=twins.prm800k_best_of_n, thresholds=(), probabilities=True)
