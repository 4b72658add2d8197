"""Models that follow a script: real decoders, whose weights are chosen so that what they do is known exactly.

The first and only block copies the token before into the residual stream and the rest is silent, so a hidden state is

    hidden(t) = [one_hot(token t), one_hot(token t - 1)]     (the first token is its own predecessor)

and everything linear in the current and the previous token can be scripted. With steps of one token x and a separator | that
is a tree of steps: the distribution of the next step depends on x through the predecessor of |, its score likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprm.models import HeadConfig, LanguageModel, RewardModel, TransformerConfig, parameters, with_parameters

Model = TypeVar("Model", bound=nnx.Module)

_SHARPNESS = 300.0  # attention logits of the predecessor stand at least this times 0.3 above all others


def _config(vocabulary: int, context: int) -> TransformerConfig:
    size = max(8, vocabulary + vocabulary % 2)
    return TransformerConfig(vocab_size=vocabulary, width=2 * vocabulary, layers=1, heads=1, kv_heads=1, head_dim=size,
                             mlp_dim=1, context=context, rope_theta=100.0, tie_embeddings=False)


def _backbone(config: TransformerConfig) -> dict[str, np.ndarray]:
    """Parameters of the decoder whose final hidden state is [one_hot(token), one_hot(previous token)] * sqrt(V)."""
    vocabulary, width, size = config.vocab_size, config.width, config.head_dim
    frequency = config.rope_theta ** (-np.arange(0, size, 2) / size)
    # All queries are alike, and so are all keys; rotation makes q(p) . k(j) = sum_i cos(f_i (p - j - 1)), largest at j = p - 1.
    query = np.concatenate([np.ones(size // 2), np.zeros(size // 2)])
    key = np.concatenate([np.cos(frequency), np.sin(frequency)])
    strength = np.sqrt(_SHARPNESS * np.sqrt(size) / width)  # the norm before multiplies one_hot by sqrt(width)
    token = np.arange(vocabulary)
    values = {name: np.zeros((1, width, 1, size)) for name in ("query", "key", "value")}
    values["query"][0, :vocabulary, 0] = strength * query
    values["key"][0, :vocabulary, 0] = strength * key
    values["value"][0, token, 0, token] = width ** -0.5
    output = np.zeros((1, 1, size, width))
    output[0, 0, token, vocabulary + token] = 1.0
    embedding = np.zeros((vocabulary, width))
    embedding[token, token] = 1.0
    return {"backbone.embedding": embedding, "backbone.blocks.attention.output": output,
            **{f"backbone.blocks.attention.{name}": value for name, value in values.items()}}


def _silent(build: Callable[[], Model], values: dict[str, np.ndarray]) -> Model:
    """A model with the given parameters; scales of norms are 1, all others 0."""
    abstract = jax.eval_shape(build)
    return with_parameters(abstract, {
        name: jnp.asarray(values.get(name, np.full(value.shape, name.endswith("scale"))), value.dtype)
        for name, value in parameters(abstract).items()})


def _rows(config: TransformerConfig, after: np.ndarray, after_previous: np.ndarray | None) -> np.ndarray:
    after = np.asarray(after, np.float64)
    previous = np.zeros_like(after) if after_previous is None else np.asarray(after_previous, np.float64)
    # The final norm divides by sqrt(2 / width + eps): two entries of a hidden state are 1.
    return np.concatenate([after, previous]) * np.sqrt(2 / config.width + config.norm_eps)


def scripted_policy(after: np.ndarray, after_previous: np.ndarray | None = None, context: int = 64) -> LanguageModel:
    """A language model with next-token logits ``after[token] + after_previous[previous token]``.

    Args:
      after: [V, V], row = token just read, column = next token; finite (use -100 for "never").
      after_previous: [V, V] likewise for the token before it; absent = a bigram model.
    """
    config = _config(len(after), context)
    return _silent(lambda: LanguageModel(config, rngs=nnx.Rngs(0)),
                   {**_backbone(config), "unembedding": _rows(config, after, after_previous)})


def scripted_reward_model(score: np.ndarray, *, of_previous: bool = False, context: int = 64) -> RewardModel:
    """A reward model whose score at a token is ``score[token]``, or ``score[previous token]`` if ``of_previous``.

    Args:
      score: [V] in (0, 1). With ``of_previous`` and readout "at" a one-token step is scored at its separator by its token;
        without, readout "before" does the same.
    """
    config = _config(len(score), context)
    logit = np.log(score) - np.log1p(-np.asarray(score, np.float64))
    nothing = np.zeros_like(logit)
    kernel = _rows(config, *((nothing, logit) if of_previous else (logit, nothing)))[:, None]
    return _silent(lambda: RewardModel(config, HeadConfig("scalar"), rngs=nnx.Rngs(0)),
                   {**_backbone(config), "head.kernel": kernel})
