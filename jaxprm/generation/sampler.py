"""Sampling from a language model: one compiled program per shape, prompts read once and shared by their samples."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.errors import InputError
from jaxprm.generation.stops import Stops
from jaxprm.models.cache import KVCache, empty_cache
from jaxprm.models.transformer import LanguageModel, extend, logits, prefill


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn.

    Attributes:
      temperature: logits are divided by it; 0 takes the most likely token.
      top_k: keep the k most likely tokens; 0 keeps all.
      top_p: keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all. Applied after top_k.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.temperature < 0:
            raise InputError("must not be negative", field="temperature", value=self.temperature)
        if self.top_k < 0:
            raise InputError("must not be negative (0 keeps all tokens)", field="top_k", value=self.top_k)
        if not 0 < self.top_p <= 1:
            raise InputError("must be in (0, 1]", field="top_p", value=self.top_p)


def filter_logits(values: Float[Array, "R V"], config: SamplingConfig) -> Float[Array, "R V"]:
    """Logits at the temperature, with the tokens that top-k and top-p exclude at -inf.

    The most likely token always stays. Tokens tied with the last one kept stay too.
    """
    values = values.astype(jnp.float32) / config.temperature
    if 0 < config.top_k < values.shape[-1]:
        lowest = jax.lax.top_k(values, config.top_k)[0][..., -1:]
        values = jnp.where(values < lowest, -jnp.inf, values)
    if config.top_p < 1.0:
        ordered = jnp.sort(values, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities  # mass of the strictly more likely tokens
        lowest = jnp.min(jnp.where(before < config.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        values = jnp.where(values < lowest, -jnp.inf, values)
    return values


def draw(key: jax.Array, values: Float[Array, "R V"], config: SamplingConfig) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """One token per row, and its log-probability (nats) under the distribution it was drawn from.

    Args:
      key: one key for all rows, or a key per row [R]: then what a row draws does not depend on the rows beside it.
    """
    if config.temperature == 0:
        tokens = jnp.argmax(values, axis=-1).astype(jnp.int32)
        return tokens, jnp.zeros(tokens.shape, jnp.float32)
    values = filter_logits(values, config)
    tokens = _choose(key, values)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(values, axis=-1), tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen


def _choose(key: jax.Array, values: Float[Array, "R V"]) -> Int[Array, " R"]:
    """As `jax.random.categorical` over the vocabulary, the same tokens from the same key, in a third of its time on a CPU.

    XLA makes one loop of the noise and the search for the largest value, and that loop has no vector instructions: here the
    noise is complete before the search begins, and the search is a maximum and the first place where it stands.
    """
    if key.ndim:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, values.shape[1:], values.dtype))(key)
    else:
        noise = jax.random.gumbel(key, values.shape, values.dtype)
    noisy = jax.lax.optimization_barrier(noise + values)
    last = values.shape[-1] - 1
    place = jnp.where(noisy == noisy.max(-1, keepdims=True), jnp.arange(last + 1, dtype=jnp.int32), last)
    return place.min(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """W samples for each of B problems, as rows R = B * W.

    Attributes:
      tokens: int32[R, G], what was generated, padded with 0 after the end.
      log_probs: float32[R, G], of the drawn tokens (nats), 0 after the end.
      lengths: int32[R], generated tokens including the end token.
      finished: bool[R], the end token was drawn; otherwise G tokens were not enough.
      entropies: float32[R, G], entropy (nats) of the model's own distribution (temperature 1, unfiltered) where a token was
        drawn, 0 after the end; None unless asked for.
      closed: bool[R], the row stopped by itself, at the end token or the end of a step.
      written: int32[R], where `Stops` stand after these tokens; None without them.
    """

    tokens: Int[Array | np.ndarray, "R G"]
    log_probs: Float[Array | np.ndarray, "R G"]
    lengths: Int[Array | np.ndarray, " R"]
    finished: Bool[Array | np.ndarray, " R"]
    entropies: Float[Array | np.ndarray, "R G"] | None = None
    closed: Bool[Array | np.ndarray, " R"] | None = None
    written: Int[Array | np.ndarray, " R"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Generation:
    """State of rows that are being generated: the cache holds everything before ``next_logits``."""

    cache: KVCache
    next_logits: Float[Array, "R V"]


def start(model: LanguageModel, prompts: Int[Array, "B P"], lengths: Int[Array, " B"], width: int,
          capacity: int) -> Generation:
    """Reads the prompts once each and prepares ``width`` rows per problem with room for ``capacity`` tokens."""
    hidden, prompt = prefill(model.backbone, prompts, lengths)
    last = jax.vmap(lambda row, index: row[index])(hidden, lengths - 1)
    rows = prompts.shape[0] * width
    first = jnp.repeat(logits(model, last), width, axis=0, total_repeat_length=rows)
    return Generation(empty_cache(model.config, rows, capacity, prompt), first)


def entropy(values: Float[Array, "R V"]) -> Float[Array, " R"]:
    """Entropy in nats of the distributions with these logits."""
    log_probs = jax.nn.log_softmax(values.astype(jnp.float32), axis=-1)
    return -jnp.sum(jnp.exp(log_probs) * jnp.where(log_probs > -jnp.inf, log_probs, 0.0), axis=-1)


def generate(model: LanguageModel, state: Generation, key: jax.Array, active: Bool[Array, " R"], config: SamplingConfig,
             limit: int, end_id: int = -1, stop_id: int = -1, *, stops: Stops | None = None, entropies: bool = False,
             before: int | Int[Array, ""] = 0,
             written: Int[Array | np.ndarray, " R"] | None = None) -> tuple[Samples, Generation]:
    """Draws up to ``limit`` tokens per active row; a row stops after the end token or after ``stop_id`` (a step's end).

    The stopping token is read into the cache too, so the state is ready for the next step. ``Samples.finished`` says which
    rows drew the end token; a row that drew ``stop_id`` has only ended a step. Stops early when every row has stopped.

    Args:
      key: one key, or one per row [R].
      stops: says where steps and solutions end, in place of ``end_id`` and ``stop_id``.
      entropies: fill `Samples.entropies`.
      before: tokens drawn with the same key already, and ``written``: where they left ``stops``. A step drawn in two calls
        equals one drawn in a single call.
    """
    rows = active.shape[0]
    fold_in = jax.vmap(jax.random.fold_in, (0, None)) if key.ndim else jax.random.fold_in
    layers = model.backbone.layers()

    def going(carry):
        step, live, *_ = carry
        return (step < limit) & live.any()

    def body(carry):
        step, live, state, (tokens, log_probs, uncertain), lengths, finished, written = carry
        token, log_prob = draw(fold_in(key, before + step), state.next_logits, config)
        put = lambda all, new: jax.lax.dynamic_update_slice(all, jnp.where(live, new, 0)[:, None], (0, step))  # noqa: E731
        token = jnp.where(live, token, 0)
        tokens, log_probs = put(tokens, token), put(log_probs, log_prob)
        if entropies:
            uncertain = put(uncertain, entropy(state.next_logits))
        hidden, cache = extend(model.backbone, state.cache, token[:, None], live.astype(jnp.int32), layers)
        following = jnp.where(live[:, None], logits(model, hidden[:, 0]), state.next_logits)
        if stops is None:
            ended, closed = token == end_id, token == stop_id
        else:
            written = jnp.where(live, stops.table[jnp.minimum(written, stops.step - 1), token], written)
            ended, closed = written == stops.solution, written == stops.step
        return (step + 1, live & ~ended & ~closed, Generation(cache, following), (tokens, log_probs, uncertain),
                lengths + live, finished | (live & ended), written)

    zeros = jnp.zeros((rows, limit), jnp.int32)
    numbers = zeros.astype(jnp.float32)
    carry = (jnp.int32(0), active, state, (zeros, numbers, numbers if entropies else None), jnp.zeros((rows,), jnp.int32),
             jnp.zeros((rows,), bool), jnp.zeros((rows,), jnp.int32) if written is None and stops is not None else written)
    _, live, state, (tokens, log_probs, uncertain), lengths, finished, written = jax.lax.while_loop(going, body, carry)
    return Samples(tokens, log_probs, lengths, finished, uncertain, active & ~live, written), state


def sample(model: LanguageModel, key: jax.Array, prompts: Int[Array, "B P"], lengths: Int[Array, " B"], *, width: int,
           limit: int, config: SamplingConfig, end_id: int) -> Samples:
    """``width`` whole solutions for each right-padded prompt, at most ``limit`` tokens each. Compile with the keyword
    arguments static."""
    state = start(model, prompts, lengths, width, limit)
    active = jnp.ones((prompts.shape[0] * width,), bool)
    return generate(model, state, key, active, config, limit, end_id)[0]
