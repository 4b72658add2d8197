"""Ranking of steps by their Q-values (PQM, Li & Li 2024, arXiv:2410.11287)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss


def pqm_ranking(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    zeta: float | Float[Array, ""] = 4.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Right steps must rank above 0, above the right steps before them, and by a margin `zeta` above all wrong steps.

    With R the right and W the wrong steps of a solution, Q the outputs and an anchor Q = 0 that ranks above W alone:

      L_t      = log(1 + sum_{i in R, i <= t} exp(Q_i) + sum_{i in W} exp(Q_i + zeta)) - Q_t      for each t in R
      L_anchor = log(1 + sum_{i in W} exp(Q_i + zeta))                                            if W is not empty
      loss     = mean over the terms of a solution, then over the solutions that have a labelled step

    This is the `rank` loss of the authors' code in log-sum-exp form (so that no Q overflows) and without the 1e-5 which
    that code adds to each denominator. Wrong steps are not ranked among themselves.

    Args:
      outputs: `[B, S, 1]`, the Q-value (unbounded scalar) of each step.
      labels: a step is right where its label is at least 0.5; read only where `mask`.
      mask: which steps are labelled; others take no part at all.
      zeta: margin between right and wrong steps, in logits.
      weights: weight of each term; the anchor has the mean weight of the wrong steps, a solution the mean weight of its
        labelled steps, and a step of weight 0 is left out as if it were not labelled. (Our definition: the paper has no
        weights.)
      segments: which solution of the row each step belongs to, for packed rows (any integers); by default a row is one
        solution.

    Returns:
      Loss in nats; without weights its weight is the number of solutions that have a labelled step. Metrics, means over
      the solutions that have both right and wrong steps: `separated` (share of right-wrong pairs in the right order)
      and `margin` (mean Q of the right minus mean Q of the wrong steps).
    """
    if outputs.ndim != 3 or outputs.shape[-1] != 1:
        raise ValueError(f"pqm_ranking takes outputs [B, S, 1], not {list(outputs.shape)}")
    if weights is None:
        weights = mask.astype(jnp.float32)
    labeled = mask & (weights > 0)
    weights = jnp.where(labeled, weights.astype(jnp.float32), 0)
    q = jnp.where(labeled, outputs[..., 0].astype(jnp.float32), 0)
    right = labeled & (labels >= 0.5)
    wrong = labeled & ~right
    if segments is None:
        segments = jnp.zeros(mask.shape, jnp.int32)

    # together[b, t, i]: steps t and i belong to the same solution. Every sum over a solution is a sum over i, found
    # again at each of its steps t; `first(x)` is the one step at which it is counted.
    steps = q.shape[1]
    earlier = jnp.tril(jnp.ones((steps, steps), bool))
    together = segments[:, :, None] == segments[:, None, :]

    def per_solution(x):
        return jnp.sum(jnp.where(together, x[:, None, :], 0), axis=-1)

    def first(x):
        return x & ~jnp.any(together & x[:, None, :] & earlier & ~jnp.eye(steps, dtype=bool), axis=-1)

    rivals_wrong = together & wrong[:, None, :]
    rivals_right = together & right[:, None, :] & earlier
    step_terms = _log_one_plus_sum_exp(jnp.where(wrong, q + zeta, q)[:, None, :], rivals_right | rivals_wrong) - q
    anchor_terms = _log_one_plus_sum_exp((q + zeta)[:, None, :], rivals_wrong)

    has_wrong = per_solution(wrong) > 0
    anchor_weight = jnp.where(has_wrong, per_solution(weights * wrong) / jnp.maximum(per_solution(wrong), 1), 0)
    term_weight = per_solution(weights * right) + anchor_weight
    solution_weight = per_solution(weights) / jnp.maximum(per_solution(labeled), 1)
    share = jnp.where(term_weight > 0, solution_weight / jnp.where(term_weight > 0, term_weight, 1), 0)
    total = jnp.sum(share * (weights * right * step_terms + anchor_weight * first(wrong) * anchor_terms))

    counts_right, counts_wrong = per_solution(right), per_solution(wrong)
    pairs = jnp.sum(rivals_wrong & (q[:, :, None] > q[:, None, :]), axis=-1)
    separated = per_solution(right * pairs) / jnp.maximum(counts_right * counts_wrong, 1)
    mean_right = per_solution(q * right) / jnp.maximum(counts_right, 1)
    mean_wrong = per_solution(q * wrong) / jnp.maximum(counts_wrong, 1)
    mixed = first(labeled) & (counts_right > 0) & (counts_wrong > 0)
    count = jnp.sum(mixed, dtype=jnp.float32)
    margin = jnp.sum((mean_right - mean_wrong) * mixed)
    metrics = {"separated": (jnp.sum(separated * mixed), count), "margin": (margin, count)}
    return Loss(total=total, weight=jnp.sum(solution_weight * first(labeled)), metrics=jax.lax.stop_gradient(metrics))


def _log_one_plus_sum_exp(x: Float[Array, " B #S S"], where: Bool[Array, "B S S"]) -> Float[Array, "B S"]:
    # A finite entry beside the excluded ones (-inf) keeps an empty sum, log(1 + 0) = 0, differentiable.
    x = jnp.where(where, x, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([x, jnp.zeros_like(x[..., :1])], axis=-1), axis=-1)
