"""The figure of a benchmark: sets by systems, one panel per measure."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxprm.metrics import Interval
from jaxprm.reports.theme import THEMES, ThemeName


def draw_benchmark(measures: Mapping[str, Mapping[str, Mapping[str, Interval]]], *,
                   chance: Mapping[str, float] | None = None, theme: ThemeName = "light") -> bytes:
    """PNG with a panel per measure: a row per set, a dot with its 95 % interval per system.

    Args:
      measures: measure -> set -> system -> interval; undefined numbers are left out.
      chance: measure -> value of a guess, drawn as a dashed line.
      theme: colours.
    """
    colors = THEMES[theme]
    first = next(iter(measures.values()))
    sets, systems = list(first), list(dict.fromkeys(name for row in first.values() for name in row))
    figure = Figure(figsize=(4.6 * len(measures) + 1.4, 1.6 + (0.3 + 0.17 * len(systems)) * len(sets)), dpi=150,
                    layout="constrained", facecolor=colors.background)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    order = (2, 1, 3, 4, 6, 0, 5)
    for axes, (measure, rows) in zip(panels, measures.items()):
        axes.set_facecolor(colors.background)
        axes.grid(visible=True, axis="x", color=colors.grid, linewidth=0.8)
        axes.tick_params(colors=colors.muted, labelcolor=colors.text, labelsize=9)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(colors.muted)
        if chance and measure in chance:
            axes.axvline(chance[measure], linestyle=(0, (4, 3)), color=colors.muted, linewidth=1.2)
        for index, system in enumerate(systems):
            values = [rows[name].get(system) for name in sets]
            known = [place for place, value in enumerate(values) if value is not None and not np.isnan(value.mean)]
            offset = 0.62 * ((index + 0.5) / len(systems) - 0.5)
            color = colors.palette[order[index % len(order)]]
            axes.hlines([place + offset for place in known], [values[place].low for place in known],
                        [values[place].high for place in known], color=color, linewidth=2, alpha=0.6)
            axes.plot([values[place].mean for place in known], [place + offset for place in known], "o", markersize=5,
                      color=color, label=system)
        axes.set_xlabel(measure, fontsize=10, color=colors.text)
        axes.set_yticks(range(len(sets)), sets)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(systems), 4),
                  frameon=False, labelcolor=colors.text, fontsize=9)
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()
