"""Step scores: full and incremental, aggregation and votes."""

from jaxprm.scoring.aggregation import AGGREGATIONS, aggregate
from jaxprm.scoring.incremental import ScoreState, extend_scores, start_scores
from jaxprm.scoring.scorer import StepScorer
from jaxprm.scoring.steps import gather_steps, score_steps, step_outputs

__all__ = ["AGGREGATIONS", "ScoreState", "StepScorer", "aggregate", "extend_scores", "gather_steps", "score_steps",
           "start_scores", "step_outputs"]
