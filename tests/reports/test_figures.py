import io
import math

import numpy as np
import pytest
from PIL import Image

from jaxprm.reports import figures
from jaxprm.reports.details import Bar, Confusion, Curve, Panel, Reliability
from jaxprm.reports.theme import THEMES

CURVES = (Curve("PRM best", (1, 2, 4, 8), (0.4, 0.5, 0.6, 0.7), (0.3, 0.4, 0.5, 0.6), (0.5, 0.6, 0.7, 0.8)),
          Curve("beam search", (8,), (0.75,), (0.7,), (0.8,)))
RL = {name: {key: {"mean": 0.4, "low": 0.3, "high": 0.5} for key in figures.RL_MEASURES}
      for name in ("start", "min_form")}
ALL = {
    "panel": lambda theme: figures.draw_panel(Panel("Loss", "updates", "nats", CURVES, log_x=True), theme),
    "accuracy": lambda theme: figures.draw_accuracy(CURVES, theme=theme),
    "reliability": lambda theme: figures.draw_reliability(
        Reliability((0.1, 0.5, 0.9), (0.0, 0.4, 1.0), (5, 10, 20000)), theme),
    "position": lambda theme: figures.draw_auroc_by_position(
        Curve("", (1, 2, 3), (0.9, math.nan, 0.4), (0.8, math.nan, 0.2), (1.0, math.nan, 0.6)), theme),
    "kinds": lambda theme: figures.draw_kinds(
        [Bar("off_by_one", 0.9, 0.8, 1.0, 12), Bar("none", math.nan, math.nan, math.nan, 0)], theme),
    "confusion": lambda theme: figures.draw_confusion(Confusion(((10, 2), (0, 0)), 0.125), theme),
    "rl": lambda theme: figures.draw_rl_bars(RL, "pass_at_1", theme),
}


def _pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _share(pixels: np.ndarray, color: str) -> float:
    target = [int(color[i:i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(pixels.astype(int) - target).max(axis=-1) <= 2).mean())


@pytest.mark.parametrize("name", ALL)
def test_themes_and_repeatability(name):
    light, dark = (ALL[name](theme) for theme in ("light", "dark"))
    assert light == ALL[name]("light")
    if name != "confusion":  # its cells cover the ground, with black or white text
        assert _share(_pixels(light), THEMES["light"].background) > 0.4
        assert _share(_pixels(dark), THEMES["dark"].background) > 0.4
        assert _share(_pixels(dark), "#000000") == 0  # no default black text on the dark ground
    assert _pixels(light).shape == _pixels(dark).shape


def test_curves_have_the_colour_of_their_method():
    pixels = _pixels(ALL["accuracy"]("light"))
    assert _share(pixels, THEMES["light"].palette[2]) > 0.001
    assert _share(pixels, THEMES["light"].palette[4]) > 0.0003
    assert _share(pixels, THEMES["light"].palette[1]) == 0


def test_bars_show_their_length():
    half, full = (_share(_pixels(figures.draw_kinds([Bar("a", mean, mean, mean)])), "#4893ca") for mean in (0.4, 0.8))
    assert full == pytest.approx(2 * half, rel=0.05)


def test_undefined_rl_numbers_leave_a_gap():
    rl = {"start": {"pass_at_1": {"mean": None, "low": None, "high": None}}, "outcome": RL["start"]}
    assert _pixels(figures.draw_rl_bars(rl, "pass_at_1")).shape == _pixels(figures.draw_rl_bars(RL, "pass_at_1")).shape


def test_empty_curves_do_not_fail():
    figures.draw_panel(Panel("Loss", "updates", "nats", ()))
    figures.draw_accuracy([])
    figures.draw_panel(Panel("Loss", "updates", "nats", (Curve("train", (), ()),)))
