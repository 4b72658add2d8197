"""Numbers of the test-time scaling study from the cells: JSON, tables, figures.

An interval resamples problems and seeds together, 1,000 times; what is compared is resampled together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import figures
import numpy as np
from scorers import SCORERS
from strategies import SIZES, level_strategies, node_strategies

from jaxprm.evaluation.best_of_n import Candidates, best_of_n
from jaxprm.metrics import auroc
from jaxprm.metrics.subsampling import chance_of_best
from jaxprm.records import atomic_write
from jaxprm.scoring.budgets import samples_needed
from jaxprm.scoring.calibration import fit_isotonic

RESAMPLES, KEY = 1000, 30
POOL_SIZES = (1, 2, 4, 8, 16, 32, 64)
PILOT, CONFIDENCES, ORDERS, FOLDS = 4, (0.5, 0.9, 0.99, 0.999), 16, 5
VOTES = {"best of N": "PRM best", "weighted vote": "PRM weighted", "majority": "majority"}


class Means:
    """Means over problems and seeds with intervals."""

    def __init__(self, seeds: int, problems: int):
        rng = np.random.default_rng(KEY)
        drawn = rng.integers(problems, size=(RESAMPLES, problems))
        self.problems = np.stack([np.bincount(row, minlength=problems) for row in drawn]) / problems
        self.seeds = rng.integers(seeds, size=(RESAMPLES, seeds))

    def __call__(self, values) -> dict:
        """Of ``values`` [seeds, problems]."""
        values = np.asarray(values, np.float64)
        by_seed = values @ self.problems.T
        resampled = np.take_along_axis(by_seed.T, self.seeds, axis=1).mean(1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return {"mean": float(values.mean()), "low": float(low), "high": float(high), "seeds": values.mean(1).tolist()}


def write(place: Path, cells: Path, seeds: Sequence[int]) -> None:
    """results.json, results.md and the figures of all cells that are there for every seed."""
    results = {"seeds": list(seeds), "tasks": {}}
    for task in ("arithmetic", "countdown"):
        folders = [cells / f"{task}-{seed}" for seed in seeds]
        if all((folder / "pool.json").exists() for folder in folders):
            results["tasks"][task] = summary(folders)
    with atomic_write(place / "results.json") as output:
        json.dump(results, output, indent=1)
        output.write("\n")
    with atomic_write(place / "results.md") as output:
        output.write(markdown(results))
    figures.draw(results, place)


def summary(folders: Sequence[Path]) -> dict:
    """What is known of a task."""
    pools = [json.loads((folder / "pool.json").read_text()) for folder in folders]
    problems = len(pools[0]["correct"])
    mean = Means(len(folders), problems)
    found = {"problems": problems, "pass_at_1": mean([np.mean(pool["correct"], axis=1) for pool in pools]),
             "quality": {name: _quality(pools, name) for name in SCORERS[1:]}, "points": {}}
    curves = {}
    for scorer in SCORERS:
        points = found["points"][scorer] = {}
        curves[scorer] = [_curves(pool, scorer) for pool in pools]
        for name, method in VOTES.items():
            points[name] = [
                {"size": size, "tokens": float(np.mean([curve.tokens[at] for curve in curves[scorer]])),
                 "accuracy": mean([curve.per_problem[method][at] for curve in curves[scorer]]),
                 "any_right": mean([curve.per_problem["oracle"][at] for curve in curves[scorer]])}
                for at, size in enumerate(POOL_SIZES)]
        _add_confidence(points["best of N"], pools, scorer)
        points["adaptive best of N"] = [_adaptive(pools, scorer, confidence, mean) for confidence in CONFIDENCES]
        for name in (*level_strategies(4, 8), *node_strategies(4)):
            rows = [_point(name, scorer, size, folders, curves[scorer], mean) for size in SIZES]
            if any(rows):
                points[name] = [row for row in rows if row]
    found["errors"] = _errors(folders, curves, mean)
    return found


def _quality(pools: Sequence[dict], scorer: str) -> dict:
    """Of the scores of steps: do they tell right steps from wrong ones, and the first wrong one from those before it?"""
    areas, spread = [], []
    for pool in pools:
        right, scores = np.concatenate(pool["steps"]["oracle"]), np.concatenate(pool["steps"][scorer])
        first = np.concatenate([np.cumsum(1 - np.array(row)) - (1 - np.array(row)) == 0 for row in pool["steps"]["oracle"]])
        areas.append(float(auroc(scores[first], right[first])))
        spread.append(float(np.std(scores)))
    return {"step_auroc": areas, "deviation": spread}


def _curves(pool: dict, scorer: str):
    answers = [[None if answer is None else answer for answer in row] for row in pool["answers"]]
    return best_of_n(Candidates(answers, pool["correct"], pool["values"][scorer], pool["tokens"]), KEY, sizes=POOL_SIZES,
                     resamples=1)


def _add_confidence(points: list[dict], pools: Sequence[dict], scorer: str) -> None:
    """The score of what best of N chooses, on average: beside its accuracy it shows how far the scores are fooled."""
    for point in points:
        ranked = [-np.sort(-np.array(pool["values"][scorer]), axis=1) for pool in pools]
        point["confidence"] = float(np.mean([rows @ chance_of_best(rows.shape[1], point["size"]) for rows in ranked]))


def _adaptive(pools: Sequence[dict], scorer: str, confidence: float, mean: Means) -> dict:
    """Best of as many samples as the calibrated scores of the first few ask for."""
    right, tokens = [], []
    for seed, pool in enumerate(pools):
        parts = (pool["values"][scorer], pool["correct"], pool["tokens"])
        values, correct, costs = (np.array(part, np.float64) for part in parts)
        probability, rng = np.zeros_like(values), np.random.default_rng((KEY, seed))
        fold = rng.permutation(len(values)) % FOLDS
        for number in range(FOLDS):  # no problem is scored by a map that saw it
            known = fold != number
            probability[~known] = fit_isotonic(values[known].ravel(), correct[known].ravel())(values[~known])
        order = rng.permuted(np.broadcast_to(np.arange(values.shape[1]), (ORDERS, *values.shape)), axis=2)
        values, correct, costs, probability = (np.take_along_axis(np.broadcast_to(part, order.shape), order, axis=2)
                                               for part in (values, correct, costs, probability))
        needed = np.maximum(samples_needed(probability[..., :PILOT].mean(-1), confidence, values.shape[2]), PILOT)
        drawn = np.arange(values.shape[2]) < needed[..., None]
        chosen = np.argmax(np.where(drawn, values, -1.0), axis=2)
        right.append(np.take_along_axis(correct, chosen[..., None], axis=2)[..., 0].mean(0))
        tokens.append((costs * drawn).sum(2).mean())
    return {"size": confidence, "tokens": float(np.mean(tokens)), "accuracy": mean(right)}


def _load(folders: Sequence[Path], name: str, scorer: str, size: int) -> list[dict] | None:
    files = [folder / f"{name}, {scorer}, {size}.json" for folder in folders]
    return [json.loads(file.read_text()) for file in files] if all(file.exists() for file in files) else None


def _point(name: str, scorer: str, size: int, folders, curves, mean: Means) -> dict | None:
    cells = _load(folders, name, scorer, size)
    if cells is None:
        return None
    tokens = float(np.mean([cell["policy_tokens"] for cell in cells]))
    right = np.array([cell["right"] for cell in cells], float)
    against = {other: mean(right - np.array([_at(curve, VOTES[other], tokens) for curve in curves]))
               for other in ("best of N", "weighted vote")}
    return {"size": size, "tokens": tokens, "reward_tokens": float(np.mean([cell["reward_tokens"] for cell in cells])),
            "accuracy": mean(right), "any_right": mean([cell["any_right"] for cell in cells]),
            "confidence": float(np.mean([[value or 0.0 for value in cell["value"]] for cell in cells])),
            "minus_at_equal_tokens": against, "seconds": float(np.sum([cell["seconds"] for cell in cells])),
            "compilations": int(np.sum([cell["compilations"] for cell in cells]))}


def _at(curve, method: str, tokens: float) -> np.ndarray:
    """The accuracy on each problem at a number of policy tokens: between two sizes, linear in the logarithm of the tokens."""
    place = np.clip(np.interp(np.log(tokens), np.log(curve.tokens), np.arange(len(curve.tokens))), 0, len(curve.tokens) - 1)
    low = min(int(place), len(curve.tokens) - 2)
    return curve.per_problem[method][low] * (low + 1 - place) + curve.per_problem[method][low + 1] * (place - low)


def _errors(folders, curves: dict[str, list], mean: Means) -> dict:
    """By strategy and size: what the trained reward model's errors cost, paired by problem.

    trained minus oracle = what is lost to errors; trained minus random = what the scores are worth; chosen minus found =
    what is lost at the end, where a right solution was there and another was chosen.
    """
    found: dict[str, list[dict]] = {}
    for name, method in VOTES.items():
        rows = []
        for at, size in enumerate(POOL_SIZES):
            values = {scorer: np.array([curve.per_problem[method][at] for curve in curves[scorer]]) for scorer in SCORERS}
            any_right = np.array([curve.per_problem["oracle"][at] for curve in curves["trained"]])
            rows.append(_error_row(size, values, any_right, mean))
        found[name] = rows
    for name in (*level_strategies(4, 8), *node_strategies(4)):
        for size in SIZES:
            cells = {scorer: _load(folders, name, scorer, size) for scorer in SCORERS}
            if cells["trained"]:
                values = {scorer: np.array([cell["right"] for cell in some], float) for scorer, some in cells.items() if some}
                any_right = np.array([cell["any_right"] for cell in cells["trained"]], float)
                found.setdefault(name, []).append(_error_row(size, values, any_right, mean))
    return found


def _error_row(size: int, values: dict[str, np.ndarray], any_right: np.ndarray, mean: Means) -> dict:
    row = {"size": size, "chosen_minus_found": mean(values["trained"] - any_right)}
    for other in ("oracle", "random"):
        if other in values:
            row[f"trained_minus_{other}"] = mean(values["trained"] - values[other])
    return row


def markdown(results: dict) -> str:
    """The tables."""
    lines = ["# Results", "", f"Written by `study.py`. {len(results['seeds'])} seeds; brackets: 95 % intervals over problems "
             "and seeds. Tokens: drawn by the policy per problem, those of discarded steps included.", ""]
    for task, found in results["tasks"].items():
        lines += _overview(task, found)
        for scorer, points in found["points"].items():
            lines += _accuracies(task, scorer, points)
        lines += _equal_tokens(task, found["points"]["trained"]) + _differences(task, found["errors"])
        lines += _fooled(task, found["points"])
    return "\n".join(lines).rstrip() + "\n"


def _overview(task: str, found: dict) -> list[str]:
    quality = "; ".join(f"{name} {', '.join(f'{value:.3f}' for value in row['step_auroc'])}"
                        for name, row in found["quality"].items())
    return [f"## {task}", "", f"{found['problems']} problems per seed, one sample right: {_shown(found['pass_at_1'])}. AUROC "
            f"of the steps up to the first wrong one, by seed: {quality}.", ""]


def _accuracies(task: str, scorer: str, points: dict) -> list[str]:
    sizes = POOL_SIZES
    lines = [f"### {task}, {scorer} reward model: accuracy (policy tokens)", "",
             "| strategy | " + " | ".join(f"N = {size}" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name, rows in points.items():
        if name != "adaptive best of N":
            known = {row["size"]: f"{_shown(row['accuracy'])} ({row['tokens']:,.0f})" for row in rows}
            lines.append(f"| {name} | " + " | ".join(known.get(size, "") for size in sizes) + " |")
    adaptive = "; ".join(f"{row['size']}: {_shown(row['accuracy'])} ({row['tokens']:,.0f})"
                         for row in points["adaptive best of N"])
    return [*lines, "", f"adaptive best of N, by confidence: {adaptive}", ""]


def _equal_tokens(task: str, points: dict) -> list[str]:
    lines = [f"### {task}, trained: points above best of N and the weighted vote at the same number of policy tokens", "",
             "| strategy | N | tokens | minus best of N | minus weighted vote | right one found | mean score of the chosen |",
             "|---" * 7 + "|"]
    for name, rows in points.items():
        for row in rows:
            if "minus_at_equal_tokens" in row:
                best, vote = (_change(row["minus_at_equal_tokens"][other]) for other in ("best of N", "weighted vote"))
                lines.append(f"| {name} | {row['size']} | {row['tokens']:,.0f} | {best} | {vote} | "
                             f"{_shown(row['any_right'])} | {row['confidence']:.3f} |")
    return [*lines, ""]


def _differences(task: str, errors: dict) -> list[str]:
    lines = [f"### {task}: what the reward model's errors do (points, paired)", "",
             "| strategy | N | trained minus oracle | trained minus random | chosen minus found |", "|---" * 5 + "|"]
    for name, rows in errors.items():
        for row in rows:
            cells = [_change(row.get(key)) for key in ("trained_minus_oracle", "trained_minus_random", "chosen_minus_found")]
            lines.append(f"| {name} | {row['size']} | {' | '.join(cells)} |")
    return [*lines, ""]


def _fooled(task: str, points: dict) -> list[str]:
    lines = [f"### {task}: best of N, accuracy beside the mean score of what is chosen", "",
             "| N | " + " | ".join(f"{scorer}: accuracy, score" for scorer in SCORERS) + " |",
             "|---" * (len(SCORERS) + 1) + "|"]
    for at, size in enumerate(POOL_SIZES):
        rows = [points[scorer]["best of N"][at] for scorer in SCORERS]
        cells = [f"{row['accuracy']['mean']:.3f}, {row['confidence']:.3f}" for row in rows]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return [*lines, ""]


def _shown(value: dict) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _change(value: dict | None) -> str:
    return "" if value is None else f"{100 * value['mean']:+.1f} [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"
