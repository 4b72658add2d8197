"""Figures as PNG bytes: fixed size, labelled axes with units, confidence bands, a light or a dark theme.

Nothing here touches pyplot, so that figures may be drawn in any thread and without a display.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from jaxprm.reports.details import Bar, Confusion, Curve, Panel, Reliability
from jaxprm.reports.theme import THEMES, Theme, ThemeName, color_of, text_color

_SIZE = (5.0, 3.4)  # inches: a 10-point font stays readable when a phone shows the figure 370 pixels wide
_RESOLUTION = 160  # dots per inch
_MARKERS = "osD^vPX"


def draw_panel(panel: Panel, theme: ThemeName = "light") -> bytes:
    """Curves with their bands on one pair of axes; a curve of one point is a marker with an error bar."""
    figure, axes, colors = _new(theme)
    _draw_curves(axes, panel.curves, colors, markers=max((len(curve.x) for curve in panel.curves), default=0) <= 16)
    _label(axes, panel.title, panel.x_label, panel.y_label)
    if panel.log_x:
        _log2_ticks(axes, [x for curve in panel.curves for x in curve.x])
    _legend(axes, panel.curves, colors)
    return _png(figure)


def draw_accuracy(curves: Sequence[Curve], *, x_label: str = "samples per problem (N)",
                  title: str = "Accuracy against the number of samples", theme: ThemeName = "light") -> bytes:
    """Share of problems solved against N (or policy tokens), x on a log scale of base 2."""
    figure, axes, colors = _new(theme)
    _draw_curves(axes, curves, colors, markers=True)
    _label(axes, title, x_label, "problems solved")
    _log2_ticks(axes, [x for curve in curves for x in curve.x])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _legend(axes, curves, colors)
    return _png(figure)


def draw_reliability(bins: Reliability, theme: ThemeName = "light") -> bytes:
    """Observed share of right steps against the predicted probability, with the number of steps per bin below."""
    figure, axes, colors = _new(theme, rows=(3.2, 1.0))
    axes, below = axes
    predicted, observed, count = (np.asarray(values, float) for values in (bins.predicted, bins.observed, bins.count))
    kept = count > 0
    predicted, observed, count = predicted[kept], observed[kept], count[kept]
    axes.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color=colors.muted, linewidth=1.2, label="perfect calibration")
    # Wilson interval of a share: honest also for bins of a few steps.
    low, high = _wilson(observed, count)
    axes.vlines(predicted, low, high, color=colors.palette[2], linewidth=1.6, alpha=0.6)
    axes.plot(predicted, observed, marker="o", markersize=5, linewidth=1.8, color=colors.palette[2], label="this model")
    _label(axes, "Are the scores honest probabilities?", "", "share of right steps")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticklabels=[])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="best", frameon=False, labelcolor=colors.text)
    width = 0.8 / max(len(bins.count), 1)
    below.bar(predicted, count, width=width, color=colors.palette[2], alpha=0.55)
    below.set(xlim=(-0.02, 1.02))
    _label(below, "", "predicted probability that the step is right", "steps")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.yaxis.set_major_formatter(FuncFormatter(_thousands))
    figure.align_ylabels()
    return _png(figure)


def draw_auroc_by_position(curve: Curve, theme: ThemeName = "light") -> bytes:
    """Step AUROC against the step's number; the dashed line at 0.5 is a reader of nothing but the position."""
    figure, axes, colors = _new(theme)
    axes.axhline(0.5, linestyle=(0, (4, 3)), color=colors.muted, linewidth=1.2)
    _draw_curves(axes, (curve,), colors, markers=True)
    _label(axes, "Telling right from wrong, step by step", "position of the step in the solution",
           "AUROC within position")
    axes.set_ylim(min([0.45, *(y for y in curve.low or curve.y if not math.isnan(y))]) - 0.02, 1.02)
    axes.annotate("chance: position alone ", (1.0, 0.5), (0, 3), color=colors.muted, ha="right", va="bottom",
                  fontsize=9, xycoords=axes.get_yaxis_transform(), textcoords="offset points")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    return _png(figure)


def draw_kinds(bars: Sequence[Bar], theme: ThemeName = "light") -> bytes:
    """Share of planted errors found, one horizontal bar per kind, best first, with its interval and count."""
    bars = sorted(bars, key=lambda bar: -bar.mean if not math.isnan(bar.mean) else math.inf)
    figure, axes, colors = _new(theme, height=max(_SIZE[1], 1.2 + 0.42 * len(bars)))
    places = np.arange(len(bars))
    axes.barh(places, [bar.mean for bar in bars], height=0.62, color=colors.palette[2], alpha=0.75)
    _whiskers(axes, bars, places, colors, horizontal=True)
    names = [bar.name.replace("_", " ") + (f" ({bar.count})" if bar.count is not None else "") for bar in bars]
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    _label(axes, "Planted errors caught, by kind (and cases)", "share of cases", "")
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    return _png(figure)


