"""Colours of plots and pages: one palette in a light and a dark form, and the scale on which scores are coloured."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

ThemeName = Literal["light", "dark"]


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours (``#rrggbb``) of figures; ``palette`` is used in order, so that a method keeps its colour in all
    plots."""

    background: str
    text: str
    muted: str
    grid: str
    palette: tuple[str, ...]


# Okabe-Ito hues, which people with colour-blindness tell apart, made darker or lighter to stand out from the
# background.
THEMES: dict[ThemeName, Theme] = {
    "light": Theme("#ffffff", "#1c2430", "#5b6675", "#e3e7ed",
                   ("#8a94a3", "#d17a00", "#0b6fb8", "#00876c", "#b3467f", "#3a3f47", "#7a5fd0")),
    "dark": Theme("#171d27", "#e6eaf0", "#9aa6b6", "#2c3543",
                  ("#95a0b0", "#f0a13a", "#56b4f0", "#35c9a3", "#e58ab8", "#dfe4ea", "#ae9bf5")),
}

# Fixed places in the palette: the same method has the same colour in every plot of every report.
_PLACES = {"pass@1": 0, "majority": 1, "prm best": 2, "prm weighted": 3, "beam search": 4, "oracle": 5,
           "start": 0, "outcome": 1, "outcome only": 1, "sum-form": 4, "min-form": 2}


def color_of(name: str, index: int, theme: Theme) -> str:
    """The colour of the curve ``name``, which is number ``index`` in its plot if the name has no place of its own."""
    # A lone or unnamed curve takes the accent colour, then the rest in an order that puts grey and black last.
    place = _PLACES.get(name.lower().replace("_", "-"), (2, 1, 3, 4, 6, 0, 5)[index % 7])
    return theme.palette[place]


# Red, amber, light green; lightness rises along the scale, so that it reads in greyscale too.
_SCALE = ((0.0, (184, 42, 42)), (0.25, (222, 107, 52)), (0.5, (240, 176, 64)), (0.75, (208, 219, 110)),
          (1.0, (168, 236, 160)))


def score_color(score: float) -> str:
    """Colour of a score in [0, 1] (clipped): 0 dark red, 0.5 amber, 1 light green.

        >>> score_color(0.0), score_color(1.0)
        ('#b82a2a', '#a8eca0')
    """
    score = 0.0 if math.isnan(score) else min(max(float(score), 0.0), 1.0)
    for (left, dark), (right, bright) in zip(_SCALE, _SCALE[1:]):
        if score <= right:
            share = (score - left) / (right - left)
            return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(dark, bright))
    raise AssertionError("the scale ends at 1")


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.1): 0 black, 1 white."""
    channels = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_color(background: str) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2.1) on ``background``."""
    return "#ffffff" if 1.05 / (luminance(background) + 0.05) > (luminance(background) + 0.05) / 0.05 else "#000000"
