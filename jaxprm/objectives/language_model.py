"""Next-token cross-entropy and log-probabilities from hidden states, without large `[B, T, V]` logits."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.objectives.loss import Loss

DIRECT_LOGITS = 2**24
"""Largest B * T * V for which the logits are held at once (64 MiB in float32)."""


def next_token_cross_entropy(
    hidden: Float[Array, "B T D"],
    unembedding: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Loss:
    """Cross-entropy of a language model on the masked targets.

    `targets[b, t]` is the token that `hidden[b, t]` predicts, so the caller shifts once and sees what is trained:

      tokens   =  7  3  9  2  0      0 = padding
      targets  =  3  9  2  0  0      tokens shifted left by one
      mask     =  1  1  1  0  0      the last real token predicts nothing

    Args:
      hidden: final hidden states (after the last norm), any float dtype.
      unembedding: output matrix; the logits are accumulated in float32.
      targets: token ids to predict; read only where `mask`.
      mask: which positions are trained on.
      chunk: positions of T whose logits exist at the same time; by default all where they are few (`DIRECT_LOGITS`).
        Less memory, same result; the backward pass recomputes the logits chunk by chunk.
      softcap: logits become ``softcap * tanh(logits / softcap)`` (Gemma 2; before the temperature).

    Returns:
      Loss in nats; its weight is the number of masked positions. Metric: `accuracy` (the target is the most likely
      token).
    """
    # Positions that train nothing may hold anything, not-a-number included: keep it out of the unembedding's gradient.
    hidden = jnp.where(mask[..., None], hidden, 0)
    targets = jnp.where(mask, targets, 0)

    def terms(logits, targets):
        chosen = _at(logits, targets)
        return jax.nn.logsumexp(logits, axis=-1) - chosen, chosen >= jnp.max(logits, axis=-1)

    loss, hit = _map_logits(terms, hidden, unembedding, targets, chunk, softcap)
    weights = mask.astype(jnp.float32)
    weight = jnp.sum(weights)
    metrics = {"accuracy": (jnp.sum(weights * hit), weight)}
    return Loss(total=jnp.sum(weights * loss), weight=weight, metrics=jax.lax.stop_gradient(metrics))


def token_log_probs(
    hidden: Float[Array, "B T D"],
    unembedding: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    temperature: float | Float[Array, ""] = 1.0,
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T"]:
    """``log softmax(hidden @ unembedding / temperature)`` at `targets`, in nats.

    Arguments as in `next_token_cross_entropy`. Give the temperature at which the tokens were sampled: a policy gradient
    compares log-probabilities of the same distribution.
    """

    def log_prob(logits, targets):
        logits = logits / temperature
        return _at(logits, targets) - jax.nn.logsumexp(logits, axis=-1)

    return _map_logits(log_prob, hidden, unembedding, targets, chunk, softcap)


def token_entropies(
    hidden: Float[Array, "B T D"],
    unembedding: Float[Array, "D V"],
    temperature: float | Float[Array, ""] = 1.0,
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T"]:
    """Entropy in nats of ``softmax(hidden @ unembedding / temperature)`` at every position."""

    def entropy(logits, _):
        log_probs = jax.nn.log_softmax(logits / temperature, axis=-1)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)

    return _map_logits(entropy, hidden, unembedding, jnp.zeros(hidden.shape[:2], jnp.int32), chunk, softcap)


def _at(logits: Float[Array, "B C V"], targets: Int[Array, "B C"]) -> Float[Array, "B C"]:
    # A comparison instead of a gather: it stays local where V is sharded, and XLA fuses it into the reduction.
    columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    return jnp.sum(jnp.where(columns == targets[..., None], logits, 0), axis=-1)


def _map_logits(function: Callable, hidden, unembedding, targets, chunk: int | None, softcap: float | None):
    """``function(logits[B, C, V], targets[B, C])``, in chunks of C positions, its results joined to `[B, T]`."""
    batch, length, _ = hidden.shape
    vocabulary = unembedding.shape[1]
    if chunk is None:
        chunk = max(1, DIRECT_LOGITS // (batch * vocabulary))
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")

    def apply(hidden, targets):
        logits = jnp.einsum("btd,dv->btv", hidden, unembedding, preferred_element_type=jnp.float32)
        return function(logits if softcap is None else softcap * jnp.tanh(logits / softcap), targets)

    if chunk >= length:
        return apply(hidden, targets)
    count = -(-length // chunk)
    padding = count * chunk - length

    def split(x):  # [B, T, ...] -> [count, B, chunk, ...]; the batch axis is never cut, so it may be sharded
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, count, chunk, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(batch, count * chunk)[:, :length]

    results = jax.lax.map(jax.checkpoint(lambda pair: apply(*pair)), (split(hidden), split(targets)))
    return jax.tree.map(join, results)
