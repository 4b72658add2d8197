"""The report of one training run: what the held-out steps say, the curves, and some scored solutions."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxprm.evaluation.steps import StepEvaluation
from jaxprm.metrics import Interval
from jaxprm.reports import figures
from jaxprm.reports.details import Curve, Panel, ScoredSolution
from jaxprm.reports.from_evaluation import position_curve, reliability
from jaxprm.reports.pages import render_page

_UNITS = {"loss": "nats per label", "accuracy": "share of labels", "learning_rate": "learning rate",
          "tokens_per_second": "tokens/s", "mfu": "share of the device's FLOP/s"}
_EVALUATION = "evaluation/"


def render_training_report(title: str, settings: Mapping[str, str], evaluation: StepEvaluation | None,
                           metrics: Sequence[Mapping[str, float]], *, measured_on: str = "",
                           examples: Sequence[ScoredSolution] = (), introduction: str = "",
                           panels: Sequence[Panel] = ()) -> str:
    """One self-contained HTML page.

    Args:
      title: heading.
      settings: what was run, shown as a list.
      evaluation: of held-out problems, if there are any.
      metrics: lines of ``metrics.jsonl``, see `metric_panels`.
      panels: more curves.
      measured_on: what ``evaluation`` was measured on.
      examples: scored solutions to show.
      introduction: one paragraph.

    Returns:
      The HTML text; all texts are escaped.
    """
    numbers, drawn = [], []
    if evaluation is not None:
        fixed = evaluation.first_error[0]
        numbers = [
            ("step AUROC", *_interval(evaluation.auroc),
             "How often a right step scores above a wrong one: 0.5 is guessing."),
            ("step AUROC within position", *_interval(evaluation.auroc_within_position),
             "The same among steps at the same place in their solutions: position alone does not help."),
            (f"first-error F1 at {fixed.threshold:g}", *_interval(fixed.f1),
             f"Harmonic mean of the next two ({fixed.erroneous:,} solutions with an error, {fixed.clean:,} without)."),
            ("first error found", *_interval(fixed.acc_error), "Share of the wrong solutions."),
            ("clean solution passed", *_interval(fixed.acc_clean), "Share of the solutions without an error."),
            ("calibration error (ECE)", *_interval(evaluation.ece),
             f"Average gap between a score and the share of right steps with that score "
             f"({evaluation.judged:,} steps, {100 * evaluation.right:.0f} % right)."),
        ]
        bins, curve = reliability(evaluation), position_curve(evaluation)
        drawn.append(_figure("Reliability diagram",
                             "On the diagonal a score of 0.8 means that 80 % of such steps are right.",
                             lambda theme: figures.draw_reliability(bins, theme)))
        if curve is not None:
            drawn.append(_figure("AUROC by step position",
                                 "A model that only counts steps would stay on the dashed line.",
                                 lambda theme: figures.draw_auroc_by_position(curve, theme)))
    for panel in (*metric_panels(metrics), *panels):
        drawn.append(_figure(panel.title, "", lambda theme, panel=panel: figures.draw_panel(panel, theme)))
    return render_page("training.html.j2", title=title, introduction=introduction, settings=settings, numbers=numbers,
                       measured_on=measured_on, figures=drawn, examples=examples)


def metric_panels(metrics: Sequence[Mapping[str, float]], title: str = "") -> list[Panel]:
    """A panel for each of the main numbers of ``metrics.jsonl`` that has two points, and for each number of the evaluations
    during training; ``title`` stands before their names."""
    units = _UNITS | {name: "held-out problems" for line in metrics for name in line if name.startswith(_EVALUATION)}
    panels = []
    for name, unit in units.items():
        points = [(line["step"], line[name]) for line in metrics if name in line]
        if len(points) > 1:
            shown = name.removeprefix(_EVALUATION).replace("_", " ") + (" (held out)" if name.startswith(_EVALUATION) else "")
            panels.append(Panel(title + shown, "optimiser step", unit, (Curve("", *zip(*points)),)))
    return panels


def _interval(value: Interval) -> tuple[str, str]:
    if value.mean != value.mean:
        return "undefined", ""
    return f"{value.mean:.3f}", f"[{value.low:.3f}, {value.high:.3f}]"


def _figure(title: str, caption: str, draw: Callable[[str], bytes]) -> dict[str, Any]:
    def embed(theme: str) -> str:
        return "data:image/png;base64," + base64.b64encode(draw(theme)).decode("ascii")

    return {"light": embed("light"), "dark": embed("dark"), "title": title, "caption": caption}
