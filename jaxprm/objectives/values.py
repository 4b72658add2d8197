"""Losses on values: how likely a step leads to the right answer, as a number, as quantiles, or by a committee."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.objectives.loss import Loss
from jaxprm.objectives.steps import LabeledSteps, loss_of
from jaxprm.objectives.validation import check_choice, check_number, check_outputs


def mean_squared_error(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    link: Literal["sigmoid", "identity"] = "sigmoid",
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """``(value - label)^2`` per labelled step (Brier's score where the value is a probability).

    The regression of Monte-Carlo values of OVM (Yu et al. 2024, arXiv:2311.09724), ReST-MCTS (Zhang et al. 2024,
    arXiv:2406.03816) and PQM's baseline.

    Args:
      outputs: `[B, S, 1]`.
      labels: the value to be learnt, in [0, 1] for the sigmoid, any number for the identity; read only where `mask`.
      mask: which steps are labelled.
      link: how an output becomes a value: "sigmoid" for a head that is scored by its sigmoid, "identity" for one that is
        scored as it is (a `value` head).
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss in squared units of the label; its weight is the summed weight of the labelled steps. Metrics:
      `absolute_error` and `positives` (mean label).

    Raises:
      InputError: an unknown link.
    """
    del segments
    check_outputs(outputs, 1, "mean_squared_error")
    check_choice("link", link, ("sigmoid", "identity"))
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    values = jax.nn.sigmoid(steps.outputs[..., 0]) if link == "sigmoid" else steps.outputs[..., 0]
    error = values - steps.labels
    return loss_of(error**2, steps.weights, absolute_error=jnp.abs(error), positives=steps.labels)


def quantile(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    levels: Sequence[float] = (0.1, 0.5, 0.9),
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Pinball loss of a head with one output per quantile of the success rate (Koenker & Bassett 1978).

      loss = mean over the levels a of max(a (y - v_a), (a - 1) (y - v_a)),      v_a = sigmoid(output a)

    Its optimum is the quantile: a share a of the labels lies below v_a. Used for PRMs that say how sure they are.

    Args:
      outputs: `[B, S, K]`, one logit per level.
      labels: success rate in [0, 1]; read only where `mask`.
      mask: which steps are labelled.
      levels: the K levels, increasing, in (0, 1).
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss in units of the label; its weight is the summed weight of the labelled steps. Metrics: `coverage` (share of labels
      between the lowest and the highest quantile) and `width` (mean distance of these two).

    Raises:
      InputError: levels that do not increase in (0, 1), or are not as many as the outputs.
    """
    del segments
    check_outputs(outputs, None, "quantile")
    if isinstance(levels, str) or not isinstance(levels, Sequence) or len(levels) != outputs.shape[-1]:
        raise InputError(f"must hold one level for each of the {outputs.shape[-1]} outputs", field="levels", value=levels)
    for level in levels:
        check_number("levels", level, 0, 1, closed="neither")
    if any(low >= high for low, high in zip(levels, levels[1:])):
        raise InputError("must increase", field="levels", value=levels)
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    values = jax.nn.sigmoid(steps.outputs)
    above = steps.labels[..., None] - values
    level = jnp.array(levels, jnp.float32)
    terms = jnp.mean(jnp.maximum(level * above, (level - 1) * above), axis=-1)
    low, high = jnp.min(values, axis=-1), jnp.max(values, axis=-1)
    inside = (low <= steps.labels) & (steps.labels <= high)
    return loss_of(terms, steps.weights, coverage=inside, width=high - low)


def ensemble_anchor(
    outputs: Float[Array, "B S K"],
    labels: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    *,
    distance: float | Float[Array, ""] = 0.0,
    strength: float | Float[Array, ""] = 0.5,
    weights: Float[Array, "B S"] | None = None,
    segments: Int[Array, "B S"] | None = None,
) -> Loss:
    """Mean binary cross-entropy of the members of an ensemble, kept apart by their initial values (ActPRM, Duan et al. 2025,
    arXiv:2504.10559).

      mean = mean over members and steps of BCE + strength * distance

    Members that only fit the labels would grow alike; one that is tied to where it started disagrees with the others where
    the data says little. That disagreement is what active labelling looks at (`jaxprm.labeling.trust`).

    Args:
      outputs: `[B, S, E]`, one logit per member.
      labels: probability that the step is right; read only where `mask`.
      mask: which steps are labelled.
      distance: ``||theta - theta_init||^2`` of the head's parameters, summed; differentiated through where it is traced.
      strength: the paper's lambda, at least 0.
      weights: weight of each step, 1 if absent.
      segments: part of the contract of step objectives; no difference here.

    Returns:
      Loss in nats, with the weight and metrics of `binary_cross_entropy` (for the mean of the members' probabilities), and
      `disagreement`, the standard deviation of these. Where nothing is labelled it is 0, the anchor included.

    Raises:
      InputError: a hyperparameter out of range.
    """
    del segments
    check_outputs(outputs, None, "ensemble_anchor")
    check_number("distance", distance, 0)
    check_number("strength", strength, 0)
    steps = LabeledSteps.read(outputs, labels, mask, weights)
    y = steps.labels[..., None]
    members = -y * jax.nn.log_sigmoid(steps.outputs) - (1 - y) * jax.nn.log_sigmoid(-steps.outputs)
    probabilities = jax.nn.sigmoid(steps.outputs)
    agree = (jnp.mean(probabilities, axis=-1) > 0.5) == (steps.labels > 0.5)
    loss = loss_of(jnp.mean(members, axis=-1), steps.weights, accuracy=agree, positives=steps.labels,
                   disagreement=jnp.std(jax.lax.stop_gradient(probabilities), axis=-1))
    return Loss(loss.total + strength * distance * loss.weight, loss.weight, loss.metrics)
