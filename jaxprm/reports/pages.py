"""The jinja2 environment of all pages: templates of this folder, escaping always on."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import jinja2
import markupsafe

import jaxprm
from jaxprm.reports.theme import score_color, text_color

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values) -> str:
    """Renders a template of this package as a page that needs no other file."""
    style = markupsafe.Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return _environment().get_template(template).render(style=style, version=jaxprm.__version__, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"color": score_color, "ink": text_color, "score": _score, "percent": _percent}
    return environment


def _score(value: float) -> str:
    return "nan" if math.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * min(max(0.0 if math.isnan(value) else value, 0.0), 1.0):.0f}%"
