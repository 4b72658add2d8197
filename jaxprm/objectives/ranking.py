"""Ranking of the steps of a solution by their Q-values (PQM, Li & Li 2024, arXiv:2410.11287)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import LabeledSteps, Sets, solution_sets
from jaxprm.objectives.validation import check_choice, check_number, check_outputs


def pqm_ranking(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    zeta: float | Float[Array, ""] = 4.0,
    variant: Literal["published", "theory", "first_error"] = "published",
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Right steps must rank above 0, above the right steps before them, and by a margin `zeta` above all wrong steps.

    With R the right and W the wrong steps of a solution, Q the outputs and an anchor Q = 0 that ranks above W alone:

      L_t      = log(1 + sum_{i in R, i <= t} exp(Q_i) + sum_{i in W} exp(Q_i + zeta)) - Q_t      for each t in R
      L_anchor = log(1 + sum_{i in W} exp(Q_i + zeta))                                            if W is not empty
      loss     = mean over the terms of a solution, then over the solutions that have a labelled step

    This is the `rank` loss of the authors' code in log-sum-exp form (so that no Q overflows) and without the 1e-5 which
    that code adds to each denominator. Wrong steps are not ranked among themselves. The variants:

      theory        wrong steps rank above the wrong steps after them too, as the paper's theorem orders them:
                    another term ``log(sum_{i in W, i >= t} exp(Q_i)) - Q_t`` for each t in W but the last. The authors'
                    `theory_rank` counts exp(Q_t) of a right step twice from the second step of a row on, divides the terms
                    of right steps and anchor by one step more than there are, and depends on padding; here each
                    exp(Q) is counted once, and the divisor is the number of terms (the paper's |pi|).
      first_error   W is the first wrong step alone, and later wrong steps take no part. The authors' `ablate-rank` takes
                    the step whose index is the number of right steps, which is the first error only where no right step
                    follows a wrong one; it also has no margin, which is zeta = 0 here.

    Args:
      outputs: `[B, S, 1]`, the Q-value (unbounded scalar) of each step.
      labels: a step is right where its label is at least 0.5; read only where `mask`.
      mask: which steps are labelled; others take no part at all.
      zeta: margin between right and wrong steps, in logits.
      variant: see above.
      weights: weight of each term; the anchor has the mean weight of the wrong steps, a solution the mean weight of its
        labelled steps, and a step of weight 0 is left out as if it were not labelled. (Our definition: the paper has no
        weights.)
      segments: which solution of the row each step belongs to, for packed rows (any integers); by default a row is one
        solution.

    Returns:
      Loss in nats; without weights its weight is the number of solutions that have a labelled step. Metrics, means over
      the solutions that have both right and wrong steps: `separated` (share of right-wrong pairs in the right order)
      and `margin` (mean Q of the right minus mean Q of the wrong steps).

    Raises:
      InputError: zeta is not finite, or the variant is unknown.
    """
    check_outputs(outputs, 1, "pqm_ranking")
    check_number("zeta", zeta)
    check_choice("variant", variant, ("published", "theory", "first_error"))
    sets = solution_sets(mask, segments)
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    if variant == "first_error":
        steps = LabeledSteps.read(outputs, labels, steps.right | sets.first(steps.wrong), weights)
    q, weights, right, wrong = steps.outputs[..., 0], steps.weights, steps.right, steps.wrong

    # [b, t, i]: the steps i that step t competes with
    rivals_wrong = sets.together & wrong[:, None, :]
    rivals_right = sets.together & right[:, None, :] & ~sets.earlier.T
    step_terms = _log_one_plus_sum_exp(jnp.where(wrong, q + zeta, q)[:, None, :], rivals_right | rivals_wrong) - q
    anchor_terms = _log_one_plus_sum_exp((q + zeta)[:, None, :], rivals_wrong)
    own_weight = weights * right
    if variant == "theory":
        # The last wrong step has no rival: its term would be 0.
        own_weight = weights * (right | wrong & ~sets.last(wrong))
        step_terms = jnp.where(wrong, _log_sum_exp_after(q, rivals_wrong & ~sets.earlier) - q, step_terms)

    has_wrong = sets.total(wrong) > 0
    anchor_weight = jnp.where(has_wrong, sets.mean(weights, wrong), 0)
    term_weight = sets.total(own_weight) + anchor_weight
    solution_weight = sets.mean(weights, steps.mask)
    share = jnp.where(term_weight > 0, solution_weight / jnp.where(term_weight > 0, term_weight, 1), 0)
    total = jnp.sum(share * (own_weight * step_terms + anchor_weight * sets.first(wrong) * anchor_terms))
    weight = jnp.sum(solution_weight * sets.first(steps.mask))
    return Loss(total=total, weight=weight, metrics=jax.lax.stop_gradient(_metrics(q, right, wrong, sets)))


def _metrics(q, right, wrong, sets: Sets) -> dict:
    counts_right, counts_wrong = sets.total(right), sets.total(wrong)
    pairs = jnp.sum(sets.together & wrong[:, None, :] & (q[:, :, None] > q[:, None, :]), axis=-1)
    separated = sets.total(right * pairs) / jnp.maximum(counts_right * counts_wrong, 1)
    mixed = sets.first(right | wrong) & (counts_right > 0) & (counts_wrong > 0)
    count = jnp.sum(mixed, dtype=jnp.float32)
    margin = jnp.sum((sets.mean(q, right) - sets.mean(q, wrong)) * mixed)
    return {"separated": (jnp.sum(separated * mixed), count), "margin": (margin, count)}


def _log_one_plus_sum_exp(x: Float[Array, " B #S S"], where: Bool[Array, "B S S"]) -> Float[Array, "B S"]:
    # A finite entry beside the excluded ones (-inf) keeps an empty sum, log(1 + 0) = 0, differentiable.
    x = jnp.where(where, x, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([x, jnp.zeros_like(x[..., :1])], axis=-1), axis=-1)


def _log_sum_exp_after(q: Float[Array, "B S"], where: Bool[Array, "B S S"]) -> Float[Array, "B S"]:
    # Rows without a rival hold themselves, so that no sum is empty; they are not read.
    where = where | ~jnp.any(where, axis=-1, keepdims=True) & jnp.eye(q.shape[1], dtype=bool)
    return jax.nn.logsumexp(jnp.where(where, q[:, None, :], -jnp.inf), axis=-1)
