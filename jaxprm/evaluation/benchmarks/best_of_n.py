"""Best-of-N over any pool of candidates: every way to make one score of step scores, every vote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import Benchmark, EvaluateOptions, Evaluation, Item, Line, Number, Scores
from jaxprm.evaluation.benchmarks.pools import DATA, Pool, read_pool
from jaxprm.evaluation.best_of_n import METHODS, Candidates, best_of_n
from jaxprm.metrics import GroupStatistic

NAMES = {"best": "best", "weighted": "weighted vote", "hybrid_majority": "HMR", "weighted_frequency": "WRF",
         "unanimity_plurality": "unanimity-plurality"}
COLUMNS = {"best": "PRM best", "weighted vote": "PRM weighted", "majority": "majority", "pass@1": "pass@1", "oracle": "oracle"}
SUBSETS = 32


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """Accuracy of every rule given all candidates, and of some against N.

    The headline is best-of-N by the weakest step. Votes beside it read that minimum, too; the table holds all others. What is
    not defined is left out: votes without answers, products and weighted votes of scores that are no probabilities.
    """
    pool = Pool.of(items, scores)
    totals = {how: pool.aggregate(how) for how in pool.aggregations}
    values = {(how, rule): pool.statistic(pool.solved(total, rule)) for how, total in totals.items() for rule in pool.rules}
    compared: dict[str, GroupStatistic] = {}
    for how in totals:
        compared[f"best, {how}"] = values[how, "best"]
    for rule in pool.rules[1:]:
        compared[f"{NAMES[rule]}, min"] = values["min", rule]
    numbers: dict[str, Number] = {name: options.interval(statistic) for name, statistic in compared.items()}
    if pool.answered:
        numbers["majority"] = options.interval(pool.statistic(pool.solved(totals["min"], "majority")))
    numbers["pass@1"] = options.interval(pool.statistic(pool.pass_at_1))
    numbers["oracle"] = options.interval(pool.statistic(pool.correct.any(axis=1).astype(float)))
    tables = {"accuracy by aggregation and rule": {
        how: {NAMES[rule]: options.interval(values[how, rule]) for rule in pool.rules} for how in totals}}
    lines = {}
    if pool.answered and pool.probable:
        sizes, curves = _curves(pool, totals["min"], options)
        tables["accuracy against N (min)"] = {
            str(size): {name: options.interval(pool.statistic(curves[method][place])) for name, method in COLUMNS.items()}
            for place, size in enumerate(sizes)}
        axes = "candidates per problem (N)", "share of problems solved", np.array(sizes, np.float64)
        lines = {f"{title} of N (min)": Line(*axes, curves[method].mean(axis=1), log_x=True)
                 for title, method in list(COLUMNS.items())[:2]}
    mixed = pool.correct.any(axis=1) & ~(pool.correct | ~pool.present).all(axis=1)
    settings = {"problems": len(pool.problems), "candidates": [int(pool.sizes.min()), int(pool.sizes.max())],
                "problems_with_right_and_wrong_candidates": int(mixed.sum()), "consensus": 0.5, "reward_weight": 0.5,
                "valid_from": 0.5, "subsets": SUBSETS}
    return Evaluation(numbers, tables, lines, compared=compared, settings=settings)


def _curves(pool: Pool, totals: np.ndarray, options: EvaluateOptions) -> tuple[list[int], dict[str, np.ndarray]]:
    """Sizes up to the smallest pool, and method -> float[sizes, Q]; problems of equal pools are measured together."""
    most = int(pool.sizes.min())
    sizes = sorted({most} | {2**power for power in range(most.bit_length()) if 2**power <= most})
    curves = {method: np.zeros((len(sizes), len(pool.problems))) for method in METHODS}
    for width, rows in pool.by_size():
        ids = pool.ids[rows, :width]
        answers = [[None if answer < 0 else str(answer) for answer in row] for row in ids.tolist()]
        found = best_of_n(Candidates(answers, pool.correct[rows, :width], totals[rows, :width]), options.key, sizes=sizes,
                          subsets=SUBSETS, resamples=1)
        for method in METHODS:
            curves[method][:, rows] = found.per_problem[method]
    return sizes, curves


BEST_OF_N = Benchmark(
    name="best_of_n",
    title="Best-of-N over a pool of candidates",
    citation="Any pool, such as those of staged-benchmark-2026/StrictPRMBench. HMR and WRF: UnPRM, arXiv 2508.01773; "
             "unanimity-plurality: Ling et al. 2023, arXiv 2306.03872; oracle: Chen et al. 2021, arXiv 2107.03374",
    description="Choose one of N solutions per problem: pass@1, majority, best, weighted votes, HMR, WRF and the oracle, for "
                "ten aggregations of step scores, and the accuracy against N.",
    data=DATA,
    headline="best, min: share of the problems whose candidate with the best weakest step is right",
    read=read_pool, evaluate=evaluate, twin=twins.best_of_n, thresholds=())
