"""The clipped policy-gradient loss of PPO and GRPO, as a sum over tokens and its denominator."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxprm.objectives import Loss
from jaxprm.rl.credit import require_float32

KLEstimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0
"""Log-probability ratios are clamped to +-20: their exponential stays finite, and beyond it there is no gradient."""


def kl_estimate(
    log_probs: Float[Array, "B T"], reference_log_probs: Float[Array, "B T"], estimator: KLEstimator
) -> Float[Array, "B T"]:
    """Per-token estimate of ``KL(policy || reference)`` from a token sampled by the policy (Schulman 2020), in nats.

    With ``d = log policy - log reference``:

      k1 = d                  unbiased, of either sign; its gradient is zero on average, so it belongs into a reward
      k2 = d**2 / 2           biased, but with the gradient of the KL
      k3 = exp(-d) - 1 + d    unbiased and never negative; GRPO's choice in the loss
    """
    difference = jnp.clip(log_probs - reference_log_probs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference**2 / 2
        case "k3":
            return jnp.expm1(-difference) + difference
        case _:
            raise ValueError(f"unknown KL estimator {estimator!r}; use k1, k2 or k3")


def clipped_policy_gradient(
    log_probs: Float[Array, "B T"],
    old_log_probs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    reference_log_probs: Float[Array, "B T"] | None = None,
    kl_coefficient: float = 0.0,
    kl_estimator: KLEstimator = "k3",
    entropies: Float[Array, "B T"] | None = None,
) -> Loss:
    """``-min(ratio * A, clip(ratio, 1 - clip, 1 + clip_high) * A) + kl_coefficient * KL`` per generated token.

    ``ratio = exp(log_probs - old_log_probs)`` (Schulman et al. 2017, arXiv:1707.06347). Every token has the same weight
    (the token mean of DAPO and verl), so that a long solution counts for more than a short one.

    Args:
      log_probs: log-probability of the generated tokens under the policy being trained, at the sampling temperature.
      old_log_probs: the same when they were sampled; no gradient flows through them, the advantages or the reference.
      advantages: per token, see `step_to_token`.
      mask: which tokens the policy generated; nothing else is read.
      clip: how far the ratio may fall below 1 (and rise above it, without `clip_high`).
      clip_high: how far the ratio may rise above 1 ("clip-higher" of DAPO).
      dual_clip: for negative advantages the term is at most ``-dual_clip * A`` (Ye et al. 2020); a number above 1,
        often 3.
      reference_log_probs: the same tokens under the reference policy.
      kl_coefficient: weight of the KL to the reference in the loss.
      kl_estimator: see `kl_estimate`.
      entropies: entropy of the policy at each token, for the metric only.

    Returns:
      Loss whose weight is the number of generated tokens. Metrics, means over tokens: `clip_fraction` (terms held by
      the clip), `update_kl` (k1 between old and new policy), `kl` if a reference is given, `entropy` if it is given.

    Raises:
      ValueError: `kl_coefficient` without reference, or a `dual_clip` that is not above 1.
    """
    if kl_coefficient and reference_log_probs is None:
        raise ValueError("kl_coefficient needs reference_log_probs")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be above 1, not {dual_clip}")

    def read(x):
        return jnp.where(mask, require_float32(x), 0)

    log_probs = read(log_probs)
    old_log_probs, advantages = jax.lax.stop_gradient((read(old_log_probs), read(advantages)))
    log_ratio = jnp.clip(log_probs - old_log_probs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = jnp.exp(log_ratio)
    free = -advantages * ratio
    held = -advantages * jnp.clip(ratio, 1 - clip, 1 + (clip if clip_high is None else clip_high))
    terms = jnp.maximum(free, held)
    if dual_clip is not None:
        terms = jnp.where(advantages < 0, jnp.minimum(terms, -dual_clip * advantages), terms)

    means = {"clip_fraction": held > free, "update_kl": -log_ratio}
    if reference_log_probs is not None:
        kl = kl_estimate(log_probs, jax.lax.stop_gradient(read(reference_log_probs)), kl_estimator)
        terms = terms + kl_coefficient * kl
        means["kl"] = kl
    if entropies is not None:
        means["entropy"] = read(entropies)

    weight = jnp.sum(mask, dtype=jnp.float32)
    metrics = {name: (jnp.sum(jnp.where(mask, value, 0), dtype=jnp.float32), weight) for name, value in means.items()}
    return Loss(total=jnp.sum(jnp.where(mask, terms, 0)), weight=weight, metrics=jax.lax.stop_gradient(metrics))
