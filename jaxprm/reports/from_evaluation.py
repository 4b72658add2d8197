"""From results of `jaxprm.evaluation` to what a report draws."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprm.evaluation.agreement import Agreement
from jaxprm.evaluation.best_of_n import METHODS, BestOfN
from jaxprm.evaluation.steps import StepEvaluation
from jaxprm.metrics import Interval
from jaxprm.reports.details import Bar, Confusion, Curve, Numbers, Reliability


def interval_curve(name: str, x: Numbers, intervals: Sequence[Interval]) -> Curve:
    """A curve with its band."""
    return Curve(name, tuple(x), *(tuple(getattr(row, part) for row in intervals) for part in ("mean", "low", "high")))


def accuracy_curves(result: BestOfN, *, by_tokens: bool = False) -> tuple[Curve, ...]:
    """One curve per method against N, or against policy tokens per problem (pools with known tokens only)."""
    if by_tokens and result.tokens is None:
        raise ValueError("the pool has no policy tokens")
    x = result.tokens if by_tokens else result.sizes
    return tuple(interval_curve(method, x, result.accuracy[method]) for method in METHODS)


def reliability(result: StepEvaluation) -> Reliability:
    """The bins that hold a step."""
    bins = result.calibration
    some = bins.count > 0
    return Reliability(bins.confidence[some], bins.accuracy[some], bins.count[some])


def position_curve(result: StepEvaluation, *, minimum: int = 10) -> Curve | None:
    """AUROC against the 1-based step number; positions with fewer than ``minimum`` right or wrong steps are left
    out."""
    rows = [row for row in result.positions if min(row.right, row.wrong) >= minimum]
    return interval_curve("", [row.position + 1 for row in rows], [row.auroc for row in rows]) if rows else None


def kind_bars(result: StepEvaluation) -> tuple[Bar, ...]:
    """Share of planted errors caught, by kind."""
    return tuple(Bar(row.kind, row.caught.mean, row.caught.low, row.caught.high, row.count) for row in result.kinds)


def confusion(result: Agreement) -> Confusion:
    """Monte-Carlo against exact labels, in counts."""
    return Confusion(result.confusion, result.threshold)


def agreement_curve(result: Agreement) -> Curve | None:
    """Agreement against the threshold on the estimated value."""
    rows = result.by_threshold
    return interval_curve("", [row[0] for row in rows], [row[1] for row in rows]) if rows else None
