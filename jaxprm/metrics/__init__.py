"""Metrics: pure numbers from scores and labels, on the host."""

from jaxprm.metrics.agent_process import AgentProcess, agent_process
from jaxprm.metrics.bootstrap import (
    GroupStatistic,
    Interval,
    PairedTest,
    auroc_statistic,
    average_precision_statistic,
    bootstrap_auroc,
    bootstrap_interval,
    bootstrap_mean,
    bootstrap_of_sums,
    paired_difference,
    paired_statistics,
    paired_test,
    statistic_of_rows,
    statistic_of_sums,
)
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
from jaxprm.metrics.deltabench import Deltabench, deltabench
from jaxprm.metrics.first_error import NO_ERROR, FirstErrorF1, best_threshold, first_below, first_error_f1
from jaxprm.metrics.mr_score import MrRow, MrScore, mr_score
from jaxprm.metrics.pass_at_k import pass_at_k
from jaxprm.metrics.prmbench import Prmbench, PrmbenchRow, prmbench
from jaxprm.metrics.processbench import ProcessBench, ThresholdProtocol, processbench, processbench_verdicts
from jaxprm.metrics.selective import RiskCoverage, coverage_at_risk, interval_coverage, risk_coverage, selective_accuracy
from jaxprm.metrics.subsampling import Trials, expected_best_of_n, subsampled_best_of_n
from jaxprm.metrics.thresholds import Confusion, best_f1_threshold, confusion_at
from jaxprm.metrics.webreward import WebChoice, WebReward, web_reward

__all__ = [
    "NO_ERROR",
    "AgentProcess",
    "Calibration",
    "Confusion",
    "Deltabench",
    "FirstErrorF1",
    "GroupStatistic",
    "Interval",
    "MrRow",
    "MrScore",
    "PairedTest",
    "Prmbench",
    "PrmbenchRow",
    "ProcessBench",
    "RiskCoverage",
    "ThresholdProtocol",
    "Trials",
    "WebChoice",
    "WebReward",
    "WithinPosition",
    "agent_process",
    "auroc",
    "auroc_statistic",
    "auroc_within_position",
    "average_precision",
    "average_precision_statistic",
    "best_f1_threshold",
    "best_threshold",
    "bootstrap_auroc",
    "bootstrap_interval",
    "bootstrap_mean",
    "bootstrap_of_sums",
    "brier",
    "confusion_at",
    "coverage_at_risk",
    "deltabench",
    "expected_best_of_n",
    "expected_calibration_error",
    "f1_at",
    "first_below",
    "first_error_f1",
    "interval_coverage",
    "mr_score",
    "paired_difference",
    "paired_statistics",
    "paired_test",
    "pass_at_k",
    "prmbench",
    "processbench",
    "processbench_verdicts",
    "risk_coverage",
    "selective_accuracy",
    "statistic_of_rows",
    "statistic_of_sums",
    "subsampled_best_of_n",
    "web_reward",
]
