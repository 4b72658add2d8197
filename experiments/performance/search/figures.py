"""search.png and growth.png of the results of compare.py.

    python experiments/performance/search/figures.py cpu.json        # beside this file; of several, the last that has an N
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

WAYS = {  # colour and name of a way of searching, in the order of the bars
    ("jaxprm", True): ("#00876c", "jaxprm, many problems at once"), ("jaxprm", False): ("#0b6fb8", "jaxprm, one problem"),
    ("again", False): ("#8a94a3", "jaxprm, PRM reads again"), ("cached", False): ("#d17a00", "transformers, policy cached"),
    ("texts", False): ("#c03d3d", "transformers, texts")}
SERIES = {"candidates": "candidates per level (N)", "steps": "steps", "problems": "problems searched at once"}


def _axes(count: int):
    figure, axes = plt.subplots(1, count, figsize=(4.4 * count, 3.8), layout="constrained", squeeze=False)
    for one in axes[0]:
        one.grid(color="#e3e7ed", axis="y" if count == 1 else "both")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def draw_searches(rows: list[dict], clock: str, path: Path) -> None:
    """Seconds per problem of each way, by the number of candidates."""
    figure, (axis,) = _axes(1)
    figure.set_size_inches(7.4, 4.2)
    sizes = sorted({row["candidates"] for row in rows})
    for place, ((way, many), (color, label)) in enumerate(WAYS.items()):
        found = {row["candidates"]: row[clock] for row in rows if (row["way"], row["problems"] > 1) == (way, many)}
        at = [sizes.index(size) + (place - 2) * 0.16 for size in found]
        bars = axis.bar(at, found.values(), width=0.15, color=color, label=label)
        axis.bar_label(bars, fmt=lambda value: f"{value:.3g}", fontsize=7, padding=1)
    axis.set_yscale("log")
    axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axis.set(xlabel="candidates per level (N)", ylabel=_unit(clock) + " per problem (logarithmic)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def draw_growth(rows: list[dict], clock: str, path: Path) -> None:
    """Seconds of our search with the straight line through the points (least squares)."""
    figure, axes = _axes(len(SERIES))
    for axis, (name, label) in zip(axes, SERIES.items()):
        points = [row for row in rows if row["series"] == name]
        x, y = (np.array([point[key] for point in points], float) for key in (name, clock))
        slope, start = np.polyfit(x, y, 1)
        share = 1 - ((y - start - slope * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        axis.plot(x, start + slope * x, color="#8a94a3", label=f"{start:.2f} + {slope:.3f} x,  R² = {share:.4f}")
        axis.plot(x, y, "o", color="#0b6fb8")
        axis.set(xlabel=label, ylabel=_unit(clock), ylim=(0, None), xlim=(0, None), title=_fixed(points, name))
        axis.title.set_fontsize(9)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=130)


def _unit(clock: str) -> str:
    return "seconds" if clock == "seconds" else "CPU seconds (all cores)"


def _fixed(points: list[dict], varied: str) -> str:
    return ", ".join(f"{points[0][name]} {name}" for name in SERIES if name != varied)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--clock", choices=["seconds", "cpu_seconds"], default="seconds")
    options = parser.parse_args()
    searches, folder = {}, options.results[0].parent
    for results in (json.loads(path.read_text()) for path in options.results):
        sizes = {row["candidates"] for row in results.get("search", [])}
        searches |= {size: [row for row in results["search"] if row["candidates"] == size] for size in sizes}
        if results.get("growth"):
            draw_growth(results["growth"], options.clock, folder / "growth.png")
    if searches:
        draw_searches(sum(searches.values(), []), options.clock, folder / "search.png")


if __name__ == "__main__":
    main()
