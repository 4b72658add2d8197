"""The figures of the results."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import PercentFormatter  # noqa: E402

COLORS = ("#8a94a3", "#3a3f47", "#0b6fb8", "#d17a00", "#00876c", "#b3467f", "#7a5fd0", "#c03d3d", "#5aa9e6", "#a58b00")
SHORT = {"strict_bon_gsm8k": "GSM8K, 351 problems", "strict_bon_math500_dev": "MATH-500, 238 problems"}


def draw_all(results: dict, folder: Path) -> None:
    """accuracy.png, rules.png, reliability.png, risk_coverage.png, budgets.png."""
    _accuracy(results, folder / "accuracy.png")
    _rules(results, folder / "rules.png")
    _reliability(results, folder / "reliability.png")
    _risk(results, folder / "risk_coverage.png")
    _budgets(results, folder / "budgets.png")


def _axes(count: int, width: float = 6.2, height: float = 4.2):
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    for one in axes[0]:
        one.grid(color="#e3e7ed")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _accuracy(results: dict, path: Path) -> None:
    figure, axes = _axes(2, height=4.8)
    models = sorted({name.split(",")[0] for found in results["curves"].values() for name in found["curves"] if "," in name})
    color = {"majority": COLORS[0], "oracle": COLORS[1]} | dict(zip(models, COLORS[2:]))
    for one, (name, found) in zip(axes, results["curves"].items()):
        for label, points in found["curves"].items():
            style = "--" if "weighted" in label else ":" if "hybrid" in label else "-"
            mean, low, high = (np.array([point[part] for point in points]) for part in ("mean", "low", "high"))
            one.plot(found["sizes"], mean, style, marker="o", markersize=3, color=color[label.split(",")[0]])
            if label in ("majority", "qwen_prm last, best"):
                one.fill_between(found["sizes"], low, high, color=color[label.split(",")[0]], alpha=0.12, linewidth=0)
        one.set_xscale("log", base=2)
        one.set_xticks(found["sizes"], [str(size) for size in found["sizes"]])
        one.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        one.set(xlabel="samples per problem (N)", ylabel="problems solved", title=SHORT[name])
    lines = [plt.Line2D([], [], color=value, label=name.replace("_", " ")) for name, value in color.items()]
    lines += [plt.Line2D([], [], color="#3a3f47", linestyle=style, label=rule) for style, rule in (
        ("-", "best"), ("--", "weighted vote"), (":", "hybrid majority (HMR)"))]
    figure.legend(handles=lines, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    _save(figure, path)


def _rules(results: dict, path: Path) -> None:
    figure, axes = _axes(2, height=6.4)
    names = {"best": "best", "weighted": "weighted", "hybrid_majority": "HMR", "weighted_frequency": "WRF",
             "unanimity_plurality": "unanimity-plurality"}
    for one, (pool, found) in zip(axes, results["decisions"].items()):
        keys = [(model, how) for model in found["best"] for how in ("min", "last")]
        for index, (rule, label) in enumerate(names.items()):
            rows = [found["rules"][f"{model}/{how}/{rule}"]["against_majority"] for model, how in keys]
            place = np.arange(len(keys)) + 0.14 * (index - 2)
            mean, low, high = (100 * np.array([row[part] for row in rows]) for part in ("mean", "low", "high"))
            one.errorbar(mean, place, xerr=[mean - low, high - mean], fmt="o", markersize=4, elinewidth=1.2,
                         color=COLORS[2 + index], label=label)
        one.axvline(0, color="#3a3f47", linewidth=1)
        one.set_yticks(np.arange(len(keys)), [f"{model.replace('_', ' ')}, {how}" for model, how in keys])
        one.invert_yaxis()
        one.set(xlabel="points against majority of 32 (paired 95 % interval)", ylabel="model, aggregation", title=SHORT[pool])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    _save(figure, path)


def _reliability(results: dict, path: Path) -> None:
    shown = ("gsm8k/qwen_prm/last", "gsm8k/math_shepherd/min", "math500/qwen_prm/min")
    figure, axes = _axes(3, width=4.4)
    for one, name in zip(axes, shown):
        one.plot([0, 1], [0, 1], color="#8a94a3", linestyle=(0, (4, 3)), linewidth=1.2, label="perfect")
        for index, (kind, value) in enumerate(results["calibration"][name].items()):
            if kind.split(",")[0] in ("raw", "temperature", "Platt", "isotonic"):
                bins = value["bins"]
                kept = np.array(bins["count"]) >= 20
                one.plot(np.array(bins["confidence"], float)[kept], np.array(bins["accuracy"], float)[kept], marker="o",
                         markersize=4, color=COLORS[2 + index], label=f"{kind.split(',')[0]}, ECE {value['ece']:.3f}")
        one.set(xlabel="score of a solution, as a probability", ylabel="share of right solutions", xlim=(0, 1), ylim=(0, 1.02),
                title=name.replace("_", " "))
        one.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, path)


def _risk(results: dict, path: Path) -> None:
    figure, axes = _axes(3, width=4.4)
    for one, (name, found) in zip(axes, results["selective"].items()):
        for index, (kind, value) in enumerate(found["confidences"].items()):
            one.plot(value["coverage"], value["risk"], color=COLORS[2 + index], label=f"{kind}, AURC {value['area']:.3f}",
                     marker="o" if len(value["coverage"]) < 40 else None, markersize=3)
        one.axhline(1 - found["accuracy"], color="#8a94a3", linestyle=(0, (4, 3)), linewidth=1.2, label="all answered")
        one.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        one.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        one.set(xlabel="coverage: share of problems answered", ylabel="risk: wrong among the answered", xlim=(0, 1.01),
                title=name.replace("_", " "))
        one.set_ylim(bottom=0)
        one.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _budgets(results: dict, path: Path) -> None:
    figure, axes = _axes(3, width=4.4)
    for one, (name, found) in zip(axes, results["adaptive"].items()):
        one.plot(np.arange(1, len(found["fixed"]) + 1), found["fixed"], color=COLORS[0], label="the same N for all (exact)")
        rows = found["rows"]
        mean, low, high = (np.array([row[part] for row in rows]) for part in ("mean", "low", "high"))
        one.errorbar([row["samples"] for row in rows], mean, yerr=[mean - low, high - mean], fmt="o-", color=COLORS[2],
                     markersize=4, elinewidth=1, label="N by problem, C = 0.5 ... 0.999999")
        one.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        one.set(xlabel="samples per problem (mean)", ylabel="problems solved, best of N", title=name.replace("_", " "))
        one.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, path)


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
