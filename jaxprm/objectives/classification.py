"""Step classification: is this step right? Each labelled step is a term of its own.

Labels are probabilities in [0, 1] that the step is right: 0 and 1 for hard labels, anything between for soft ones (the
share of rollouts that ended well, say). All maths is done in float32, from logits, so that it stays finite for any
finite logit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss


def binary_cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Cross-entropy of a scalar head: ``-y log sigmoid(z) - (1 - y) log sigmoid(-z)`` per labelled step.

    Args:
      outputs: `[B, S, 1]`, the logit of "the step is right".
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here, where every step is a term of its own.

    Returns:
      Loss in nats; its weight is the summed weight of the labelled steps. Metrics: `accuracy` (score above .5 against
      label above .5) and `positives` (mean label).
    """
    del segments
    _check_outputs(outputs, 1, "binary_cross_entropy")
    logits = jnp.where(mask, outputs[..., 0].astype(jnp.float32), 0)
    labels = jnp.where(mask, labels.astype(jnp.float32), 0)
    terms = optax.losses.sigmoid_binary_cross_entropy(logits, labels)
    return _step_mean(terms, logits > 0, labels, mask, weights)


def cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Cross-entropy of a two-way head: ``-y log p_1 - (1 - y) log p_0``, ``p = softmax(outputs)``, per labelled step.

    Column 0 is "wrong" (-), column 1 is "right" (+): the order of two-class token-classification checkpoints, in which
    class 1 is the good step. With one-hot labels this is the loss of TRL's PRMTrainer before its mean over the
    micro-batch.

    Args:
      outputs: `[B, S, 2]`, logits (wrong, right).
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here, where every step is a term of its own.

    Returns:
      Loss in nats, with the weight and metrics of `binary_cross_entropy`.
    """
    del segments
    _check_outputs(outputs, 2, "cross_entropy")
    logits = jnp.where(mask[..., None], outputs.astype(jnp.float32), 0)
    labels = jnp.where(mask, labels.astype(jnp.float32), 0)
    targets = jnp.stack([1 - labels, labels], axis=-1)
    terms = -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    return _step_mean(terms, logits[..., 1] > logits[..., 0], labels, mask, weights)


def _step_mean(terms, predictions, labels, mask, weights) -> Loss:
    weights = mask.astype(jnp.float32) if weights is None else jnp.where(mask, weights.astype(jnp.float32), 0)
    weight = jnp.sum(weights)
    agree = (predictions == (labels > 0.5)).astype(jnp.float32)
    metrics = {"accuracy": (jnp.sum(weights * agree), weight), "positives": (jnp.sum(weights * labels), weight)}
    return Loss(total=jnp.sum(weights * terms), weight=weight, metrics=jax.lax.stop_gradient(metrics))


def _check_outputs(outputs, count: int, name: str) -> None:
    if outputs.ndim != 3 or outputs.shape[-1] != count:
        raise ValueError(f"{name} takes outputs [B, S, {count}], not {list(outputs.shape)}")
