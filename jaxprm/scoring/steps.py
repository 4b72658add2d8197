"""Full scoring: one forward pass over whole solutions, the head on step ends only.

These functions are the ones that training evaluation, offline scoring, search and policy gradients call.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import forward, forward_steps, gather_steps
from jaxprm.steps.batch import StepBatch


def step_outputs(model: RewardModel, batch: StepBatch) -> Float[Array, "B S K"]:
    """Raw head outputs (logits or Q-values) per step, float32; entries where ``step_mask`` is False are meaningless."""
    hidden = forward(model.backbone, batch.tokens, batch.positions, batch.segment_ids)
    return model.outputs(gather_steps(hidden, batch.step_ends), batch.partners)


def score_steps(model: RewardModel, batch: StepBatch) -> Float[Array, "B S"]:
    """Score per step on the scale of the head, float32; 0 where ``step_mask`` is False. Not meant to be differentiated, see
    `forward_steps`."""
    hidden = forward_steps(model.backbone, batch.tokens, batch.positions, batch.segment_ids, batch.step_ends)
    return jnp.where(batch.step_mask, model.head.score(model.outputs(hidden, batch.partners)), 0.0)
