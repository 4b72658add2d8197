"""Numbers of the objectives study: four metrics with intervals over problems and seeds, as JSON, a table and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from jaxprm.metrics import first_below
from jaxprm.records import LabeledSolution, atomic_write

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

METRICS = {"step_auroc": "step AUROC", "first_error_f1": "first-error F1", "ece": "ECE (lower is better)",
           "best_of_8": "accuracy of best of 8"}
RESAMPLES, KEY, BINS = 1000, 20, 10


class Problems:
    """Candidates grouped by problem, and what every resample of problems needs of them."""

    def __init__(self, items: Sequence[LabeledSolution]):
        names = [item.solution.problem.prompt for item in items]
        self.of_item = np.unique(names, return_inverse=True)[1]
        self.count = int(self.of_item.max()) + 1
        self.correct = np.array([bool(item.solution.correct) for item in items])
        # Chosen are candidates of the policy; those of careless authors are there for the step metrics.
        self.candidate = np.array([item.solution.generator == "policy" for item in items])
        self.answered = np.array([item.solution.answer is not None for item in items]) & self.candidate
        self.answers = [item.solution.answer for item in items]
        self.first = np.array([item.labels.first_error for item in items])
        labels = [value for item in items for value in item.labels.values]
        self.judged = np.array([value is not None for value in labels])
        self.right = np.array([bool(value) for value in labels])[self.judged]
        self.of_step = np.repeat(self.of_item, [len(item.labels.values) for item in items])[self.judged]

    def weights(self) -> np.ndarray:
        """How often each problem is drawn: the problems as they are, then the resamples."""
        rng = np.random.default_rng(KEY)
        drawn = rng.integers(self.count, size=(RESAMPLES, self.count))
        return np.stack([np.ones(self.count), *(np.bincount(row, minlength=self.count) for row in drawn)])


def summary(items: Sequence[LabeledSolution], runs: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Mean over seeds of each metric, with a 95 % interval: problems and seeds are resampled together."""
    problems = Problems(items)
    weights = problems.weights()
    values = np.stack([_metrics(problems, weights, run) for run in runs], axis=1)  # metric, seed, resample
    rng = np.random.default_rng(KEY + 1)
    seeds = rng.integers(len(runs), size=(len(runs), RESAMPLES))
    found = {}
    for name, rows in zip(METRICS, values):
        resampled = np.mean(np.take_along_axis(rows[:, 1:], seeds, axis=0), axis=0)
        low, high = np.percentile(resampled, [2.5, 97.5])
        found[name] = {"mean": float(rows[:, 0].mean()), "low": float(low), "high": float(high),
                       "seeds": [float(value) for value in rows[:, 0]]}
    return found


def _metrics(problems: Problems, weights: np.ndarray, run: dict) -> np.ndarray:
    """float[metric, resample]"""
    rows = [np.array(row) for row in run["scores"]]
    steps = np.concatenate(rows)[problems.judged]
    guess = np.array([first_below(row, run["threshold"]) for row in rows])
    hit, clean = guess == problems.first, problems.first < 0

    def total(values):  # of each resample: sums per problem are all that it needs
        return weights @ np.bincount(problems.of_item, values, minlength=problems.count)

    shares = [total(hit & side) / np.maximum(total(side), 1) for side in (clean, ~clean)]
    f1 = 2 * shares[0] * shares[1] / np.maximum(shares[0] + shares[1], 1e-12)
    least = np.array([row.min() for row in rows])
    chosen = np.array([_best(problems, least, problem) for problem in range(problems.count)])
    return np.stack([_auroc(steps, problems, weights), f1, _ece(steps, problems, weights),
                     (weights * chosen).sum(1) / weights.sum(1)])


def _best(problems: Problems, score: np.ndarray, problem: int) -> float:
    """Whether the answered candidate whose worst step scores highest is right; the first of equals."""
    members = np.flatnonzero((problems.of_item == problem) & problems.answered)
    return float(problems.correct[members[np.argmax(score[members])]]) if len(members) else 0.0


def _auroc(scores: np.ndarray, problems: Problems, weights: np.ndarray) -> np.ndarray:
    """Probability that a right step scores above a wrong one (ties count half), for each row of problem weights."""
    _, place = np.unique(scores, return_inverse=True)
    levels = place.max() + 1
    found = []
    for row in weights:
        by_step = row[problems.of_step]
        good, bad = (np.bincount(place, by_step * side, minlength=levels) for side in (problems.right, ~problems.right))
        below = np.cumsum(bad) - bad
        found.append((good * (below + bad / 2)).sum() / max(good.sum() * bad.sum(), 1e-12))
    return np.array(found)


