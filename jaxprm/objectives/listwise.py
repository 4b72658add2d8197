"""A whole list of steps at once: the better a step, the larger its share of the list."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import LabeledSteps, across_rows
from jaxprm.objectives.validation import check_outputs


def listwise_ranking(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    groups: Int[Array, "B S"] | None = None,
) -> Loss:
    """Softmax cross-entropy between the labels of a group and its scores (ListNet, Cao et al. 2007, with the labels' shares).

      loss = - sum_i t_i log softmax(s)_i,      t_i = w_i y_i / sum_j w_j y_j      over the steps of a group

    Computed by `optax.losses.ranking_softmax_loss`. A group whose labels are all equal says nothing about order and is left
    out.

    Args:
      outputs: `[B, S, 1]`, a score on an open scale.
      labels: relevance of each step, at least 0; read only where `mask`.
      mask: which steps are labelled.
      weights: weight of each step in the target, 1 if absent; a group has the mean weight of its labelled steps, and a step of
        weight 0 is left out as if it were not labelled. (Our definition.)
      segments, groups: which steps form a list, as in `pairwise_ranking`.

    Returns:
      Loss in nats; without weights its weight is the number of groups with different labels. Metric, over groups: `top` (the
      largest score belongs to a step with the largest label).
    """
    check_outputs(outputs, 1, "listwise_ranking")
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    sets, score, label, weight, known = across_rows(groups, segments, steps.outputs[..., 0], steps.labels, steps.weights,
                                                    steps.mask)
    # lists[g, t, i]: the steps i of the list of step t. A list is counted at its first step; at all other places stands a
    # list of one, whose loss is 0, so that no softmax is over nothing.
    first = sets.first(known)
    lists = jnp.where(first[:, :, None], sets.together & known[:, None, :], jnp.eye(score.shape[1], dtype=bool))

    def row(x):
        return jnp.broadcast_to(x[:, None, :], lists.shape)

    highest = jnp.max(jnp.where(lists, row(label), -jnp.inf), axis=-1)
    lowest = jnp.min(jnp.where(lists, row(label), jnp.inf), axis=-1)
    ordered = first & (highest > lowest)
    relevance = weight * label
    share = row(relevance) / jnp.maximum(sets.total(relevance), jnp.finfo(jnp.float32).tiny)[:, :, None]
    terms = optax.losses.ranking_softmax_loss(row(score), share, where=lists, reduce_fn=None)
    group_weight = jnp.where(ordered, sets.mean(weight, known), 0)
    best = jnp.max(jnp.where(lists, row(score), -jnp.inf), axis=-1)
    top = jnp.any(lists & (row(score) == best[:, :, None]) & (row(label) == highest[:, :, None]), axis=-1)
    count = jnp.sum(ordered, dtype=jnp.float32)
    metrics = {"top": (jnp.sum(ordered & top, dtype=jnp.float32), count)}
    return Loss(jnp.sum(group_weight * terms), jnp.sum(group_weight), jax.lax.stop_gradient(metrics))
