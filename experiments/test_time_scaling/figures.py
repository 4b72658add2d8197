"""The figures of the results: accuracy against policy tokens, and what the reward model's errors do."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import FuncFormatter, PercentFormatter  # noqa: E402

# Families share a line style: chosen among samples, kept level by level, gone back to.
STYLES = {"best of N": ("#000000", "-", "o"), "weighted vote": ("#000000", "--", "o"), "majority": ("#8a94a3", "--", "o"),
          "adaptive best of N": ("#8a94a3", "-", "o"),
          "greedy": ("#5aa9e6", "-", "s"), "beam": ("#0b6fb8", "-", "s"),
          "DVTS": ("#00876c", "-", "s"), "REBASE": ("#d17a00", "-", "s"), "particle": ("#c03d3d", "-", "s"),
          "lookahead": ("#7a5fd0", "-", "s"), "value-guided": ("#b3467f", "-", "s"), "early rejection": ("#a58b00", "-", "s"),
          "entropy branching": ("#6b4f3a", "-", "s"),
          "tree puct_openr": ("#0b6fb8", "-.", "^"), "tree uct_rstar": ("#00876c", "-.", "^"),
          "tree uct_rstar_math": ("#d17a00", "-.", "^"), "tree uct_rest_mcts": ("#c03d3d", "-.", "^"),
          "tree puct_alphamath": ("#7a5fd0", "-.", "^"),
          "chunk reset": ("#b3467f", "-.", "v"), "refine": ("#a58b00", "-.", "v"),
          "PATS": ("#6b4f3a", "-.", "v"), "dual phase": ("#5aa9e6", "-.", "v")}
TITLES = {"oracle": "oracle scorer", "trained": "trained PRM", "random": "random scorer"}


def draw(results: dict, folder: Path) -> None:
    """results.png and errors.png."""
    _scaling(results["tasks"], folder / "results.png")
    _errors(results["tasks"], folder / "errors.png")


def _plain(axes) -> None:
    axes.grid(color="#e3e7ed")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure, names: list[str]) -> None:
    lines = []
    for name in names:
        color, line, marker = STYLES[name]
        lines.append(plt.Line2D([], [], color=color, linestyle=line, marker=marker, markersize=4, label=name))
    figure.legend(handles=lines, loc="outside lower center", ncols=8, frameon=False, fontsize=9)


def _scaling(tasks: dict, path: Path) -> None:
    figure, axes = plt.subplots(len(tasks), 3, figsize=(16, 5.4 * len(tasks)), layout="constrained", squeeze=False,
                                sharey="row", sharex="row")
    for row, (task, found) in zip(axes, tasks.items()):
        for one, (scorer, points) in zip(row, found["points"].items()):
            _plain(one)
            for name, values in points.items():
                if scorer == "random" and name == "majority":
                    continue  # it reads no scores
                color, line, marker = STYLES[name]
                tokens = np.array([value["tokens"] for value in values])
                mean, low, high = (np.array([value["accuracy"][part] for value in values]) for part in ("mean", "low", "high"))
                one.errorbar(tokens, mean, np.maximum([mean - low, high - mean], 0), color=color, linestyle=line, marker=marker,
                             markersize=3.5, linewidth=1.2, elinewidth=0.5, alpha=0.9)
            one.set_xscale("log", base=2)
            one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            one.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            one.set(xlabel="policy tokens per problem", title=f"{task}, {TITLES[scorer]}")
        row[0].set_ylabel("problems solved")
    _legend(figure, [name for name in STYLES if any(name in found["points"]["trained"] for found in tasks.values())])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _errors(tasks: dict, path: Path) -> None:
    """Left: what the trained model's errors cost at N = 16; right: how far its scores of what is chosen exceed the accuracy."""
    figure, axes = plt.subplots(len(tasks), 2, figsize=(14, 6.2 * len(tasks)), layout="constrained", squeeze=False)
    for row, (task, found) in zip(axes, tasks.items()):
        for one in row:
            _plain(one)
        names = [name for name in STYLES if any(point["size"] == 16 for point in found["errors"].get(name, []))]
        for place, name in enumerate(names):
            point = next(point for point in found["errors"][name] if point["size"] == 16)
            for shift, key, color in ((0.2, "trained_minus_random", "#00876c"), (0.0, "trained_minus_oracle", "#c03d3d"),
                                      (-0.2, "chosen_minus_found", "#8a94a3")):
                if key in point:
                    value = point[key]
                    row[0].errorbar(value["mean"], place + shift, xerr=[[max(value["mean"] - value["low"], 0)],
                                                                      [max(value["high"] - value["mean"], 0)]],
                                    color=color, marker="o", markersize=4, linestyle="none",
                                    label=key.replace("_", " ") if not place else None)
        row[0].axvline(0, color="#3a3f47", linewidth=0.8)
        row[0].set_yticks(range(len(names)), names)
        row[0].invert_yaxis()
        row[0].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        row[0].set_title(f"{task}: differences in accuracy at N = 16")
        row[0].legend(frameon=False, fontsize=9, loc="upper left")
        for name, values in found["points"]["trained"].items():
            known = [value for value in values if "confidence" in value]
            if known:
                color, line, marker = STYLES[name]
                row[1].plot([value["tokens"] for value in known],
                            [value["confidence"] - value["accuracy"]["mean"] for value in known], color=color, linestyle=line,
                            marker=marker, markersize=3.5, linewidth=1.2)
        row[1].axhline(0, color="#3a3f47", linewidth=0.8)
        row[1].set_xscale("log", base=2)
        row[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        row[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        row[1].set(xlabel="policy tokens per problem", title=f"{task}, trained PRM: mean score of the chosen minus accuracy")
    used = [name for name in STYLES if any("confidence" in value for found in tasks.values()
                                           for value in found["points"]["trained"].get(name, []))]
    _legend(figure, used)
    figure.savefig(path, dpi=100)
    plt.close(figure)
