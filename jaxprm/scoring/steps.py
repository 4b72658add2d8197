"""Full scoring: one forward pass over whole solutions, the head on step ends only.

These functions are the ones that training evaluation, offline scoring, search and policy gradients call.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprm.models.reward_model import RewardModel
from jaxprm.models.sharding import out_sharding
from jaxprm.models.transformer import forward
from jaxprm.steps.batch import StepBatch


def gather_steps(hidden: Float[Array, "B T D"], step_ends: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Hidden states at step ends.

    In:  hidden of [q, s, s, SEP, s, SEP], step_ends [3, 5]
    Out: hidden at the two SEP tokens
    """
    pick = jax.vmap(lambda row, ends: row.at[ends].get(mode="clip"))
    return pick(hidden, step_ends) if out_sharding() is None else jnp.take_along_axis(hidden, step_ends[..., None], axis=1)


def step_outputs(model: RewardModel, batch: StepBatch) -> Float[Array, "B S K"]:
    """Raw head outputs (logits or Q-values) per step, float32; entries where ``step_mask`` is False are meaningless."""
    hidden = forward(model.backbone, batch.tokens, batch.positions, batch.segment_ids)
    return model.outputs(gather_steps(hidden, batch.step_ends), batch.partners)


def score_steps(model: RewardModel, batch: StepBatch) -> Float[Array, "B S"]:
    """Score in [0, 1] per step, float32; 0 where ``step_mask`` is False."""
    return jnp.where(batch.step_mask, model.head.score(step_outputs(model, batch)), 0.0)
