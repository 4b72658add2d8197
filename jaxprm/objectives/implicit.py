"""Implicit process rewards: objectives on the log-ratio of a policy to its reference, with outcome labels only.

A language model trained with a reward of ``beta log(policy / reference)`` for the whole response is a process reward model as
well: the sum of log-ratios up to a step is its value there (Yuan et al. 2024, arXiv:2412.01981). All objectives read

  outputs   [B, S, 1], sum of (log policy - log reference) over the tokens of each step, in nats
  labels    [B, S], outcome of the response: the label of its last labelled step
  mask      all steps of a response: steps outside of it are left out of the response's sum

and work on the response value ``v = beta * (sum over its steps)``. A response's weight is the mean weight of its labelled
steps; a step of weight 0 is left out as if it were not labelled. `segments` says which response of the row a step belongs to.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import Sets, Solutions, across_rows, loss_of, means, solution_sets
from jaxprm.objectives.validation import check_choice, check_number, check_outputs


def implicit_cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    beta: float | Float[Array, ""] = 0.05,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """``-y log sigmoid(v) - (1 - y) log sigmoid(-v)`` per response (ImplicitPRM, arXiv:2412.01981; PRIME).

    Needs no pairs; labels may be soft. The authors' code goes through `BCELoss` on a probability, whose logarithm stops at
    -100; this one does not stop.

    Args:
      outputs, labels, mask, weights, segments: see the module.
      beta: positive.

    Returns:
      Loss in nats; its weight is the number of responses. Metrics: `accuracy` (v > 0 against label above .5) and `positives`.

    Raises:
      InputError: a hyperparameter out of range.
    """
    check_outputs(outputs, 1, "implicit_cross_entropy")
    check_number("beta", beta, 0, closed="neither")
    responses = Solutions.read(outputs, labels, mask, weights, segments)
    v, y = beta * responses.values, responses.labels
    terms = -y * jax.nn.log_sigmoid(v) - (1 - y) * jax.nn.log_sigmoid(-v)
    return loss_of(terms, responses.weights, accuracy=(v > 0) == (y > 0.5), positives=y)


def implicit_dpo(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    beta: float | Float[Array, ""] = 0.05,
    label_smoothing: float | Float[Array, ""] = 0.0,
    variant: Literal["pairs", "detached"] = "pairs",
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    groups: Int[Array, "B S"] | None = None,
) -> Loss:
    """``-log sigmoid(v_right - v_wrong)`` for every pair of a right and a wrong response to one problem (DPO, Rafailov et al.
    2023, arXiv:2305.18290, equation 7).

      detached   a response for itself: ``-log sigmoid(v - m)`` if it is right, ``-log sigmoid(m - v)`` if it is wrong, with m
                 the mean value of the responses of the other outcome, through which no gradient goes (PRIME's released code).
                 Where there is none, m = 0, which is `implicit_cross_entropy`.

    Args:
      outputs, labels, mask, weights, segments: see the module; a response is right where its label is at least 0.5, and a
        pair has the geometric mean of its two weights; means are weighted (our definition).
      beta: positive.
      label_smoothing: chance e that a pair (or a label) is the wrong way round, in [0, 0.5]: its loss becomes
        ``-(1 - e) log sigmoid(d) - e log sigmoid(-d)``.
      variant: see above.
      groups: which problem each step belongs to; equal numbers are compared wherever they stand in the batch. By default all
        responses of a row answer one problem.

    Returns:
      Loss in nats; its weight is the number of pairs, or of responses (detached). Metrics, over the same: `accuracy` (v_right >
      v_wrong, or on the right side of m) and `margin` (mean d).

    Raises:
      InputError: a hyperparameter out of range.
    """
    check_outputs(outputs, 1, "implicit_dpo")
    check_number("beta", beta, 0, closed="neither")
    check_number("label_smoothing", label_smoothing, 0, 0.5)
    check_choice("variant", variant, ("pairs", "detached"))
    responses = Solutions.read(outputs, labels, mask, weights, segments)
    sets, v, y, weight = across_rows(groups, None, beta * responses.values, responses.labels, responses.weights)
    right = y >= 0.5
    if variant == "pairs":
        root = jnp.sqrt(weight)
        pairs = sets.together & right[:, :, None] & ~right[:, None, :]
        counted = jnp.where(pairs, root[:, :, None] * root[:, None, :], 0)
        lead = v[:, :, None] - v[:, None, :]
    else:
        counted = weight
        of_right, of_wrong = (_mean_of(sets, v, weight * side) for side in (right, ~right))
        other = jax.lax.stop_gradient(jnp.where(right, of_wrong, of_right))
        lead = jnp.where(right, v - other, other - v)
    terms = -(1 - label_smoothing) * jax.nn.log_sigmoid(lead) - label_smoothing * jax.nn.log_sigmoid(-lead)
    return loss_of(terms, counted, accuracy=lead > 0, margin=lead)


def implicit_kto(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    beta: float | Float[Array, ""] = 0.05,
    variant: Literal["vanilla", "uneven"] = "vanilla",
    reference_point: float | Float[Array, ""] | None = None,
    desirable_weight: float | Float[Array, ""] = 1.0,
    undesirable_weight: float | Float[Array, ""] = 1.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """A right response should be worth more, a wrong one less, than a reference point (KTO, Ethayarajh et al. 2024,
    arXiv:2402.01306).

      right    desirable_weight (1 - sigmoid(v - beta z))
      wrong    undesirable_weight (1 - sigmoid(beta z - v))

    where z, in nats and at least 0, estimates the divergence of policy and reference:

      vanilla   for right responses the mean log-ratio of the batch's wrong ones, for wrong responses that of the right ones,
                differentiated through as in the released code. It is a statistic of the batch: micro-batches do not add up to
                the full batch exactly.
      uneven    z = `reference_point`, the mean log-ratio over responses paired with problems that are not their own, for any
                numbers of right and wrong responses. No gradient goes through it.

    Args:
      outputs, labels, mask, weights, segments: see the module; a response is right where its label is at least 0.5.
      beta: positive.
      variant: see above.
      reference_point: for the uneven variant, and only for it; negative values count as 0.
      desirable_weight: factor on the loss of right responses, at least 0.
      undesirable_weight: factor on the loss of wrong responses, at least 0.

    Returns:
      Loss (at most the larger factor per response); its weight is the number of responses, whatever the factors. Metrics:
      `accuracy` (v > 0 against label), `positives` and `reference_point` (mean z).

    Raises:
      InputError: a hyperparameter out of range, missing, or without effect.
    """
    check_outputs(outputs, 1, "implicit_kto")
    check_number("beta", beta, 0, closed="neither")
    check_choice("variant", variant, ("vanilla", "uneven"))
    check_number("desirable_weight", desirable_weight, 0)
    check_number("undesirable_weight", undesirable_weight, 0)
    if (variant == "uneven") != (reference_point is not None):
        raise InputError("is read by the uneven variant, and only by it", field="reference_point", value=reference_point,
                         hint="give the mean log-ratio over mismatched responses with variant = 'uneven', or neither")
    if reference_point is not None:
        check_number("reference_point", reference_point)
    responses = Solutions.read(outputs, labels, mask, weights, segments)
    right = responses.labels >= 0.5
    if variant == "vanilla":
        of_right = _batch_mean(responses.values, responses.weights * ~right)
        of_wrong = _batch_mean(responses.values, responses.weights * right)
        reference = jnp.maximum(jnp.where(right, of_right, of_wrong), 0)
    else:
        reference = jnp.full_like(responses.values, jax.lax.stop_gradient(jnp.maximum(reference_point, 0)))
    gain = beta * (responses.values - reference)
    terms = jnp.where(right, desirable_weight * jax.nn.sigmoid(-gain), undesirable_weight * jax.nn.sigmoid(gain))
    return loss_of(terms, responses.weights, accuracy=(responses.values > 0) == right, positives=responses.labels,
                   reference_point=reference)


def implicit_nca(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    beta: float | Float[Array, ""] = 0.05,
    temperature: float | Float[Array, ""] = 0.1,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    groups: Int[Array, "B S"] | None = None,
) -> Loss:
    """Noise-contrastive alignment (NCA, Chen et al. 2024, arXiv:2402.05369; written from the paper: the implicit
    PRM's authors report NCA but released no code of it).

      loss of a problem = - sum_i t_i log sigmoid(v_i) - (1 / n) sum_i log sigmoid(-v_i),    t = softmax(labels / temperature)

    over the n responses to one problem. It pulls up the absolute value of the good responses, where DPO only widens
    differences. With one right and one wrong response and a small temperature it is the pair loss ``nca_pair`` of TRL.

    Args:
      outputs, labels, mask, weights, segments: see the module; responses enter both sums by their weights.
      beta: positive.
      temperature: of the labels, positive; small values give all of t to the best responses.
      groups: which problem each step belongs to, as in `implicit_dpo`. A problem needs two responses: there is nothing to
        contrast one with.

    Returns:
      Loss in nats; its weight is the number of problems (the mean weight of the responses of each). Metrics, over responses:
      `accuracy` (v > 0 against label above .5) and `positives`.

    Raises:
      InputError: a hyperparameter out of range.
    """
    check_outputs(outputs, 1, "implicit_nca")
    check_number("beta", beta, 0, closed="neither")
    check_number("temperature", temperature, 0, closed="neither")
    responses = Solutions.read(outputs, labels, mask, weights, segments)
    sets, v, y, weight, known = across_rows(groups, None, beta * responses.values, responses.labels, responses.weights,
                                            responses.mask)
    highest = jnp.max(jnp.where(sets.together & known[:, None, :], y[:, None, :], -jnp.inf), axis=-1)
    tilt = weight * jnp.exp(jnp.where(known, y - highest, 0) / temperature)
    target = tilt / jnp.where(known, sets.total(tilt), 1)
    uniform = weight / jnp.where(known, sets.total(weight), 1)
    enough = known & (sets.total(known) > 1)
    problem_weight = jnp.where(enough, sets.mean(weight, known), 0)
    terms = -target * jax.nn.log_sigmoid(v) - uniform * jax.nn.log_sigmoid(-v)
    metrics = means(weight, accuracy=(v > 0) == (y > 0.5), positives=y)
    return Loss(jnp.sum(problem_weight * terms), jnp.sum(problem_weight * sets.first(enough)), metrics)


def implicit_step_rewards(
    log_ratios: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    coefficient: float | Float[Array, ""] = 0.001,
    kind: Literal["single", "accumulative"] = "single",
    segments: Int[Array, "B S"] | None = None,
) -> Float[Array, "B S"]:
    """Rewards of single steps from the log-ratios that they sum up (ImplicitPRM, arXiv:2412.01981).

    Args:
      log_ratios: sum of (log policy - log reference) over the tokens of each step, in nats; read only where `mask`.
      mask: which places hold a step.
      coefficient: the beta of reading, which need not be that of training (0.001 in the released code).
      kind: "single": of the step's own tokens, so that the rewards of a response add up to its value; "accumulative": of all
        tokens up to its end, the value there.
      segments: which response of the row each step belongs to; by default a row is one response.

    Returns:
      float32[B, S], 0 where no step is.

    Raises:
      InputError: an unknown kind.
    """
    check_choice("kind", kind, ("single", "accumulative"))
    own = coefficient * jnp.where(mask, log_ratios.astype(jnp.float32), 0)
    return own if kind == "single" else jnp.where(mask, solution_sets(mask, segments).so_far(own), 0)


def _batch_mean(x: Float[Array, "B S"], weights: Float[Array, "B S"]) -> Float[Array, ""]:
    return jnp.sum(weights * x) / jnp.maximum(jnp.sum(weights), jnp.finfo(jnp.float32).tiny)


def _mean_of(sets: Sets, x: Float[Array, "G N"], weights: Float[Array, "G N"]) -> Float[Array, "G N"]:
    """Weighted mean over the set of each place; 0 where nothing has a weight."""
    return sets.total(weights * x) / jnp.maximum(sets.total(weights), jnp.finfo(jnp.float32).tiny)
