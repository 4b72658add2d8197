"""Which decision rule when: best-of-N on two public pools with published step scores.

    python experiments/best_of_n/run.py --data ../shared/data      (or JAXPRM_DATA=../shared/data)

Writes results.json, results.md and the figures beside this file. No model is run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from figures import draw_all  # noqa: E402
from pools import POOLS, RULES, Pool, read_pool, solved, solved_at, table  # noqa: E402
from tables import markdown  # noqa: E402

from jaxprm.errors import InputError  # noqa: E402
from jaxprm.metrics import (  # noqa: E402
    auroc,
    bootstrap_mean,
    brier,
    expected_best_of_n,
    expected_calibration_error,
    paired_test,
    risk_coverage,
    selective_accuracy,
    subsampled_best_of_n,
)
from jaxprm.scoring.aggregation import AGGREGATIONS  # noqa: E402
from jaxprm.scoring.budgets import samples_needed  # noqa: E402
from jaxprm.scoring.calibration import fit_isotonic, fit_platt, fit_quantile_bins, fit_temperature, odds_weights  # noqa: E402
from jaxprm.scoring.votes import select_ids  # noqa: E402
from jaxprm.tasks.grading import answer_classes  # noqa: E402

SEED = 0
FOLDS = 5
SIZES = (1, 2, 4, 8, 16, 32)
TRIALS = 40
PILOT = 4
FITS = {"temperature": fit_temperature, "Platt": lambda p, y: fit_platt(p, y, of_logit=True), "isotonic": fit_isotonic,
        "quantile bins": fit_quantile_bins}


def interval(values) -> dict:
    """Mean over problems with its 95 % bootstrap interval."""
    found = bootstrap_mean(values, np.arange(len(values)), SEED)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def against(first, second) -> dict:
    """Difference of two methods on the same problems, with interval and p-value."""
    found = paired_test(first, second, lambda sums: sums[..., 0] / len(first), np.arange(len(first)), SEED, resamples=4000)
    return {"mean": found.difference.mean, "low": found.difference.low, "high": found.difference.high, "p": found.p_value}


def decisions(pool: Pool) -> dict:
    """Every rule on every model and aggregation, with all candidates."""
    majority = solved(pool, np.zeros(pool.ids.shape), "majority")
    rows = {}
    for model in pool.steps:
        for how in AGGREGATIONS:
            scores = pool.scores(model, how)
            for rule in RULES:
                values = solved(pool, scores, rule)
                rows[f"{model}/{how}/{rule}"] = {**interval(values), "against_majority": against(values, majority)}
    first = {model: {how: interval(pool.correct[np.arange(len(majority)), np.argmax(pool.scores(model, how), axis=1)])
                     for how in AGGREGATIONS} for model in pool.steps}
    return {"pass@1": interval(pool.correct.mean(axis=1)), "majority": interval(majority),
            "oracle": interval(pool.correct.any(axis=1)), "best": first, "rules": rows}


def curves(pool: Pool) -> dict:
    """Accuracy against N: best-of-N exactly, votes over random subsets."""
    flat = np.zeros(pool.ids.shape)
    found = {"majority": [interval(solved_at(pool, flat, "majority", n, trials=TRIALS, seed=SEED)) for n in SIZES],
             "oracle": [interval(expected_best_of_n(pool.correct.astype(float), pool.correct, n)) for n in SIZES]}
    for model, how in (("qwen_prm", "min"), ("qwen_prm", "last"), ("skywork_prm", "last"), ("math_shepherd", "min")):
        if model in pool.steps:
            scores = pool.scores(model, how)
            found[f"{model} {how}, best"] = [interval(expected_best_of_n(scores, pool.correct, n)) for n in SIZES]
            for rule in ("weighted", "hybrid_majority"):
                values = [solved_at(pool, scores, rule, n, trials=TRIALS, seed=SEED) for n in SIZES]
                found[f"{model} {how}, {rule}"] = [interval(value) for value in values]
    return {"sizes": SIZES, "trials": TRIALS, "curves": found}


def prm800k_protocol(pool: Pool) -> dict:
    """The 400 trials of PRM800K beside the exact expectation, product of the step scores."""
    scores = pool.scores("qwen_prm", "prod")
    rows = {}
    for size in SIZES:
        trials = subsampled_best_of_n(scores, pool.correct, size, (SEED, size))
        rows[size] = {"mean": trials.mean, "deviation": trials.deviation,
                      "exact": float(expected_best_of_n(scores, pool.correct, size).mean())}
    return rows


def cross_fitted(pool: Pool, scores: np.ndarray, fit) -> np.ndarray:
    """Probabilities from maps that never saw the problem: fitted on the other folds of problems."""
    fold = np.random.default_rng(SEED).permutation(len(pool.problems)) % FOLDS
    fitted = np.empty(scores.shape)
    for part in range(FOLDS):
        train = fold != part
        fitted[~train] = fit(scores[train].ravel(), pool.correct[train].ravel().astype(float))(scores[~train])
    return fitted


def quality(pool: Pool, scores: np.ndarray) -> dict:
    """Probabilities of whole solutions, and the rules that read them as weights."""
    flat, right = scores.ravel(), pool.correct.ravel()
    reliability = expected_calibration_error(flat, right)
    majority = solved(pool, np.zeros(pool.ids.shape), "majority")
    rules = {rule: solved(pool, scores, rule) for rule in ("weighted", "weighted_frequency", "unanimity_plurality")}
    rules["weighted by odds"] = solved(pool, odds_weights(scores), "weighted")
    return {"brier": brier(flat, right), "ece": reliability.error, "auroc": auroc(flat, right),
            "bins": {"confidence": reliability.confidence.tolist(), "accuracy": reliability.accuracy.tolist(),
                     "count": reliability.count.tolist()},
            "rules": {rule: {**interval(values), "against_majority": against(values, majority)}
                      for rule, values in rules.items()}}


def calibration(pools: dict[str, Pool]) -> dict:
    """Solution scores as probabilities: raw, cross-fitted by problem on gsm8k, fitted on gsm8k and used on math500."""
    gsm8k, math500 = (pools[name] for name in POOLS)
    found = {}
    for model in gsm8k.steps:
        for how in ("min", "last"):
            scores = gsm8k.scores(model, how)
            found[f"gsm8k/{model}/{how}"] = {"raw": quality(gsm8k, scores)} | {
                f"{name}, cross-fitted": quality(gsm8k, cross_fitted(gsm8k, scores, fit)) for name, fit in FITS.items()}
    for model in math500.steps:
        for how in ("min", "last"):
            scores, labels = gsm8k.scores(model, how).ravel(), gsm8k.correct.ravel().astype(float)
            new = math500.scores(model, how)
            found[f"math500/{model}/{how}"] = {"raw": quality(math500, new)} | {
                f"{name}, fitted on gsm8k": quality(math500, fit(scores, labels)(new)) for name, fit in FITS.items()}
    return found


def selective(pool: Pool, model: str, how: str) -> dict:
    """Answering the problems where confident: three confidences in the answer of the same rule (best-of-32)."""
    scores = pool.scores(model, how)
    chosen = select_ids(pool.ids, scores, "best")
    rows = np.arange(len(chosen))
    right = pool.correct[rows, chosen]
    member = (pool.ids == pool.ids[rows, chosen][:, None]) & (pool.ids >= 0)
    confidences = {"score of the winner": scores[rows, chosen], "share of equal answers": member.mean(axis=1),
                   "share of the weight": (member * scores).sum(axis=1) / np.maximum(scores.sum(axis=1), 1e-12)}
    found = {}
    for name, confidence in confidences.items():
        curve = risk_coverage(confidence, right)
        found[name] = {"area": curve.area, "coverage": curve.coverage.tolist(), "risk": curve.risk.tolist(),
                       "accuracy_at_80": selective_accuracy(confidence, right, 0.8)}
    return {"accuracy": float(right.mean()), "confidences": found}


def canonical(pool: Pool) -> dict:
    """Votes over raw texts beside votes over answers that say the same (`answer_classes`, math-verify)."""
    classes = [answer_classes(row, "math") for row in pool.answers]
    ids = np.array([[-1 if number is None else number for number in row] for row in classes])
    distinct = lambda ids: int(sum(row.max() + 1 for row in ids))
    found = {"distinct": {"raw": distinct(pool.ids), "canonical": distinct(ids)}}
    for model in pool.steps:
        scores = pool.scores(model, "min")
        for rule in ("majority", *RULES):
            raw, same = solved(pool, scores, rule), solved(pool, scores, rule, ids)
            found[f"{model}/min/{rule}"] = {"raw": interval(raw), "canonical": interval(same), "change": against(same, raw)}
    return found


def adaptive(pool: Pool, model: str, how: str) -> dict:
    """Budgets by problem from the calibrated mean of the first candidates, against the same rule at a fixed N.

    The first N candidates of a random order take part, at least the pilot ones; mean over orders. p is cross-fitted by
    problem. A fixed N between two whole numbers mixes the two.
    """
    scores = pool.scores(model, how)
    count, width = scores.shape
    probability = cross_fitted(pool, scores, FITS["isotonic"])
    exact = np.stack([expected_best_of_n(scores, pool.correct, n) for n in range(1, width + 1)])
    rng = np.random.default_rng(SEED)
    orders = [rng.permuted(np.tile(np.arange(width), (count, 1)), axis=1) for _ in range(TRIALS)]
    rows = []
    for confidence in (0.5, 0.9, 0.99, 0.999, 0.9999, 0.999999):
        right, spent = np.zeros(count), 0.0
        for order in orders:
            here = np.take_along_axis(probability, order, axis=1)[:, :PILOT].mean(axis=1)
            budget = np.maximum(samples_needed(here, confidence, width), PILOT)
            taken = np.where(np.arange(width) < budget[:, None], np.take_along_axis(scores, order, axis=1), -np.inf)
            chosen = np.take_along_axis(order, np.argmax(taken, axis=1)[:, None], axis=1)
            right += np.take_along_axis(pool.correct, chosen, axis=1)[:, 0] / TRIALS
            spent += float(budget.mean()) / TRIALS
        low = min(int(spent), width - 1)
        fixed = exact[low - 1] * (1 - (spent - low)) + exact[low] * (spent - low)
        rows.append({"confidence": confidence, "samples": spent, **interval(right), "fixed": interval(fixed),
                     "difference": against(right, fixed)})
    return {"pilot": PILOT, "rows": rows, "fixed": exact.mean(axis=1).tolist()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.environ.get("JAXPRM_DATA"), help="folder that holds dev_eval/ (or JAXPRM_DATA)")
    parser.add_argument("--output", default=str(HERE), help="where the results go (default: beside this script)")
    options = parser.parse_args(arguments)
    if not options.data:
        sys.exit("error: name the data folder with --data or JAXPRM_DATA")
    try:
        pools = {name: read_pool(Path(options.data) / "dev_eval", name) for name in POOLS}
    except InputError as error:
        sys.exit(f"error: {error}")
    results = {"seed": SEED, "table": {name: table(pool) for name, pool in pools.items()}}
    results["decisions"] = {name: decisions(pool) for name, pool in pools.items()}
    print("rules done", flush=True)
    results["curves"] = {name: curves(pool) for name, pool in pools.items()}
    print("curves done", flush=True)
    results["prm800k_protocol"] = {name: prm800k_protocol(pool) for name, pool in pools.items()}
    results["calibration"] = calibration(pools)
    gsm8k, math500 = (pools[name] for name in POOLS)
    results["selective"] = {"gsm8k/qwen_prm/last": selective(gsm8k, "qwen_prm", "last"),
                            "gsm8k/skywork_prm/last": selective(gsm8k, "skywork_prm", "last"),
                            "math500/qwen_prm/min": selective(math500, "qwen_prm", "min")}
    results["adaptive"] = {"gsm8k/qwen_prm/last": adaptive(gsm8k, "qwen_prm", "last"),
                           "gsm8k/skywork_prm/last": adaptive(gsm8k, "skywork_prm", "last"),
                           "math500/qwen_prm/min": adaptive(math500, "qwen_prm", "min")}
    print("calibration and budgets done", flush=True)
    results["canonical"] = canonical(math500)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1, allow_nan=True).replace("NaN", "null") + "\n")
    (output / "results.md").write_text(markdown(results))
    draw_all(results, output)


if __name__ == "__main__":
    main()
