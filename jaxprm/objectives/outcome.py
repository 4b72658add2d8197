"""Step losses for labels that are only copies of the outcome: every step of a solution is labelled with how it ended."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import LabeledSteps, loss_of, means, solution_sets
from jaxprm.objectives.validation import check_class_weights, check_number, check_outputs


def buffer_cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    beta: float | Float[Array, ""] = 0.5,
    last_weight: float | Float[Array, ""] = 1.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Cross-entropy with a third class that takes what a copied label leaves open (FreePRM, Sun et al. 2025, arXiv:2506.03570).

      step before the last    -log(p_label + beta p_buffer)
      last labelled step      -log p_right, or -log(1 - p_right) = -log(p_wrong + p_buffer)

    A right step in a solution that went wrong later can so put its mass into the buffer instead of unlearning itself. The
    last step is its outcome, so no buffer helps it to be right. The authors' loss is not released; these are the
    probabilities of their released evaluation. A soft label mixes the two logarithms.

    Args:
      outputs: `[B, S, 3]`, logits of (wrong, right, buffer).
      labels: outcome of the step's solution, copied to the step; read only where `mask`.
      mask: which steps are labelled.
      beta: share of the buffer that counts for the label, in [0, 1].
      last_weight: factor on the weight of the last labelled step of each solution, at least 0.
      weights: weight of each step, 1 if absent.
      segments: which solution of the row each step belongs to; by default a row is one solution.

    Returns:
      Loss in nats; its weight is the summed weight of the labelled steps. Metrics: `accuracy` (the more likely of right and
      wrong against label above .5), `positives` (mean label) and `buffer` (mean p_buffer).

    Raises:
      InputError: a hyperparameter out of range.
    """
    check_outputs(outputs, 3, "buffer_cross_entropy")
    check_number("beta", beta, 0, 1)
    check_number("last_weight", last_weight, 0)
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    last = solution_sets(mask, segments).last(steps.mask)
    log_probs = jax.nn.log_softmax(steps.outputs, axis=-1)
    wrong, right, buffer = (log_probs[..., k] for k in range(3))
    shares = jnp.stack([jnp.ones_like(wrong), jnp.where(last, 1.0, beta)], axis=-1)
    is_wrong = jax.nn.logsumexp(jnp.stack([wrong, buffer], axis=-1), axis=-1, b=shares)
    shares = jnp.stack([jnp.ones_like(right), jnp.where(last, 0.0, beta)], axis=-1)
    is_right = jax.nn.logsumexp(jnp.stack([right, buffer], axis=-1), axis=-1, b=shares)
    terms = -steps.labels * is_right - (1 - steps.labels) * is_wrong
    return loss_of(terms, jnp.where(last, last_weight, 1.0) * steps.weights, positives=steps.labels,
                   accuracy=(right > wrong) == (steps.labels > 0.5), buffer=jnp.exp(buffer))


def self_supervised(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    positive_weight: float | Float[Array, ""] = 1.5,
    class_weights: Sequence[float] | None = None,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Binary cross-entropy against the outcome, on the steps that agree with it already (SPRM of MetaStone-S1, Wang et al.
    2025, arXiv:2507.01951).

    A step counts where its logit has the sign of its solution's outcome (or is 0, where a new head starts); the others are
    taken to be right steps of wrong solutions, or the other way round, and are left alone. With n_+ and n_- such steps that
    count, and n = n_+ + n_- + 2:

      weight of a step = positive_weight (n_- + 1) / n  if its outcome is right,  (n_+ + 1) / n  if it is wrong

    The authors scale the gradient into the policy by 1e-4, which is ``backbone_gradient`` of `jaxprm.training.step_loss`.

    Args:
      outputs: `[B, S, 1]`, the logit of "the step is right".
      labels: outcome of the step's solution, right where at least 0.5; read only where `mask`.
      mask: which steps are labelled.
      positive_weight: see above; positive.
      class_weights: (wrong, right) instead of the weights from the batch's own counts. These make the loss depend on what
        stands in a batch together: micro-batches add up to the full batch with fixed weights only.
      weights: weight of each step, 1 if absent; n_+ and n_- are sums of them.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss in nats; its weight is the summed weight of the steps that count. Metrics: `accuracy` and `positives` of all
      labelled steps, as in `binary_cross_entropy`.

    Raises:
      InputError: a hyperparameter out of range.
    """
    del segments
    check_outputs(outputs, 1, "self_supervised")
    check_number("positive_weight", positive_weight, 0, closed="neither")
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    z = steps.outputs[..., 0]
    signed = jnp.where(steps.right, z, -z)
    counts = steps.weights * (signed >= 0)
    if class_weights is None:
        wrong, right = jnp.sum(counts * steps.wrong) + 1, jnp.sum(counts * steps.right) + 1
        of_wrong, of_right = right / (wrong + right), positive_weight * wrong / (wrong + right)
    else:
        of_wrong, of_right = check_class_weights(class_weights, 2)
    loss = loss_of(-jax.nn.log_sigmoid(signed), counts * jnp.where(steps.right, of_right, of_wrong))
    metrics = means(steps.weights, accuracy=(z > 0) == (steps.labels > 0.5), positives=steps.labels)
    return Loss(loss.total, loss.weight, metrics)
