"""Labels made from little: the outcome alone, or the outcomes of rollouts read with a soft maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxprm.errors import InputError
from jaxprm.records import StepLabels


def outcome_labels(steps: int, right: bool) -> StepLabels:
    """The solution's outcome as the label of each of its steps (FreePRM, SPRM; the response labels of implicit PRMs).

    Of a solution that ended right all steps are called right; of one that ended wrong, all are called wrong, those before its
    first error too. Objectives for such labels: `buffer_cross_entropy`, `self_supervised` and the implicit ones. The first
    error is unknown unless the outcome is right.

    Raises:
      InputError: the solution has no step.
    """
    if steps < 1:
        raise InputError("must be at least 1", field="steps", value=steps)
    return StepLabels((float(right),) * steps, -1 if right else None, "outcome copied")


def entropic_value(rewards: Sequence[float], eta: float) -> float:
    """``log(mean(exp(eta * reward))) / eta`` over the rollouts from a step (ER-PRM, Zhang et al. 2024, arXiv:2412.11006).

    The value of a step under a reward with an entropy penalty: the mean reward for eta -> 0, the best reward for
    eta -> infinity, and between them for rewards in [0, 1]. The authors' code takes the absolute value (without effect on
    rewards >= 0), rounds to three decimals, and labels the last step with its answer being right or not.

      entropic_value([1, 0, 0, 1], eta)     eta .1 -> .512     1 -> .620     10 -> .931

    Args:
      rewards: at least one number per step, 1 where a rollout reached the right answer and 0 elsewhere.
      eta: positive and finite.

    Raises:
      InputError: no reward, one that is not finite, or eta out of range.
    """
    if isinstance(eta, bool) or not 0 < eta < math.inf:
        raise InputError("must be positive and finite", field="eta", value=eta, hint="for eta -> 0 take the mean")
    values = np.asarray(rewards, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError("must be at least one finite number", field="rewards", value=rewards)
    return float((np.logaddexp.reduce(eta * values) - math.log(len(values))) / eta)
