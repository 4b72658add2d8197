import pytest

from jaxprm.reports.theme import THEMES, color_of, luminance, score_color, text_color


def test_ends_middle_and_clipping():
    assert score_color(0.0) == score_color(-3.0) == score_color(float("nan")) == "#b82a2a"
    assert score_color(0.5) == "#f0b040"
    assert score_color(1.0) == score_color(7.0) == "#a8eca0"
    assert score_color(0.125) == "#cb4a2f"  # half way between (184, 42, 42) and (222, 107, 52)


def test_lightness_rises_with_the_score_and_text_stays_readable():
    values = [luminance(score_color(i / 50)) for i in range(51)]
    assert all(left < right for left, right in zip(values, values[1:]))
    for i in range(51):
        color = score_color(i / 50)
        light, dark = sorted((luminance(color), luminance(text_color(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5


def test_luminance_of_black_and_white():
    assert luminance("#000000") == 0
    assert luminance("#ffffff") == pytest.approx(1)
    assert (text_color("#000000"), text_color("#ffffff")) == ("#ffffff", "#000000")


def test_a_method_keeps_its_colour():
    light = THEMES["light"]
    assert color_of("PRM best", 0, light) == color_of("PRM best", 5, light)
    assert color_of("sum_form", 0, light) == color_of("sum-form", 3, light)
    assert len({color_of(f"curve {i}", i, light) for i in range(7)}) == 7
