"""Advantages: returns compared with those of the other samples of the same problem.

Rows come in groups: rows ``g * group_size .. (g + 1) * group_size - 1`` are the samples of problem g. Everything is
float32. A group whose rewards are all equal teaches nothing and gets zero, and so does a group of one (verl keeps its
raw reward, PURE returns not-a-number).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.rl.credit import masked_float32, require_float32, return_to_go

EPSILON = 1e-6
"""Added to a standard deviation, so that a group of nearly equal rewards is not blown up."""


def group_normalized(rewards: Float[Array, " B"], group_size: int, *, ddof: int = 1) -> Float[Array, " B"]:
    """GRPO's outcome advantage: ``(r - mean) / (std + 1e-6)`` within the group (Shao et al. 2024, arXiv:2402.03300).

    Args:
      rewards: one per row.
      group_size: rows per problem; static.
      ddof: the standard deviation divides by ``group_size - ddof``. The paper leaves it open; 1 is what verl and TRL
        use.
    """
    grouped = _grouped(require_float32(rewards), group_size)
    deviation = grouped - jnp.mean(grouped, axis=1, keepdims=True)
    variance = jnp.sum(deviation**2, axis=1, keepdims=True) / max(group_size - ddof, 1)
    # Equality, not std == 0: the mean of equal rewards may be off by a rounding error.
    differ = jnp.max(grouped, axis=1, keepdims=True) > jnp.min(grouped, axis=1, keepdims=True)
    return jnp.where(differ, deviation / (jnp.sqrt(variance) + EPSILON), 0).reshape(-1)


def leave_one_out(rewards: Float[Array, " B"], group_size: int) -> Float[Array, " B"]:
    """RLOO: ``r_i - mean of the other rewards of the group`` (Ahmadian et al. 2024, arXiv:2402.14740), not scaled."""
    grouped = _grouped(require_float32(rewards), group_size)
    deviation = grouped - jnp.mean(grouped, axis=1, keepdims=True)
    differ = jnp.max(grouped, axis=1, keepdims=True) > jnp.min(grouped, axis=1, keepdims=True)
    return jnp.where(differ, deviation * (group_size / max(group_size - 1, 1)), 0).reshape(-1)


def group_process_normalized(
    step_rewards: Float[Array, "B S"], mask: Bool[Array, "B S"], group_size: int, *, ddof: int = 1
) -> Float[Array, "B S"]:
    """GRPO with process supervision: the step rewards of a group are normalised together, then summed from each on.

    ``r~ = (r - mean(R)) / (std(R) + 1e-6)``, ``A_t = sum_{j >= t} r~_j`` (DeepSeekMath, arXiv:2402.03300, section
    4.1.3; no code was published). The sum of positive z-scores favours longer solutions.

    Args:
      step_rewards: one per step.
      mask: which steps exist; only they enter mean and standard deviation.
      group_size: rows per problem; static.
      ddof: as in `group_normalized`, of the number of steps in the group.
    """
    grouped, valid = _grouped(masked_float32(step_rewards, mask), group_size), _grouped(mask, group_size)
    count = jnp.sum(valid, axis=(1, 2), keepdims=True)
    mean = jnp.sum(grouped, axis=(1, 2), keepdims=True) / jnp.maximum(count, 1)
    deviation = jnp.where(valid, grouped - mean, 0)
    variance = jnp.sum(deviation**2, axis=(1, 2), keepdims=True) / jnp.maximum(count - ddof, 1)
    highest = jnp.max(jnp.where(valid, grouped, -jnp.inf), axis=(1, 2), keepdims=True)
    lowest = jnp.min(jnp.where(valid, grouped, jnp.inf), axis=(1, 2), keepdims=True)
    normalized = jnp.where(highest > lowest, deviation / (jnp.sqrt(variance) + EPSILON), 0)
    return return_to_go(normalized.reshape(mask.shape), mask)


def step_leave_one_out(
    step_rewards: Float[Array, "B S"], mask: Bool[Array, "B S"], group_size: int
) -> Float[Array, "B S"]:
    """PURE's step-level RLOO: step rewards ``r_it - mean over j != i of (sum_s r_js / number of steps of j)``.

    The baseline is the reward of an average step of the other samples and is subtracted at *every* step, before the sum
    over later steps is taken: feed the result to `return_to_go`. With `min_form_rewards` this is PURE
    (arXiv:2504.15275; `step` baseline of its main branch). Where the baseline is positive each further step costs
    something, where it is negative it pays.

    Args:
      step_rewards: one per step, usually `min_form_rewards`.
      mask: which steps exist. The divisor is their number, not the padded length.
      group_size: rows per problem; static.
    """
    rewards = masked_float32(step_rewards, mask)
    per_step = jnp.sum(rewards, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)
    grouped = _grouped(per_step, group_size)
    baseline = (jnp.sum(grouped, axis=1, keepdims=True) - grouped) / max(group_size - 1, 1)
    baselined = jnp.where(mask, rewards - baseline.reshape(-1)[:, None], 0)
    return baselined if group_size > 1 else jnp.zeros_like(baselined)


def step_to_token(advantages: Float[Array, "B S"], step_of_token: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Every token gets the advantage of its step; tokens of no step (-1: prompt, padding) get 0.

      In:   advantages [[.5, -1.]], step_of_token [[-1, 0, 0, 1, -1]]
      Out:             [[0, .5, .5, -1., 0]]
    """
    steps = jnp.clip(step_of_token, 0, advantages.shape[1] - 1)
    tokens = jnp.take_along_axis(require_float32(advantages), steps, axis=1)
    return jnp.where(step_of_token >= 0, tokens, 0)


def _grouped(x: Array, group_size: int) -> Array:
    if group_size < 1 or x.shape[0] % group_size:
        raise ValueError(f"{x.shape[0]} rows cannot be cut into groups of {group_size}")
    return x.reshape(-1, group_size, *x.shape[1:])
