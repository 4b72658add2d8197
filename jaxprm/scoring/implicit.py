"""Implicit process rewards: what a tuned language model finds more likely than the model it was tuned from.

A language model trained on outcomes with a reward of ``coefficient * log(policy / reference)`` is a process reward model as
well: the log-ratio summed up to a token is its value there (Yuan et al. 2024, "Free Process Rewards without Process Labels").
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError
from jaxprm.models.config import TransformerConfig
from jaxprm.models.sharding import constrain
from jaxprm.models.transformer import LanguageModel, forward
from jaxprm.objectives.language_model import token_log_probs
from jaxprm.steps.batch import StepBatch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImplicitModel:
    """Two language models with one vocabulary.

    Attributes:
      policy: the trained model.
      reference: the model it was trained from.
      coefficient: factor on the log-ratio (nats); 0.001 in the published models.
    """

    policy: LanguageModel
    reference: LanguageModel
    coefficient: float = dataclasses.field(default=0.001, metadata={"static": True})

    @property
    def config(self) -> TransformerConfig:
        """Of the policy; its context is what both models can read."""
        context = min(self.policy.config.context, self.reference.config.context)
        return dataclasses.replace(self.policy.config, context=context)


def implicit_scores(model: ImplicitModel, batch: StepBatch, starts: Int[Array, " B"]) -> Float[Array, "B S"]:
    """``coefficient * sum of log(policy / reference)`` from ``starts`` up to each step's read position; 0 where no step is.

    Position t stands for the prediction of token t + 1:

        tokens      q ? a | b |            starts [1], step_ends [[2, 4]]
        log-ratios  of ?, a, |, b, | at positions 0 .. 4
        scores      positions 1 + 2  (a, |),  positions 1 + 2 + 3 + 4  (a, |, b, |)

    Args:
      model: the two models.
      batch: one solution per row.
      starts: int32[B], first position that counts.

    Logits exist for a chunk of tokens at a time (`token_log_probs`), never as [B, T, V].
    """
    targets = jnp.pad(batch.tokens[:, 1:], ((0, 0), (0, 1)))
    # The reference waits for the policy, so that only one model's activations are alive.
    policy = _log_probs(model.policy, batch, targets)
    policy, tokens = jax.lax.optimization_barrier((policy, batch.tokens))
    reference = _log_probs(model.reference, dataclasses.replace(batch, tokens=tokens), targets)
    position = jnp.arange(targets.shape[1], dtype=jnp.int32)
    counts = (position >= starts[:, None]) & jnp.pad(batch.segment_ids[:, 1:] > 0, ((0, 0), (0, 1)))
    sums = jnp.cumsum(jnp.where(counts, policy - reference, 0.0), axis=1)
    return jnp.where(batch.step_mask, model.coefficient * jnp.take_along_axis(sums, batch.step_ends, axis=1), 0.0)


def step_log_probs(model: LanguageModel, batch: StepBatch) -> Float[Array, "B S"]:
    """Sum of the log-probabilities of each step's tokens, nats; rows may be packed. 0 where no step is.

    The tokens of step s are those from ``step_starts`` to ``step_ends``, both included:

        tokens      q ? a | b |            step_starts [[2, 4]], step_ends [[3, 5]]
        sums        log p(a) + log p(|),  log p(b) + log p(|)

    Policy minus reference, summed over the steps so far, are the `implicit_scores` of these steps (without the coefficient).

    Raises:
      InputError: the batch has no ``step_starts``.
    """
    if batch.step_starts is None:
        raise InputError("is missing", field="step_starts", hint="make the examples with step_starts")
    log_probs = jnp.pad(_log_probs(model, batch, jnp.pad(batch.tokens[:, 1:], ((0, 0), (0, 1))))[:, :-1], ((0, 0), (1, 0)))
    place = jnp.arange(log_probs.shape[1], dtype=jnp.int32)
    starts = jnp.where(batch.step_mask, batch.step_starts, -1)
    begins = jnp.any(starts[:, :, None] == place, axis=1)

    # Sums begin again at each step: differences of one long running sum would lose digits in long rows.
    def join(left, right):
        (left_begins, left_sum), (right_begins, right_sum) = left, right
        return left_begins | right_begins, jnp.where(right_begins, right_sum, left_sum + right_sum)

    _, sums = jax.lax.associative_scan(join, (begins, log_probs), axis=1)
    return jnp.where(batch.step_mask, jnp.take_along_axis(sums, batch.step_ends, axis=1), 0.0)


def _log_probs(model: LanguageModel, batch: StepBatch, targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
    hidden = forward(model.backbone, batch.tokens, batch.positions, batch.segment_ids)
    matrix = model.output_matrix().astype(hidden.dtype)
    return constrain(token_log_probs(hidden, matrix, targets, softcap=model.config.logit_softcap), "batch", None)
