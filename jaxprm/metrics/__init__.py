"""Metrics: pure numbers from scores and labels, on the host."""

from jaxprm.metrics.bootstrap import Interval, bootstrap_auroc, bootstrap_interval, bootstrap_mean, paired_difference
from jaxprm.metrics.classification import (
    Calibration,
    WithinPosition,
    auroc,
    auroc_within_position,
    average_precision,
    brier,
    expected_calibration_error,
    f1_at,
)
from jaxprm.metrics.first_error import NO_ERROR, FirstErrorF1, best_threshold, first_below, first_error_f1
from jaxprm.metrics.pass_at_k import pass_at_k

__all__ = [
    "NO_ERROR",
    "Calibration",
    "FirstErrorF1",
    "Interval",
    "WithinPosition",
    "auroc",
    "auroc_within_position",
    "average_precision",
    "best_threshold",
    "bootstrap_auroc",
    "bootstrap_interval",
    "bootstrap_mean",
    "brier",
    "expected_calibration_error",
    "f1_at",
    "first_below",
    "first_error_f1",
    "paired_difference",
    "pass_at_k",
]
