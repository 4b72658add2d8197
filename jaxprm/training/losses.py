"""Loss functions for `fit`: how a batch of the data pipeline becomes the arguments of an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array

from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel, forward
from jaxprm.objectives.language_model import next_token_cross_entropy
from jaxprm.objectives.loss import Loss
from jaxprm.scoring.steps import step_outputs
from jaxprm.steps.batch import StepBatch


def language_model_loss(model: LanguageModel, batch: Mapping[str, Array]) -> Loss:
    """Cross-entropy of the tokens in ``loss_mask``, each predicted from the token before it.

    In:  tokens [q ? a b E], loss_mask [0 0 1 1 1]
    Out: targets at q ? a b: [? a b E], of which [0 1 1 1] count
    """
    hidden = forward(model.backbone, batch["tokens"], batch["positions"], batch["segment_ids"])
    return next_token_cross_entropy(hidden[:, :-1], model.output_matrix().astype(hidden.dtype), batch["tokens"][:, 1:],
                                    batch["loss_mask"][:, 1:], softcap=model.config.logit_softcap)


def step_loss(objective: Callable[..., Loss], **hyperparameters) -> Callable[[RewardModel, Mapping[str, Array]], Loss]:
    """A loss function that applies an objective of `jaxprm.objectives` to the outputs at step ends."""

    def loss(model: RewardModel, batch: Mapping[str, Array]) -> Loss:
        steps = StepBatch(**batch)
        outputs = step_outputs(model, steps)
        segments = jnp.take_along_axis(steps.segment_ids, steps.step_ends, axis=1)  # which solution a step belongs to
        return objective(outputs, steps.labels, jnp.logical_and(steps.step_mask, steps.label_mask),
                         weights=steps.weights, segments=segments, **hyperparameters)

    return loss
