"""Loss functions for `fit`: how a batch of the data pipeline becomes the arguments of an objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxprm.errors import InputError
from jaxprm.models.parameters import parameters
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel, forward, forward_steps
from jaxprm.objectives.language_model import next_token_cross_entropy
from jaxprm.objectives.loss import Loss
from jaxprm.scoring.implicit import step_log_probs
from jaxprm.scoring.steps import gather_steps
from jaxprm.steps.batch import StepBatch

LossFunction = Callable[[Any, Mapping[str, Array]], Loss]


def language_model_loss(model: LanguageModel, batch: Mapping[str, Array]) -> Loss:
    """Cross-entropy of the tokens in ``loss_mask``, each predicted from the token before it.

    In:  tokens [q ? a b E], loss_mask [0 0 1 1 1]
    Out: targets at q ? a b: [? a b E], of which [0 1 1 1] count
    """
    hidden = forward(model.backbone, batch["tokens"], batch["positions"], batch["segment_ids"])
    return next_token_cross_entropy(hidden[:, :-1], model.output_matrix().astype(hidden.dtype), batch["tokens"][:, 1:],
                                    batch["loss_mask"][:, 1:], softcap=model.config.logit_softcap)


def step_loss(objective: Callable[..., Loss], *, language_model: float = 0.0, value_weight: float | None = None,
              anchor: Mapping[str, Array] | None = None, backbone_gradient: float = 1.0, **hyperparameters) -> LossFunction:
    """A loss function that applies an objective of `jaxprm.objectives` to the outputs at step ends.

    Args:
      objective: over steps; ``groups`` of the batch reach it if it takes them.
      language_model: weight of a language model's cross-entropy (nats per step term) on the tokens of the steps that are
        labelled right, from the same hidden states (value and language model together: OVM, Yu et al. 2024; AlphaMath). It
        needs ``step_starts`` in the batch, and a model with an output matrix.
      value_weight: for a head with two outputs, reward and value (BiRM): the objective is applied to the first output with
        the labels, and to the second with the batch's ``values``, times this weight. ``None`` = all outputs at once.
      anchor: parameters of the head (``head.*``) which it should stay near; their squared distance reaches the objective as
        ``distance`` (ActPRM; `ensemble_anchor`).
      backbone_gradient: factor in [0, 1] on the gradient that the objective sends from the head into the backbone, which a
        policy shares with its reward model (1e-4 in the released code of MetaStone-S1's SPRM); the head's own, and that of
        ``language_model``, are as without it.
      **hyperparameters: of the objective.

    Raises:
      InputError: a negative weight; in the loss function, a column that the batch lacks.
    """
    for field, value in (("language_model", language_model), ("value_weight", value_weight or 0.0)):
        if value < 0:
            raise InputError("must not be negative", field=field, value=value)
    if not 0 <= backbone_gradient <= 1:
        raise InputError("must be in [0, 1]", field="backbone_gradient", value=backbone_gradient)

    def loss(model: RewardModel, batch: Mapping[str, Array]) -> Loss:
        steps = StepBatch(**batch)
        rows = steps.tokens, steps.positions, steps.segment_ids
        if language_model:
            hidden = forward(model.backbone, *rows)
            read = gather_steps(hidden, steps.step_ends)
        else:
            read = forward_steps(model.backbone, *rows, steps.step_ends, derivative=True)
        if backbone_gradient != 1:
            # The difference is 0, so that the values stay as they are, bit for bit.
            read = jax.lax.stop_gradient(read) + backbone_gradient * (read - jax.lax.stop_gradient(read))
        outputs = model.outputs(read, steps.partners)
        more = dict(hyperparameters)
        if anchor is not None:
            more["distance"] = _squared_distance(model, anchor)
        if value_weight is None:
            judged = _apply(objective, outputs, steps, more)
        else:
            values = _column(steps, "values")
            judged = _apply(objective, outputs[..., :1], steps, more)
            value = _apply(objective, outputs[..., 1:], steps, more, labels=values)
            judged = Loss(judged.total + value_weight * value.total, judged.weight,
                          judged.metrics | {f"value_{name}": pair for name, pair in value.metrics.items()})
        if not language_model:
            return judged
        right = steps.step_mask & steps.label_mask & (steps.labels > 0.5)
        place = jnp.arange(steps.tokens.shape[1])
        inside = (_column(steps, "step_starts")[:, :, None] <= place) & (place <= steps.step_ends[:, :, None])
        return _with_language_model(judged, model, hidden, steps, jnp.any(inside & right[:, :, None], axis=1), language_model)

    return loss


def token_loss(objective: Callable[..., Loss], language_model: float, **hyperparameters) -> LossFunction:
    """`step_loss` on labels of single tokens, and a language model's loss on the tokens that are labelled right.

    Both ideas are those of the verifiers of Cobbe et al. (2021, arXiv:2110.14168, section 4): every token is a lesson, and the
    language model keeps alive what the backbone expects at each place, so that the model only has to compare it with
    what stands there. Without it a small model unlearns sums before it has learnt to check them.

    Args:
      objective: as for `step_loss`; the examples label every token of their steps (`jaxprm.labeling.token_labels`).
      language_model: weight of the language model's cross-entropy (nats per labelled token).

    Raises:
      InputError: ``language_model`` is negative, or the model has no output matrix.
    """
    if language_model < 0:
        raise InputError("must not be negative", field="language_model", value=language_model)

    def loss(model: RewardModel, batch: Mapping[str, Array]) -> Loss:
        steps = StepBatch(**batch)
        hidden = forward(model.backbone, steps.tokens, steps.positions, steps.segment_ids)
        judged = _apply(objective, model.outputs(gather_steps(hidden, steps.step_ends)), steps, hyperparameters)
        right = steps.step_mask & steps.label_mask & (steps.labels > 0.5)
        at = steps.step_ends[:, :, None] == jnp.arange(steps.tokens.shape[1])
        return _with_language_model(judged, model, hidden, steps, jnp.any(at & right[:, :, None], axis=1), language_model)

    return loss


def implicit_loss(objective: Callable[..., Loss], **hyperparameters) -> LossFunction:
    """A loss function for a language model that becomes an implicit process reward model.

    The objective's outputs ``[B, S, 1]`` are the log-ratios to the reference, summed over each step's tokens, nats; the batch
    brings the reference's part of them as ``reference`` (`jaxprm.training.implicit`).
    """

    def loss(model: LanguageModel, batch: Mapping[str, Array]) -> Loss:
        steps = StepBatch(**batch)
        ratios = step_log_probs(model, steps) - _column(steps, "reference")
        return _apply(objective, ratios[..., None], steps, hyperparameters)

    return loss


def _apply(objective: Callable[..., Loss], outputs: Float[Array, "B S K"], steps: StepBatch, hyperparameters: Mapping,
           labels: Float[Array, "B S"] | None = None) -> Loss:
    segments = jnp.take_along_axis(steps.segment_ids, steps.step_ends, axis=1)  # which solution a step belongs to
    more = dict(hyperparameters)
    if steps.groups is not None and "groups" in inspect.signature(objective).parameters:
        more["groups"] = steps.groups
    return objective(outputs, steps.labels if labels is None else labels, jnp.logical_and(steps.step_mask, steps.label_mask),
                     weights=steps.weights, segments=segments, **more)


def _with_language_model(judged: Loss, model: RewardModel, hidden: Float[Array, "B T D"], steps: StepBatch,
                         learnt: Bool[Array, "B T"], weight: float) -> Loss:
    """Adds ``weight`` times the cross-entropy of the learnt tokens, summed over them, to the total."""
    learnt = learnt & (steps.positions > 0)  # the first token of a text has nothing before it
    predicted = next_token_cross_entropy(hidden[:, :-1], model.output_matrix().astype(hidden.dtype), steps.tokens[:, 1:],
                                         learnt[:, 1:], softcap=model.config.logit_softcap)
    metrics = judged.metrics | {"language_model": (predicted.total, predicted.weight)}
    return Loss(judged.total + weight * predicted.total, judged.weight, metrics)


def _squared_distance(model: RewardModel, anchor: Mapping[str, Array]) -> Float[Array, ""]:
    values = parameters(model)
    return sum(jnp.sum(jnp.square(values[name] - start)) for name, start in anchor.items())


def _column(steps: StepBatch, name: str) -> Array:
    column = getattr(steps, name)
    if column is None:
        raise InputError("is missing in the batch", field=name, hint=f"make the examples with {name}")
    return column
