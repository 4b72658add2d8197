"""Loss functions for `fit`: how a batch of the data pipeline becomes the arguments of an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array

from jaxprm.errors import InputError
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel, forward
from jaxprm.objectives.language_model import next_token_cross_entropy
from jaxprm.objectives.loss import Loss
from jaxprm.scoring.steps import gather_steps, step_outputs
from jaxprm.steps.batch import StepBatch


def language_model_loss(model: LanguageModel, batch: Mapping[str, Array]) -> Loss:
    """Cross-entropy of the tokens in ``loss_mask``, each predicted from the token before it.

    In:  tokens [q ? a b E], loss_mask [0 0 1 1 1]
    Out: targets at q ? a b: [? a b E], of which [0 1 1 1] count
    """
    hidden = forward(model.backbone, batch["tokens"], batch["positions"], batch["segment_ids"])
    return next_token_cross_entropy(hidden[:, :-1], model.output_matrix().astype(hidden.dtype), batch["tokens"][:, 1:],
                                    batch["loss_mask"][:, 1:], softcap=model.config.logit_softcap)


def step_loss(objective: Callable[..., Loss], **hyperparameters) -> Callable[[RewardModel, Mapping[str, Array]], Loss]:
    """A loss function that applies an objective of `jaxprm.objectives` to the outputs at step ends."""

    def loss(model: RewardModel, batch: Mapping[str, Array]) -> Loss:
        steps = StepBatch(**batch)
        return _apply(objective, step_outputs(model, steps), steps, hyperparameters)

    return loss


def token_loss(objective: Callable[..., Loss], language_model: float,
               **hyperparameters) -> Callable[[RewardModel, Mapping[str, Array]], Loss]:
    """`step_loss` on labels of single tokens, and a language model's loss on the tokens that are labelled right.

    Both ideas are those of the verifiers of Cobbe et al. (2021, arXiv:2110.14168, section 4): every token is a lesson, and the
    language model keeps alive what the backbone expects at each place, so that the model only has to compare it with
    what stands there. Without it a small model unlearns sums before it has learnt to check them.

    Args:
      objective: as for `step_loss`; the examples label every token of their steps (`jaxprm.labeling.token_labels`).
      language_model: weight of the language model's cross-entropy (nats per labelled token); its output matrix is the
        embedding table.

    Raises:
      InputError: ``language_model`` is negative, or the model was made for an output matrix of its own.
    """
    if language_model < 0:
        raise InputError("must not be negative", field="language_model", value=language_model)

    def loss(model: RewardModel, batch: Mapping[str, Array]) -> Loss:
        if not model.config.tie_embeddings:
            raise InputError("a reward model reads its language model's logits from its embedding table",
                             field="tie_embeddings", value=False)
        steps = StepBatch(**batch)
        hidden = forward(model.backbone, steps.tokens, steps.positions, steps.segment_ids)
        judged = _apply(objective, model.head(gather_steps(hidden, steps.step_ends)), steps, hyperparameters)
        right = steps.step_mask & steps.label_mask & (steps.labels > 0.5)
        at = steps.step_ends[:, :, None] == jnp.arange(steps.tokens.shape[1])
        learnt = jnp.any(at & right[:, :, None], axis=1)
        matrix = model.backbone.embedding[...].T.astype(hidden.dtype)
        predicted = next_token_cross_entropy(hidden[:, :-1], matrix, steps.tokens[:, 1:], learnt[:, 1:],
                                             softcap=model.config.logit_softcap)
        metrics = judged.metrics | {"language_model": (predicted.total, predicted.weight)}
        return Loss(judged.total + language_model * predicted.total, judged.weight, metrics)

    return loss


def _apply(objective, outputs, steps: StepBatch, hyperparameters: Mapping) -> Loss:
    segments = jnp.take_along_axis(steps.segment_ids, steps.step_ends, axis=1)  # which solution a step belongs to
    return objective(outputs, steps.labels, jnp.logical_and(steps.step_mask, steps.label_mask), weights=steps.weights,
                     segments=segments, **hyperparameters)
