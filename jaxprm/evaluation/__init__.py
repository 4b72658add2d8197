"""Evaluation: benchmarks over labelled sets and pools of candidates; every number comes with an interval."""

from jaxprm.evaluation.agreement import Agreement, label_agreement
from jaxprm.evaluation.baselines import StepBaseline, fit_position_length, fit_tfidf
from jaxprm.evaluation.best_of_n import BestOfN, Candidates, best_of_n
from jaxprm.evaluation.distinct import distinct_steps
from jaxprm.evaluation.results import build_results, read_results, to_json, validate_results, write_results
from jaxprm.evaluation.steps import StepEvaluation, StepPredictions, evaluate_steps

__all__ = [
    "Agreement",
    "BestOfN",
    "Candidates",
    "StepBaseline",
    "StepEvaluation",
    "StepPredictions",
    "best_of_n",
    "build_results",
    "distinct_steps",
    "evaluate_steps",
    "fit_position_length",
    "fit_tfidf",
    "label_agreement",
    "read_results",
    "to_json",
    "validate_results",
    "write_results",
]
