"""Pairs of steps of which one is better: sibling steps of one prefix, or steps of one solution."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import LabeledSteps, Sets, across_rows
from jaxprm.objectives.validation import check_number, check_outputs, check_whole


def pairwise_ranking(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    gap: float | Float[Array, ""] = 0.0,
    margin: float | Float[Array, ""] = 0.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    groups: Int[Array, "B S"] | None = None,
) -> Loss:
    """``-log sigmoid(s_i - s_j - margin)`` for every pair of a group in which step i has the larger label (Bradley & Terry
    1952; as a reward model's loss Ouyang et al. 2022, arXiv:2203.02155, equation 1).

    Args:
      outputs: `[B, S, 1]`, a score on an open scale.
      labels: what the steps are compared by, hard or soft; read only where `mask`.
      mask: which steps are labelled.
      gap: a pair counts if its labels differ by more than this, at least 0: estimates from few rollouts differ by chance
        (AgentPRM keeps pairs from 0.03 on).
      margin: by how much the better step should lead, in logits.
      weights: weight of each step, 1 if absent; a pair has the geometric mean of its two, and a step of weight 0 is in no
        pair. (Our definition.)
      segments: which solution of the row each step belongs to.
      groups: which group each step belongs to; equal numbers are compared wherever they stand in the batch, at the cost of
        (B S)^2 comparisons. Siblings: number the prefix that they continue. By default the steps of a solution are compared.

    Returns:
      Loss in nats; its weight is the number of pairs. Metrics, over pairs: `separated` (share in the right order) and
      `margin` (mean difference of the scores).

    Raises:
      InputError: a hyperparameter out of range.
    """
    check_outputs(outputs, 1, "pairwise_ranking")
    check_number("gap", gap, 0)
    check_number("margin", margin)
    score, label, weight, sets = _siblings(outputs, labels, mask, weights, segments, groups)
    return _pairs_loss(lambda lead: -jax.nn.log_sigmoid(lead - margin), score, _pairs(sets, label, weight, gap))


def margin_ranking(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    gap: float | Float[Array, ""] = 0.0,
    margin: float | Float[Array, ""] = 1.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    groups: Int[Array, "B S"] | None = None,
) -> Loss:
    """``max(0, margin - (s_i - s_j))`` for every pair of a group in which step i has the larger label (hinge loss).

    Unlike `pairwise_ranking` it lets go of a pair once the better step leads by the margin.

    Args:
      margin: by how much the better step should lead, in logits; at least 0.
      outputs, labels, mask, gap, weights, segments, groups: as in `pairwise_ranking`.

    Returns:
      Loss in logits, with the weight and metrics of `pairwise_ranking`.

    Raises:
      InputError: a hyperparameter out of range.
    """
    check_outputs(outputs, 1, "margin_ranking")
    check_number("gap", gap, 0)
    check_number("margin", margin, 0)
    score, label, weight, sets = _siblings(outputs, labels, mask, weights, segments, groups)
    return _pairs_loss(lambda lead: jax.nn.relu(margin - lead), score, _pairs(sets, label, weight, gap))


def preference_pairs(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    per_side: int = 2,
    gap: float | Float[Array, ""] = 0.25,
    distill_scale: float | Float[Array, ""] | None = None,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    groups: Int[Array, "B S"] | None = None,
) -> Loss:
    """The best right steps of a group against its worst wrong ones (rStar-Math, Guan et al. 2025, arXiv:2501.04519).

      P        = the `per_side` right steps of the group with the largest labels, N = its `per_side` wrong steps with the
                 smallest (of equal labels the earlier step)
      pair     = -log sigmoid(s_p - s_n) / (|P| |N|)      for p in P, n in N with label_p - label_n >= gap

    Noisy values are so used only for what they say with some certainty. The factor is the released code's; its loss is the
    sum of the pairs of a batch, which is `total` here, and not their mean. The released data also leave out pairs of
    texts that are nearly equal, which is a matter of what gets labelled, not of the loss.

    Args:
      outputs: `[B, S, 1]`, a score on an open scale.
      labels: value of each step in [0, 1], right from 0.5 on; a value q in [-1, 1] is ``(q + 1) / 2``. Read only where `mask`.
      mask: which steps are labelled.
      per_side: most steps taken on each side, at least 1.
      gap: smallest difference of two labels of a pair, in [0, 1]; 0.25 is the released 0.5 on the scale from -1 to 1.
      distill_scale: if given, a pair's loss is ``(s_p - s_n - distill_scale (label_p - label_n))^2`` instead: the labels
        say by how much the better step leads, not only that it does. (After the squared loss by which Fisch et al. 2024,
        arXiv:2405.19316, distil a reward model into a policy: differences of rewards and of log-ratios of two answers there,
        of labels and of scores of two steps here. That it replaces rStar-Math's loss is our choice.)
      weights: weight of each step, as in `pairwise_ranking`.
      segments, groups: as in `pairwise_ranking`.

    Returns:
      Loss in nats (squared logits where distilled); its weight is the sum of the factors of all pairs, so that the mean is one
      over groups where no pair is too close. Metrics as in `pairwise_ranking`.

    Raises:
      InputError: a hyperparameter out of range.
    """
    check_outputs(outputs, 1, "preference_pairs")
    check_whole("per_side", per_side, 1)
    check_number("gap", gap, 0, 1)
    if distill_scale is not None:
        check_number("distill_scale", distill_scale, 0, closed="neither")
    score, label, weight, sets = _siblings(outputs, labels, mask, weights, segments, groups)
    right, wrong = (weight > 0) & (label >= 0.5), (weight > 0) & (label < 0.5)
    right, wrong = right & (_rank(sets, label, right) < per_side), wrong & (_rank(sets, -label, wrong) < per_side)
    differ = label[:, :, None] - label[:, None, :]
    pairs = sets.together & right[:, :, None] & wrong[:, None, :] & (differ >= gap)
    factor = 1 / jnp.maximum(sets.total(right) * sets.total(wrong), 1)
    pair_weights = jnp.where(pairs, factor[:, :, None] * _mean_weight(weight), 0)
    if distill_scale is None:
        return _pairs_loss(lambda lead: -jax.nn.log_sigmoid(lead), score, pair_weights)
    return _pairs_loss(lambda lead: (lead - distill_scale * differ) ** 2, score, pair_weights)


def _siblings(outputs, labels, mask, weights, segments, groups):
    """(scores[G, N], labels[G, N], weights[G, N], sets) of the steps that are compared; weight 0 = takes no part."""
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    sets, *arrays = across_rows(groups, segments, steps.outputs[..., 0], steps.labels, steps.weights)
    return *arrays, sets


def _pairs(sets: Sets, label: Float[Array, "G N"], weight: Float[Array, "G N"], gap) -> Float[Array, "G N N"]:
    better = sets.together & (label[:, :, None] - label[:, None, :] > gap)
    return jnp.where(better, _mean_weight(weight), 0)


def _mean_weight(weight: Float[Array, "G N"]) -> Float[Array, "G N N"]:
    return jnp.sqrt(weight)[:, :, None] * jnp.sqrt(weight)[:, None, :]


def _rank(sets: Sets, x: Float[Array, "G N"], among: Bool[Array, "G N"]) -> Int[Array, "G N"]:
    """How many places of the set, `among` those given, come before this one: they are larger, or as large and earlier."""
    before = (x[:, None, :] > x[:, :, None]) | (x[:, None, :] == x[:, :, None]) & sets.earlier
    return jnp.sum(sets.together & among[:, None, :] & before, axis=-1)


def _pairs_loss(of_lead: Callable, score: Float[Array, "G N"], weights: Float[Array, "G N N"]) -> Loss:
    lead = score[:, :, None] - score[:, None, :]
    weight = jnp.sum(weights)
    metrics = {"separated": (jnp.sum(weights * (lead > 0)), weight), "margin": (jnp.sum(weights * lead), weight)}
    return Loss(jnp.sum(weights * of_lead(lead)), weight, jax.lax.stop_gradient(metrics))
