"""Losses for labels that may be wrong: Monte-Carlo labels, copied outcomes, judges that err.

All of them read a step's log-odds of being right: the output itself (K = 1), or the difference right - wrong of a two-way head
(K = 2). A loss ``f(log-odds)`` of a right step becomes the loss ``y f(z) + (1 - y) f(-z)`` of a step whose label is y.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import LabeledSteps, loss_of
from jaxprm.objectives.validation import check_class_weights, check_number, check_outputs, is_static


def generalized_cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    q: float | Float[Array, ""] = 0.7,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """``(1 - p^q) / q`` with p the probability of the label (Zhang & Sabuncu 2018, arXiv:1805.07836, equation 6).

    Between cross-entropy (q -> 0), which learns fast and learns every wrong label too, and the mean absolute error (q = 1),
    which withstands label noise and learns slowly. A step of which the model is sure that its label is wrong pulls less
    the larger q is.

    Args:
      outputs: `[B, S, 1]` or `[B, S, 2]`; see the module.
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      q: in (0, 1].
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss (at most 1 / q per step), with the weight and metrics of `binary_cross_entropy`.

    Raises:
      InputError: q out of range.
    """
    del segments
    check_number("q", q, 0, 1, closed="high")
    steps, z = _log_odds(outputs, labels, mask, weights, "generalized_cross_entropy")
    return _mean(_by_label(lambda z: -jnp.expm1(q * jax.nn.log_sigmoid(z)) / q, z, steps.labels), z, steps)


def focal(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    gamma: float | Float[Array, ""] = 2.0,
    class_weights: Sequence[float] | None = None,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """``-(1 - p)^gamma log p`` with p the probability of the label (Lin et al. 2017, arXiv:1708.02002, equation 4).

    Easy steps, of which a solution has many before its first error, count less than hard ones; gamma = 0 is cross-entropy.

    Args:
      outputs: `[B, S, 1]` or `[B, S, 2]`; see the module.
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      gamma: at least 0.
      class_weights: (wrong, right), as in `binary_cross_entropy`: the paper's alpha, of (1 - alpha, alpha).
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss in nats, with the weight and metrics of `binary_cross_entropy`.

    Raises:
      InputError: a hyperparameter out of range.
    """
    del segments
    check_number("gamma", gamma, 0)
    factors = check_class_weights(class_weights, 2)
    steps, z = _log_odds(outputs, labels, mask, weights, "focal")

    def of_right(z):
        return -jnp.exp(gamma * jax.nn.log_sigmoid(-z)) * jax.nn.log_sigmoid(z)

    wrong, right = factors[0] * (1 - steps.labels), factors[1] * steps.labels
    plain = _mean(right * of_right(z) + wrong * of_right(-z), z, steps)
    weight = plain.weight if class_weights is None else jnp.sum(steps.weights * (wrong + right))
    return Loss(plain.total, weight, plain.metrics)


def symmetric_cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    alpha: float | Float[Array, ""] = 0.1,
    beta: float | Float[Array, ""] = 1.0,
    log_zero: float | Float[Array, ""] = -4.0,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Cross-entropy and its mirror image (Wang et al. 2019, arXiv:1908.06112), for noisy labels.

      loss = alpha * CE(label, p) + beta * CE(p, label),     CE(p, label) = - sum_k p_k max(log label_k, log_zero)

    The second term asks whether the label is likely under the prediction: it is bounded, and linear in p for hard labels,
    so that a wrong label cannot pull without end.

    Args:
      outputs: `[B, S, 1]` or `[B, S, 2]`; see the module.
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      alpha: factor of the cross-entropy, at least 0 (the paper's value for its ten-class data).
      beta: factor of the mirrored cross-entropy, at least 0.
      log_zero: stands for log 0, and bounds every log of a label from below; negative.
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss in nats, with the weight and metrics of `binary_cross_entropy`.

    Raises:
      InputError: a hyperparameter out of range.
    """
    del segments
    check_number("alpha", alpha, 0)
    check_number("beta", beta, 0)
    check_number("log_zero", log_zero, high=0, closed="low")
    steps, z = _log_odds(outputs, labels, mask, weights, "symmetric_cross_entropy")
    straight = _by_label(lambda z: -jax.nn.log_sigmoid(z), z, steps.labels)
    log_label = jnp.maximum(jnp.log(steps.labels), log_zero)
    log_other = jnp.maximum(jnp.log1p(-steps.labels), log_zero)
    mirrored = -jax.nn.sigmoid(z) * log_label - jax.nn.sigmoid(-z) * log_other
    return _mean(alpha * straight + beta * mirrored, z, steps)


def forward_corrected_cross_entropy(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    false_right: float | Float[Array, ""] = 0.1,
    false_wrong: float | Float[Array, ""] = 0.1,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Cross-entropy of the *label* that known noise makes of the truth (Patrini et al. 2017, arXiv:1609.03683, theorem 2).

      P(label right) = (1 - false_wrong) p + false_right (1 - p),      p = P(step is right)

    The optimum for p is then the probability of the truth, not of the label. A Monte-Carlo labeller errs in both ways: the
    policy recovers after a wrong step (`false_right`) or finds no way on from a right one (`false_wrong`); both rates can
    be measured on tasks with an exact verifier.

    Args:
      outputs: `[B, S, 1]` or `[B, S, 2]`; see the module.
      labels: probability that the step is *labelled* right; read only where `mask`.
      mask: which steps are labelled.
      false_right: P(labelled right | step is wrong), in [0, 1).
      false_wrong: P(labelled wrong | step is right), in [0, 1); the two add up to less than 1.
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss in nats, with the weight and metrics of `binary_cross_entropy`.

    Raises:
      InputError: a rate out of range.
    """
    del segments
    for field, value in (("false_right", false_right), ("false_wrong", false_wrong)):
        check_number(field, value, 0, 1, closed="low")
    if is_static(false_right) and is_static(false_wrong) and false_right + false_wrong >= 1:
        raise InputError("must add up to less than 1 with false_wrong", field="false_right", value=false_right,
                         hint="labels that err more often than that say the opposite of what they should")
    steps, z = _log_odds(outputs, labels, mask, weights, "forward_corrected_cross_entropy")
    truths = jnp.stack([jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)], axis=-1)  # right, wrong
    labeled_right = jax.nn.logsumexp(truths, axis=-1, b=jnp.stack([1.0 - false_wrong, jnp.float32(false_right)]))
    labeled_wrong = jax.nn.logsumexp(truths, axis=-1, b=jnp.stack([jnp.float32(false_wrong), 1.0 - false_right]))
    return _mean(-steps.labels * labeled_right - (1 - steps.labels) * labeled_wrong, z, steps)


def _log_odds(outputs, labels, mask, weights, name: str) -> tuple[LabeledSteps, Float[Array, "B S"]]:
    check_outputs(outputs, (1, 2), name)
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    return steps, steps.outputs[..., 0] if outputs.shape[-1] == 1 else steps.outputs[..., 1] - steps.outputs[..., 0]


def _by_label(of_right, z: Float[Array, "B S"], labels: Float[Array, "B S"]) -> Float[Array, "B S"]:
    return labels * of_right(z) + (1 - labels) * of_right(-z)


def _mean(terms: Float[Array, "B S"], z: Float[Array, "B S"], steps: LabeledSteps) -> Loss:
    return loss_of(terms, steps.weights, accuracy=(z > 0) == (steps.labels > 0.5), positives=steps.labels)
