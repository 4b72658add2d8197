"""Credit assignment: from rewards per step to a return per step.

Every function maps float32 `[B, S]` step rewards (or one outcome per row) and a mask to float32 `[B, S]` returns, 0
outside the mask. Rewards outside the mask are never read, so padding changes nothing. What a return is compared with is
the business of `jaxprm.rl.advantages`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def return_to_go(
    rewards: Float[Array, "B S"], mask: Bool[Array, "B S"], *, gamma: float = 1.0
) -> Float[Array, "B S"]:
    """``ret_t = r_t + gamma * ret_{t+1}`` over the steps of the mask.

      In:   rewards [1, 2, 4], gamma .5
      Out:          [3, 4, 4]
    """
    rewards = masked_float32(rewards, mask)

    def back(later, step):
        reward, valid = step
        now = jnp.where(valid, reward + gamma * later, later)
        return now, jnp.where(valid, now, 0)

    # The carry takes its sharding from the rewards, which a fresh array of zeros would not have.
    _, returns = jax.lax.scan(back, jnp.sum(jnp.zeros_like(rewards), axis=1), (rewards.T, mask.T), reverse=True)
    return returns.T


def sum_form(
    step_rewards: Float[Array, "B S"], mask: Bool[Array, "B S"], *, gamma: float = 1.0
) -> Float[Array, "B S"]:
    """The value of a solution is the sum of its step rewards: `return_to_go` of the rewards as they are.

    A policy can raise this sum by more steps that are each a little good, the known way to hack a PRM (PURE,
    arXiv:2504.15275).
    """
    return return_to_go(step_rewards, mask, gamma=gamma)


def min_form_rewards(
    step_rewards: Float[Array, "B S"], mask: Bool[Array, "B S"], *, temperature: float = 0.1
) -> Float[Array, "B S"]:
    """PURE's weighted rewards ``r*_t = w_t r_t``, ``w = softmax(-r / temperature)`` over the steps of the row.

    Their sum tends to ``min_t r_t`` as the temperature tends to 0 and to the mean as it grows; it is not small at 1.

      In:   rewards [.9, .8, -.3, .6], temperature .1
      Out:  about   [0, 0, -.3, 0]
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}; strict_min_form is its limit at 0")
    rewards = masked_float32(step_rewards, mask)
    # The lowest finite number instead of -inf: a row without steps has a softmax, too.
    weights = jax.nn.softmax(jnp.where(mask, -rewards / temperature, jnp.finfo(jnp.float32).min), axis=-1)
    return jnp.where(mask, weights * rewards, 0)


def min_form(
    step_rewards: Float[Array, "B S"], mask: Bool[Array, "B S"], *, temperature: float = 0.1, gamma: float = 1.0
) -> Float[Array, "B S"]:
    """The value of a solution is its worst step (PURE, Cheng et al. 2025): `return_to_go` of `min_form_rewards`.

    Steps up to the worst one share its reward; later ones have a return near 0.
    """
    return return_to_go(min_form_rewards(step_rewards, mask, temperature=temperature), mask, gamma=gamma)


def strict_min_form(step_rewards: Float[Array, "B S"], mask: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """``ret_t = min(r_t, ret_{t+1})``: the worst step from here on.

    Runs over steps alone. (The `verl` branch of PURE lets the zero rewards of all other tokens take part, so that a
    solution whose steps are all positive returns 0.)
    """
    rewards = jnp.where(mask, masked_float32(step_rewards, mask), jnp.inf)
    return jnp.where(mask, jax.lax.cummin(rewards, axis=1, reverse=True), 0)


def outcome(
    outcomes: Float[Array, " B"], mask: Bool[Array, "B S"], *, gamma: float = 1.0
) -> Float[Array, "B S"]:
    """The verified outcome as a reward at the last step of the mask, returned to all steps before it."""
    is_last = mask & (jnp.cumsum(mask, axis=1) == jnp.sum(mask, axis=1, keepdims=True))
    return return_to_go(jnp.where(is_last, require_float32(outcomes)[:, None], 0), mask, gamma=gamma)


def require_float32(values: Array) -> Array:
    """The values, if they are float32: advantages are small differences, which bfloat16 would lose without a word."""
    if values.dtype != jnp.float32:
        raise TypeError(f"rewards, returns and advantages are float32, not {values.dtype}")
    return values


def masked_float32(values: Float[Array, "B S"], mask: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """`require_float32`, with 0 outside the mask."""
    return jnp.where(mask, require_float32(values), 0)