def draw_confusion(confusion: Confusion, theme: ThemeName = "light") -> bytes:
    """Monte-Carlo against exact labels: counts and row shares in a 2 x 2 table."""
    figure, axes, colors = _new(theme)
    counts = np.asarray(confusion.counts, float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    from_rgb, to_rgb = (_rgb(color) for color in (colors.background, colors.palette[2]))
    image = from_rgb + (to_rgb - from_rgb) * (0.08 + 0.85 * share[..., None])
    axes.imshow(image, aspect="auto")
    for exact in range(2):
        for estimated in range(2):
            cell = "#" + "".join(f"{round(255 * value):02x}" for value in image[exact, estimated])
            axes.text(estimated, exact, f"{counts[exact, estimated]:,.0f}\n{share[exact, estimated]:.0%} of row",
                      ha="center", va="center", color=text_color(cell), fontsize=12)
    axes.set_xticks([0, 1], ["wrong", "right"])
    axes.set_yticks([0, 1], ["wrong", "right"])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    _label(axes, "Monte-Carlo labels against the exact verdict",
           f"Monte-Carlo label (threshold {confusion.threshold:g})", "exact verdict")
    return _png(figure)


RL_MEASURES = {"pass_at_1": ("pass@1", "problems solved"), "mean_steps": ("Length", "steps per solution"),
               "repeated_steps": ("Repetition", "share of repeated steps")}


def draw_rl_bars(rl: Mapping[str, Mapping[str, Mapping[str, float | None]]], measure: str,
                 theme: ThemeName = "light") -> bytes:
    """One of `RL_MEASURES` before and after RL, with intervals, from ``results["rl"]``."""
    figure, axes, colors = _new(theme, width=3.6)
    places = np.arange(len(rl))
    bars = [Bar(name.replace("_", "-"), *(math.nan if row[measure][part] is None else row[measure][part]
                                          for part in ("mean", "low", "high"))) for name, row in rl.items()]
    axes.bar(places, [bar.mean for bar in bars], width=0.66, alpha=0.8,
             color=[color_of(bar.name, i, colors) for i, bar in enumerate(bars)])
    _whiskers(axes, bars, places, colors, horizontal=False)
    axes.set_xticks(places, [bar.name for bar in bars], rotation=25, ha="right", rotation_mode="anchor")
    axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")
    title, unit = RL_MEASURES[measure]
    _label(axes, title, "", unit)
    if measure != "mean_steps":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    return _png(figure)


def _new(theme: ThemeName, *, width: float = _SIZE[0], height: float = _SIZE[1], rows: tuple[float, ...] = (1.0,)):
    colors = THEMES[theme]
    figure = Figure(figsize=(width, height), dpi=_RESOLUTION, layout="constrained", facecolor=colors.background)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), squeeze=False, height_ratios=rows).ravel()
    for axes in grid:
        axes.set_facecolor(colors.background)
        axes.grid(visible=True, color=colors.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.title.set_color(colors.text)
        axes.tick_params(colors=colors.muted, labelcolor=colors.text, labelsize=9.5)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(colors.muted)
    return figure, (grid[0] if len(grid) == 1 else list(grid)), colors


def _draw_curves(axes, curves: Sequence[Curve], colors: Theme, *, markers: bool) -> None:
    for index, curve in enumerate(curves):
        color, marker = color_of(curve.name, index, colors), _MARKERS[index % len(_MARKERS)]
        x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
        if len(x) == 1:
            if curve.low is not None:
                axes.vlines(x, curve.low, curve.high, color=color, linewidth=1.8)
            axes.plot(x, y, marker="*", markersize=12, linestyle="none", color=color, label=_name(curve))
            continue
        if curve.low is not None:
            axes.fill_between(x, np.asarray(curve.low, float), np.asarray(curve.high, float), color=color, alpha=0.16,
                              linewidth=0)
        axes.plot(x, y, color=color, linewidth=1.9, label=_name(curve), marker=marker if markers else None,
                  markersize=4.5)


def _label(axes, title: str, x_label: str, y_label: str) -> None:
    colors = {"color": axes.title.get_color()}
    if title:  # of the figure, not the axes: it starts at the left edge, whatever room the tick labels take
        axes.figure.suptitle(title, x=0.012, ha="left", fontsize=11.5, fontweight="bold", **colors)
    axes.set_xlabel(x_label, fontsize=10, **colors)
    axes.set_ylabel(y_label, fontsize=10, **colors)


def _name(curve: Curve) -> str:
    return curve.name.replace("_", "-")


def _legend(axes, curves: Sequence[Curve], colors: Theme) -> None:
    """Below the axes, where it hides no data; none for a single curve without a name."""
    if len(curves) > 1 or any(curve.name for curve in curves):
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(curves), 3),
                           frameon=False, labelcolor=colors.text, fontsize=9.5, handlelength=1.6, columnspacing=1.4)


def _log2_ticks(axes, values: Sequence[float | int]) -> None:
    values = [value for value in values if value > 0]
    if not values:
        return
    axes.set_xscale("log", base=2)
    ticks = 2.0 ** np.arange(math.floor(math.log2(min(values))), math.ceil(math.log2(max(values))) + 1)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.xaxis.set_minor_locator(MaxNLocator(1))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, place: ""))
    axes.tick_params(axis="x", which="minor", length=0)


def _whiskers(axes, bars: Sequence[Bar], places, colors: Theme, *, horizontal: bool) -> None:
    mean = np.asarray([bar.mean for bar in bars], float)
    spread = np.stack([mean - [bar.low for bar in bars], np.asarray([bar.high for bar in bars], float) - mean])
    axis = {"x": mean, "y": places, "xerr": np.maximum(spread, 0)} if horizontal else {
        "x": places, "y": mean, "yerr": np.maximum(spread, 0)}
    axes.errorbar(**axis, fmt="none", ecolor=colors.text, elinewidth=1.2, capsize=3)


def _wilson(share: np.ndarray, count: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """95 % Wilson score interval of a binomial share."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return middle - half, middle + half


def _rgb(color: str) -> np.ndarray:
    return np.asarray([int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)])


def _thousands(value: float | int, place=None) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:g}"


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    # No creation date or version inside: the same data give the same bytes.
    figure.savefig(out, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return out.getvalue()
