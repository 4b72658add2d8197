"""Objectives: pure functions from step outputs (or hidden states), labels and mask to a `Loss`."""

from jaxprm.objectives.classification import binary_cross_entropy, cross_entropy
from jaxprm.objectives.language_model import next_token_cross_entropy, token_entropies, token_log_probs
from jaxprm.objectives.loss import Loss, ratio
from jaxprm.objectives.ranking import pqm_ranking

STEP_OBJECTIVES = {function.__name__: function for function in (binary_cross_entropy, cross_entropy, pqm_ranking)}
"""Objectives over steps by name: `(outputs[B, S, K], labels[B, S], mask[B, S], *, weights, segments, ...) -> Loss`."""

OUTPUTS = {"binary_cross_entropy": 1, "cross_entropy": 2, "pqm_ranking": 1}
"""Number of head outputs K which each step objective reads."""

__all__ = [
    "OUTPUTS",
    "STEP_OBJECTIVES",
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "next_token_cross_entropy",
    "pqm_ranking",
    "ratio",
    "token_entropies",
    "token_log_probs",
]
