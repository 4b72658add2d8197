"""Objectives: pure functions from step outputs (or hidden states), labels and mask to a `Loss`.

All step objectives have one form, so that a trainer can swap them:

  f(outputs[B, S, K], labels[B, S], mask[B, S], *, weights=None, segments=None, **hyperparameters) -> Loss

Those that compare steps or solutions beyond one solution also take `groups`. Hyperparameters that are plain numbers are
checked (`InputError`); arrays and traced values are not.
"""

from jaxprm.objectives.classification import binary_cross_entropy, cross_entropy
from jaxprm.objectives.implicit import (
    implicit_cross_entropy,
    implicit_dpo,
    implicit_kto,
    implicit_nca,
    implicit_step_rewards,
)
from jaxprm.objectives.language_model import next_token_cross_entropy, token_entropies, token_log_probs
from jaxprm.objectives.listwise import listwise_ranking
from jaxprm.objectives.loss import Loss, ratio
from jaxprm.objectives.outcome import buffer_cross_entropy, self_supervised
from jaxprm.objectives.pairwise import margin_ranking, pairwise_ranking, preference_pairs
from jaxprm.objectives.ranking import pqm_ranking
from jaxprm.objectives.robust import (
    focal,
    forward_corrected_cross_entropy,
    generalized_cross_entropy,
    symmetric_cross_entropy,
)
from jaxprm.objectives.values import ensemble_anchor, mean_squared_error, quantile

_TABLE = (
    (binary_cross_entropy, 1),
    (cross_entropy, (2, 3)),
    (pqm_ranking, 1),
    (mean_squared_error, 1),
    (pairwise_ranking, 1),
    (margin_ranking, 1),
    (preference_pairs, 1),
    (listwise_ranking, 1),
    (generalized_cross_entropy, (1, 2)),
    (focal, (1, 2)),
    (symmetric_cross_entropy, (1, 2)),
    (forward_corrected_cross_entropy, (1, 2)),
    (buffer_cross_entropy, 3),
    (self_supervised, 1),
    (quantile, None),
    (ensemble_anchor, None),
    (implicit_cross_entropy, 1),
    (implicit_dpo, 1),
    (implicit_kto, 1),
    (implicit_nca, 1),
)

STEP_OBJECTIVES = {function.__name__: function for function, _ in _TABLE}
"""Objectives over steps by name: `(outputs[B, S, K], labels[B, S], mask[B, S], *, weights, segments, ...) -> Loss`."""

OUTPUTS: dict[str, int | tuple[int, ...] | None] = {function.__name__: outputs for function, outputs in _TABLE}
"""Number K of head outputs which each step objective reads; several numbers where it reads any of them, ``None`` = any."""


def accepts_outputs(name: str, count: int) -> bool:
    """Whether the step objective of this name reads a head of `count` outputs."""
    allowed = OUTPUTS[name]
    return count >= 1 if allowed is None else count in (allowed if isinstance(allowed, tuple) else (allowed,))


def outputs_in_words(name: str) -> str:
    """What `accepts_outputs` accepts, for messages: "1", "2 or 3", "any number of"."""
    allowed = OUTPUTS[name]
    return "any number of" if allowed is None else " or ".join(map(str, allowed if isinstance(allowed, tuple) else (allowed,)))


__all__ = [
    "OUTPUTS",
    "STEP_OBJECTIVES",
    "Loss",
    "accepts_outputs",
    "binary_cross_entropy",
    "buffer_cross_entropy",
    "cross_entropy",
    "ensemble_anchor",
    "focal",
    "forward_corrected_cross_entropy",
    "generalized_cross_entropy",
    "implicit_cross_entropy",
    "implicit_dpo",
    "implicit_kto",
    "implicit_nca",
    "implicit_step_rewards",
    "listwise_ranking",
    "margin_ranking",
    "mean_squared_error",
    "next_token_cross_entropy",
    "outputs_in_words",
    "pairwise_ranking",
    "pqm_ranking",
    "preference_pairs",
    "quantile",
    "ratio",
    "self_supervised",
    "symmetric_cross_entropy",
    "token_entropies",
    "token_log_probs",
]