def _ece(scores: np.ndarray, problems: Problems, weights: np.ndarray) -> np.ndarray:
    """Sum over the bins of |sum of (label - score)|, by the number of steps."""
    place = problems.of_step * BINS + np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, problems.right - scores, minlength=problems.count * BINS).reshape(problems.count, BINS)
    sizes = np.bincount(problems.of_step, minlength=problems.count)
    return np.abs(weights @ gaps).sum(1) / (weights @ sizes)


def chance(items: Sequence[LabeledSolution]) -> dict[str, float]:
    """What the candidates are worth without a reward model: a random one, the most frequent answer, the best one."""
    problems = Problems(items)
    majority, at_random, oracle = [], [], []
    for problem in range(problems.count):
        members = np.flatnonzero((problems.of_item == problem) & problems.candidate)
        at_random.append(problems.correct[members].mean())
        oracle.append(problems.correct[members].any())
        answers = [problems.answers[member] for member in members if problems.answered[member]]
        most = max(answers, key=answers.count) if answers else None
        majority.append(most is not None and problems.correct[members[[problems.answers[m] for m in members].index(most)]])
    return {"pass_at_1": float(np.mean(at_random)), "majority": float(np.mean(majority)), "oracle": float(np.mean(oracle)),
            "problems": problems.count, "right_steps": float(problems.right.mean())}


def write(place: Path, results: dict[str, dict], chance: dict[str, float], **facts) -> None:
    """results.json, results.md and results.png in ``place``, best step AUROC first."""
    order = sorted(results, key=lambda name: -results[name]["step_auroc"]["mean"])
    with atomic_write(place / "results.json") as out:
        json.dump({"objectives": {name: results[name] for name in order}, "candidates": chance, **facts}, out, indent=1)
        out.write("\n")
    seconds = facts["seconds"]
    lines = ["| config | " + " | ".join(METRICS.values()) + " | seconds per run |", "|---|" + "---|" * (len(METRICS) + 1)]
    for name in order:
        cells = [f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in results[name].values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {np.mean(seconds[name]):.0f} |")
    text = (f"Split: {facts['split']}; seeds {', '.join(map(str, facts['seeds']))}. Mean over seeds [95 % interval: problems "
            "and seeds resampled together]. The threshold of the first-error F1 was chosen on the development problems. "
            f"Without a reward model, on the same {chance['problems']} problems: a random candidate {chance['pass_at_1']:.3f}, "
            f"majority of 8 {chance['majority']:.3f}, the best of 8 (oracle) {chance['oracle']:.3f}.")
    with atomic_write(place / "results.md") as out:
        out.write("\n".join(lines) + f"\n\n{text}\n")
    _plot(place / "results.png", order, results, chance)


def _plot(path: Path, order: Sequence[str], results: dict[str, dict], chance: dict[str, float]) -> None:
    size = 13, max(3.2, 1.6 + 0.27 * len(order))
    figure, axes = plt.subplots(1, len(METRICS), figsize=size, sharey=True, layout="constrained")
    rows = np.arange(len(order))[::-1]
    for axis, (metric, label) in zip(axes, METRICS.items()):
        cells = [results[name][metric] for name in order]
        mean = np.array([cell["mean"] for cell in cells])
        errors = np.abs(np.array([[cell["low"], cell["high"]] for cell in cells]).T - mean)
        axis.errorbar(mean, rows, xerr=errors, fmt="o", color="#1f4e79", markersize=4, capsize=2, linewidth=1)
        for row, cell in zip(rows, cells):
            axis.plot(cell["seeds"], [row] * len(cell["seeds"]), "|", color="#c55a11", markersize=7)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
        if metric == "best_of_8":
            for name, style in (("pass_at_1", ":"), ("majority", "--"), ("oracle", "-")):
                axis.axvline(chance[name], linestyle=style, color="grey", linewidth=1, label=name.replace("_at_", "@"))
            axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, frameon=False)
    axes[0].set_yticks(rows, order)
    axes[0].set_ylabel("config (best step AUROC first)")
    figure.suptitle("PRM objectives on the embedded task: mean over seeds (dot), 95 % interval (bar), single seeds (tick)",
                    fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
