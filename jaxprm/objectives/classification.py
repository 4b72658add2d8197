"""Step classification: is this step right? Each labelled step is a term of its own.

Labels are probabilities in [0, 1] that the step is right: 0 and 1 for hard labels, anything between for soft ones (the
share of rollouts that ended well, say). All maths is done in float32, from logits, so that it stays finite for any
finite logit.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import LabeledSteps, means
from jaxprm.objectives.validation import check_class_weights, check_number, check_outputs


def binary_cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float | Float[Array, ""] = 0.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Cross-entropy of a scalar head: ``-y log sigmoid(z) - (1 - y) log sigmoid(-z)`` per labelled step.

    Args:
      outputs: `[B, S, 1]`, the logit of "the step is right".
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      class_weights: (wrong, right): factors on the two parts of each term, and on its weight in the mean. A batch of
        hard labels thus has the weighted mean of torch's cross-entropy. 1 and 1 if absent.
      label_smoothing: share e of each label that is spread over both classes: ``y (1 - e) + e / 2``.
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here, where every step is a term of its own.

    Returns:
      Loss in nats; its weight is the summed weight of the labelled steps. Metrics: `accuracy` (score above .5 against
      label above .5) and `positives` (mean label).

    Raises:
      InputError: a hyperparameter out of range.
    """
    del segments
    check_outputs(outputs, 1, "binary_cross_entropy")
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    z = steps.outputs[..., 0]
    log_probs = jnp.stack([jax.nn.log_sigmoid(-z), jax.nn.log_sigmoid(z)], axis=-1)
    targets = jnp.stack([1 - steps.labels, steps.labels], axis=-1)
    agree = (z > 0) == (steps.labels > 0.5)
    return _class_mean(log_probs, targets, agree, steps, class_weights, label_smoothing)


def cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float | Float[Array, ""] = 0.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Cross-entropy of a head with a logit per class: ``- sum_k t_k log softmax(outputs)_k`` per labelled step.

    Two outputs are (wrong, right), the order of two-class token-classification checkpoints, in which class 1 is the good
    step; the target is (1 - y, y). With one-hot labels this is the loss of TRL's PRMTrainer before its mean over the
    micro-batch. Three outputs are (wrong, neutral, right), the ratings -1, 0, +1 of PRM800K (Lightman et al. 2023,
    arXiv:2305.20050): a label of one half is a neutral step, and a label between two classes is shared by these two:

      label    0    .25    .5    .75    1
      wrong    1     .5     0      0    0
      neutral  0     .5     1     .5    0
      right    0      0     0     .5    1

    Args:
      outputs: `[B, S, 2]` or `[B, S, 3]`, logits.
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      class_weights: one factor per class, as in `binary_cross_entropy`.
      label_smoothing: share of each target that is spread evenly over the classes.
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here, where every step is a term of its own.

    Returns:
      Loss in nats, with the weight and metrics of `binary_cross_entropy`; the `accuracy` of three classes counts the steps
      whose largest logit belongs to the class with the largest target.

    Raises:
      InputError: a hyperparameter out of range.
    """
    del segments
    check_outputs(outputs, (2, 3), "cross_entropy")
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    y = steps.labels
    if outputs.shape[-1] == 2:
        targets = jnp.stack([1 - y, y], axis=-1)
        agree = (steps.outputs[..., 1] > steps.outputs[..., 0]) == (y > 0.5)
    else:
        targets = jnp.stack([jnp.maximum(1 - 2 * y, 0), 1 - jnp.abs(2 * y - 1), jnp.maximum(2 * y - 1, 0)], axis=-1)
        agree = jnp.argmax(steps.outputs, axis=-1) == jnp.argmax(targets, axis=-1)
    return _class_mean(jax.nn.log_softmax(steps.outputs, axis=-1), targets, agree, steps, class_weights, label_smoothing)


def _class_mean(log_probs: Float[Array, "B S C"], targets: Float[Array, "B S C"], agree: Bool[Array, "B S"],
                steps: LabeledSteps, class_weights, label_smoothing) -> Loss:
    classes = log_probs.shape[-1]
    check_number("label_smoothing", label_smoothing, 0, 1, closed="low")
    factors = jnp.array(check_class_weights(class_weights, classes))
    targets = (1 - label_smoothing) * targets + label_smoothing / classes
    total = -jnp.sum(steps.weights * jnp.sum(factors * targets * log_probs, axis=-1))
    share = steps.weights if class_weights is None else steps.weights * jnp.sum(factors * targets, axis=-1)
    return Loss(total, jnp.sum(share), means(steps.weights, accuracy=agree, positives=steps.labels))
