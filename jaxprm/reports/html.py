"""``report.html``: one self-contained page with the numbers, plots and scored solutions of a run."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any

from jaxprm.evaluation.results import validate_results
from jaxprm.records import atomic_write
from jaxprm.reports import figures
from jaxprm.reports.details import Panel, ReportDetails
from jaxprm.reports.pages import render_page

# key of results.json -> (name, unit, one sentence for a reader who is new to the field)
_HEADLINES: dict[str, tuple[str, str, str]] = {
    "pass_at_1": (
        "pass@1", "%",
        "Problems solved by a single sampled solution: the policy on its own."),
    "majority_at_8": (
        "majority of 8", "%",
        "Problems solved by the most frequent answer of 8 samples: needs no reward model, and repeats whatever mistake "
        "the policy makes most often."),
    "prm_best_at_8": (
        "PRM best of 8", "%",
        "Problems solved by the one sample of 8 that the process reward model (PRM) scores highest."),
    "prm_weighted_at_8": (
        "PRM-weighted vote of 8", "%",
        "As the majority, but each vote counts as much as its PRM score."),
    "beam_at_8": (
        "beam search", "%",
        "The PRM picks the best partial solutions after every step, within the policy tokens that 8 samples take."),
    "oracle_at_8": (
        "oracle of 8", "%",
        "At least one of 8 samples is right: the ceiling for any way of choosing."),
    "prm_best_minus_majority_at_8": (
        "PRM best − majority", "points",
        "What the reward model adds, in percentage points, measured problem by problem; real if the interval excludes "
        "0."),
    "step_auroc": (
        "step AUROC", "",
        "How often a right step scores above a wrong one: 0.5 is guessing, 1 is perfect."),
    "step_auroc_within_position": (
        "step AUROC within position", "",
        "The same among steps at the same place in their solutions: knowing that late steps are wrong more often does "
        "not help here."),
    "first_error_f1": (
        "first-error F1", "",
        "Finding the first wrong step exactly, balanced against passing solutions without one (the metric of "
        "ProcessBench)."),
    "ece": (
        "calibration error (ECE)", "",
        "Average gap between a score and the share of right steps with that score: 0 is perfect."),
    "mc_agreement": (
        "Monte-Carlo label agreement", "%",
        "Steps on which labels estimated from rollouts agree with the exact verdict."),
}
_TILES = ("pass_at_1", "prm_best_at_8", "prm_best_minus_majority_at_8", "step_auroc_within_position")
_RL_TEXTS = {
    "start": "none: the policy before reinforcement learning",
    "outcome": "the final answer only",
    "sum_form": "sum of the step scores: each further step can add reward",
    "min_form": "minimum of the step scores: a solution is as good as its worst step (PURE)",
}
_RL_CELLS = {"pass_at_1": ("pass@1", "%"), "mean_steps": ("steps per solution", "steps"),
             "repeated_steps": ("repeated steps", "%")}


def build_report(results: dict[str, Any], details: ReportDetails, path: str | os.PathLike) -> None:
    """Writes ``report.html``, all or nothing.

    Args:
      results: the content of ``results.json``.
      details: curves, tables and examples to draw; empty parts are left out.
      path: the file to write.

    Raises:
      InputError: ``results`` does not follow the schema.
    """
    page = render_report(results, details)
    with atomic_write(path) as out:
        out.write(page)


def render_report(results: dict[str, Any], details: ReportDetails) -> str:
    """The text of the page that `build_report` writes."""
    validate_results(results)
    headlines = [_row(results[key], *texts) for key, texts in _HEADLINES.items()]
    rl_rows = [{"name": variant.replace("_", "-"), "text": _RL_TEXTS.get(variant, ""),
                "cells": [(name, _row(row[key], name, unit)) for key, (name, unit) in _RL_CELLS.items()]}
               for variant, row in results["rl"].items()]
    seconds = results["seconds"]
    return render_page(
        "report.html.j2", title=details.title, introduction=details.introduction, settings=details.settings,
        seed=results["seed"], config=results["config_sha256"][:16],
        seconds=[(stage, _duration(value)) for stage, value in seconds.items()],
        total=_duration(sum(seconds.values())),
        headlines=headlines, tiles=[_row(results[key], *_HEADLINES[key]) for key in _TILES],
        sections=[section for section in _sections(details) if section["figures"]], rl=rl_rows,
        rl_bars=[embedded_figure(lambda theme, key=key: figures.draw_rl_bars(results["rl"], key, theme),
                         f"{name} before and after reinforcement learning", "")
                 for key, (name, _) in _RL_CELLS.items()],
        rl_curves=[embedded_panel(panel) for panel in details.rl_curves],
        examples=details.examples)


def _sections(details: ReportDetails) -> list[dict[str, Any]]:
    choosing, checking, labels = [], [], []
    if details.accuracy_by_samples:
        choosing.append(embedded_figure(
            lambda theme: figures.draw_accuracy(details.accuracy_by_samples, theme=theme),
            "Accuracy against the number of samples",
            "Sampling more only helps if the right solution is also chosen. Bands: 95 % intervals."))
    if details.accuracy_by_tokens:
        choosing.append(embedded_figure(
            lambda theme: figures.draw_accuracy(details.accuracy_by_tokens, x_label="policy tokens per problem",
                                                title="Accuracy against the cost of sampling", theme=theme),
            "Accuracy against policy tokens",
            "The same against tokens made by the policy, where searches are comparable."))
    if details.auroc_by_position is not None:
        checking.append(embedded_figure(
            lambda theme: figures.draw_auroc_by_position(details.auroc_by_position, theme), "AUROC by step position",
            "Among steps at the same position, a model that only counts steps would stay on the dashed line."))
    if details.reliability is not None:
        checking.append(embedded_figure(
            lambda theme: figures.draw_reliability(details.reliability, theme), "Reliability diagram",
            "On the diagonal a score of 0.8 means that 80 % of such steps are right."))
    if details.planted_errors:
        checking.append(embedded_figure(
            lambda theme: figures.draw_kinds(details.planted_errors, theme), "Planted errors caught, by kind",
            "Right solutions into which one error of a known kind was planted: how often the model objects to that "
            "step."))
    if details.confusion is not None:
        labels.append(embedded_figure(
            lambda theme: figures.draw_confusion(details.confusion, theme), "Monte-Carlo against exact labels",
            "Monte-Carlo labels call a step right if rollouts from it reach the right answer, which a lucky rollout "
            "can do after a wrong step."))
    if details.agreement_by_threshold is not None:
        labels.append(embedded_panel(Panel("Agreement by threshold", "threshold on the share of successful rollouts",
                                   "agreement with the exact verdict", (details.agreement_by_threshold,),
                                   "How much depends on where the estimate is cut into right and wrong.")))
    return [
        {"id": "choosing", "title": "Choosing a solution", "figures": choosing,
         "text": "A policy samples several solutions; which one to trust? Pools of samples, resampled to every size."},
        {"id": "checking", "title": "Checking steps", "figures": checking,
         "text": "Does the reward model check each step, or has it only learnt where errors usually stand?"},
        {"id": "labels", "title": "Labels", "figures": labels,
         "text": "Exact verdicts are rare outside of toy tasks. Monte-Carlo labels replace them by rollouts of the "
                 "policy."},
        {"id": "training", "title": "Training", "figures": [embedded_panel(panel) for panel in details.training],
         "text": "Losses and metrics over the updates of each training stage."},
    ]


def embedded_panel(panel: Panel) -> dict[str, Any]:
    """A panel as the templates show it: in both themes, with its caption."""
    return embedded_figure(lambda theme: figures.draw_panel(panel, theme), panel.title, panel.caption)


def embedded_figure(draw: Callable[[str], bytes], alt: str, caption: str) -> dict[str, Any]:
    """A figure as the templates show it; ``draw``: theme to PNG."""
    def embed(theme: str) -> str:
        return "data:image/png;base64," + base64.b64encode(draw(theme)).decode("ascii")

    return {"light": embed("light"), "dark": embed("dark"), "alt": alt, "caption": caption}


def _row(value: dict[str, float | None], name: str, unit: str, text: str = "") -> dict[str, Any]:
    """A number of results.json as the page prints it, and as a bar from 0 to 1 for shares."""
    mean, low, high = value["mean"], value["low"], value["high"]
    if mean is None:
        return {"name": name, "value": "undefined", "unit": "", "range": "", "track": None, "text": text}
    show: Callable[[float], str] = {
        "%": lambda number: f"{100 * number:.1f} %", "points": lambda number: f"{100 * number:+.1f}".replace("-", "−"),
        "steps": lambda number: f"{number:.2f}", "": lambda number: f"{number:.3f}"}[unit]
    bounds = f"[{show(low).removesuffix(' %')}, {show(high).removesuffix(' %')}]"
    track = None
    if unit in ("%", ""):
        left, middle, right = (100 * min(max(number, 0.0), 1.0) for number in (low, mean, high))
        track = tuple(f"{number:.1f}" for number in (left, middle, right - left))
    return {"name": name, "value": show(mean), "unit": "points" * (unit == "points"), "range": bounds, "track": track,
            "text": text}


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(round(seconds)) // 60} min {int(round(seconds)) % 60:02d} s"
