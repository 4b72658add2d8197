"""Reports: plots and self-contained HTML pages from results."""

from jaxprm.reports.details import (
    Bar,
    Confusion,
    Curve,
    Panel,
    Reliability,
    ReportDetails,
    ScoredSolution,
)
from jaxprm.reports.html import build_report, render_report
from jaxprm.reports.solutions import render_solutions, scored_solution

__all__ = [
    "Bar",
    "Confusion",
    "Curve",
    "Panel",
    "Reliability",
    "ReportDetails",
    "ScoredSolution",
    "build_report",
    "render_report",
    "render_solutions",
    "scored_solution",
]
