"""Attention in float32 softmax: over packed rows, or over a shared prompt and a row's own suffix."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jaxprm.models.sharding import constrain

_MASKED = -1e30  # finite: exp(_MASKED - m) is 0, and a row without any key stays free of NaN

SAVED = "attention"
"""Name of what attention keeps for its backward pass, for policies of `jax.checkpoint`."""

QUERY_BLOCK = 128  # queries that are read at once
_SPANS = 16  # pieces of a row whose keys are cut to length; more of them compile longer and save little


def visible(query_segments: Int[Array, "B Q"], key_segments: Int[Array, "B C"], query_index: Int[Array, " Q"],
            key_index: Int[Array, " C"]) -> Bool[Array, "B Q C"]:
    """True where a query may read a key: the same solution, not later, not padding (segment 0).

    In:  segments [1, 1, 2, 0] of queries and keys, both at indices [0, 1, 2, 3]
    Out: [[1,0,0,0], [1,1,0,0], [0,0,1,0], [0,0,0,0]]
    """
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return same & (query_segments[:, :, None] > 0) & (query_index[:, None] >= key_index)


def within_window(query_positions: Int[Array, "B Q"], key_positions: Int[Array, "B C"],
                  window: int | Int[Array, ""]) -> Bool[Array, "B Q C"]:
    """True where a query reads back ``window`` tokens at most, itself included; 0 = no window.

    In:  positions [0, 1, 2, 3] of queries and keys, window 2
    Out: [[1,1,1,1], [1,1,1,1], [0,1,1,1], [0,0,1,1]], of which `visible` leaves what is not later
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    return (distance < window) | (window == 0)


def attend(query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"],
           segment_ids: Int[Array, "B T"], positions: Int[Array, "B T"], scale: float, softcap: float | None = None,
           window: Int[Array, ""] | None = None) -> Float[Array, "B T N H"]:
    """Grouped-query attention within rows of packed solutions; N query heads, K key/value heads. Padding reads zeros.

    Queries are read in blocks, each against the keys up to about its own end: nearly half of a causal matrix is never
    computed, and the logits at hand, ``[B, N, 128, T]``, grow with a row's length and not with its square. The backward pass
    keeps the result and the log-sum-exp of every query, and computes the weights of a block again from them, as
    FlashAttention-2 does (Dao 2023, arXiv:2307.08691, algorithm 2). Only reverse-mode derivatives are defined.

    Args:
      query, key, value: rotated heads of all tokens.
      segment_ids: which solution a token belongs to; 0 = padding.
      positions: of tokens within their solution; read by windows alone.
      scale: factor on logits.
      softcap: see `TransformerConfig`.
      window: int32[], tokens that a token reads, itself included (0 = all); ``None`` = the model has no windows.
    """
    one_key_head = key.shape[2] == 1
    if one_key_head:
        # Query heads are split over a mesh as key heads are, and one key head is whole.
        query = constrain(query, "batch", None, None, None)
    out = _attend(query, key, value, segment_ids, positions, window, scale, softcap)
    return constrain(out, "batch", None, "heads", None) if one_key_head else out


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _attend(query, key, value, segment_ids, positions, window, scale, softcap):
    return _attend_forward(query, key, value, segment_ids, positions, window, scale, softcap)[0]


def _attend_forward(query, key, value, segment_ids, positions, window, scale, softcap):
    query, places = _tied(query, segment_ids, positions)
    keys, values = key.swapaxes(1, 2), value.swapaxes(1, 2)

    def read(_, block, end):
        queries, at = block
        seen = _seen(at, places, end, window)
        logits = jnp.where(seen, _logits(queries, keys[:, :, :end], scale, softcap), _MASKED)
        top = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = weights.sum(-1, keepdims=True)
        out = _weighted(weights, values[:, :, :end]) / _per_query(total)
        real = (at[0] > 0)[:, :, None, None]
        lse = jnp.where(real, _per_query(top + jnp.log(total)), 0.0)
        return None, (jnp.where(real, out, 0.0).astype(queries.dtype), lse)

    read_all = [_over_blocks(read, None, (query, places), start, end)[1] for start, end in _spans(query.shape[1])]
    out, lse = (checkpoint_name(jnp.concatenate(parts, axis=1), SAVED) for parts in zip(*read_all))
    return out, (key, value, query, segment_ids, positions, window, out, lse)


def _attend_backward(scale, softcap, kept, gradient):
    key, value, query, segment_ids, positions, window, out, lse = kept
    query, places = _tied(query, segment_ids, positions)
    keys, values = key.swapaxes(1, 2), value.swapaxes(1, 2)
    # Each query's weighted mean of what its weights' gradients are, float32[B, T, N, 1].
    mean = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1, keepdims=True)

    def add(sums, block, end):
        queries, (gradients, lse, mean, at) = block
        heads = keys.shape[1]
        raw = _logits(queries, keys[:, :, :end], scale, softcap)
        weights = jnp.exp(jnp.where(_seen(at, places, end, window), raw, _MASKED) - _per_key_head(lse, heads))
        gradients, queries = _per_key_head(gradients, heads), _per_key_head(queries, heads)
        inner = jnp.einsum("rkqth,rkch->rkqtc", gradients, values[:, :, :end], preferred_element_type=jnp.float32)
        inner = weights * (inner - _per_key_head(mean, heads)) * scale
        if softcap is not None:
            inner = inner * (1 - (raw / softcap) ** 2)
        inner = inner.astype(queries.dtype)
        products = [jnp.einsum("rkqtc,rkqth->rkch", *pair, preferred_element_type=jnp.float32)
                    for pair in ((inner, queries), (weights.astype(gradients.dtype), gradients))]
        query_gradient = _weighted(inner, keys[:, :, :end]).astype(query.dtype)
        return tuple(map(jnp.add, sums, products)), query_gradient

    sums = (jnp.zeros_like(keys, jnp.float32), jnp.zeros_like(values, jnp.float32))
    parts = []
    for start, end in reversed(_spans(query.shape[1])):
        sums, query_gradient = _over_blocks(add, sums, (query, (gradient, lse, mean, places)), start, end)
        # Queries before ``start`` read no key from there on: what has been summed for those keys is complete.
        parts.append((query_gradient, *(x[:, :, start:].swapaxes(1, 2) for x in sums)))
        sums = tuple(x[:, :, :start] for x in sums)
    gradients = (jnp.concatenate(part[::-1], axis=1) for part in zip(*parts))
    return *(x.astype(like.dtype) for x, like in zip(gradients, (query, key, value))), None, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _spans(tokens: int) -> list[tuple[int, int]]:
    """Where a row is cut; the queries of a span read keys up to its end.

    In:  1000 tokens
    Out: [(0, 128), (128, 256), ..., (896, 1000)]
    """
    size = QUERY_BLOCK * -(-tokens // (QUERY_BLOCK * _SPANS))
    return [(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def _over_blocks(function, carry, values, start: int, end: int):
    """``function(carry, block of values, end) -> (carry, out)`` over the blocks of the tokens ``start .. end``, in order."""
    values = jax.tree.map(lambda x: x[:, start:end], values)
    if (end - start) % QUERY_BLOCK or end - start == QUERY_BLOCK:
        return function(carry, values, end)
    split = jax.tree.map(lambda x: x.reshape(x.shape[0], -1, QUERY_BLOCK, *x.shape[2:]).swapaxes(0, 1), values)
    carry, out = jax.lax.scan(lambda carry, block: function(carry, block, end), carry, split)
    return carry, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[1], end - start, *x.shape[3:]), out)


def _tied(query: Float[Array, "B T N H"], segment_ids: Int[Array, "B T"],
          positions: Int[Array, "B T"]) -> tuple[Array, tuple[Array, Array, Array]]:
    """The queries, and what decides which keys a token reads: segment, index in the row, position in its solution.

    Masks are the same in all layers, so the derivative of a scan over layers would compute the masks of all blocks before the
    scan and keep them, ``T * T`` bytes. The barrier ties them to the queries, and each block makes its own.
    """
    index = jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32), segment_ids.shape)
    return jax.lax.optimization_barrier((query, (segment_ids, index, positions)))


def _seen(at: tuple, places: tuple, end: int, window: Int[Array, ""] | None) -> Bool[Array, "B 1 1 Q C"]:
    (segments, index, positions), (key_segments, key_index, key_positions) = at, (x[:, :end] for x in places)
    seen = visible(segments, key_segments, index[0], key_index[0])
    if window is not None:
        seen &= within_window(positions, key_positions, window)
    return seen[:, None, None]


def _per_key_head(x: Float[Array, "R T N X"], heads: int) -> Float[Array, "R K Q T X"]:
    """Query heads of the same key head side by side."""
    return x.reshape(*x.shape[:2], heads, -1, x.shape[-1]).transpose(0, 2, 3, 1, 4)


def _per_query(x: Float[Array, "R K Q T X"]) -> Float[Array, "R T N X"]:
    """The inverse of `_per_key_head`."""
    x = x.transpose(0, 3, 1, 2, 4)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def attend_at(query: Float[Array, "B S N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"],
              at: Int[Array, "B S"], segment_ids: Int[Array, "B T"], positions: Int[Array, "B T"], scale: float,
              softcap: float | None = None, window: int = 0) -> Float[Array, "B S N H"]:
    """As `attend`, for the queries of the tokens at indices ``at`` of their rows alone; ``window`` is static."""
    one_key_head = key.shape[2] == 1
    if one_key_head:
        query = constrain(query, "batch", None, None, None)
    seen = jnp.take_along_axis(segment_ids, at, axis=1)[:, :, None] == segment_ids[:, None, :]
    seen &= (segment_ids[:, None, :] > 0) & (at[:, :, None] >= jnp.arange(key.shape[1]))
    if window:
        seen &= within_window(jnp.take_along_axis(positions, at, axis=1), positions, window)
    logits = jnp.where(seen[:, None, None], _logits(query, key.swapaxes(1, 2), scale, softcap), _MASKED)
    out = _weighted(jax.nn.softmax(logits, axis=-1), value.swapaxes(1, 2)).astype(query.dtype)
    return constrain(out, "batch", None, "heads", None) if one_key_head else out


def _logits(query: Float[Array, "R T N H"], keys: Float[Array, "R K C H"], scale: float,
            softcap: float | None) -> Float[Array, "R K Q T C"]:
    grouped = _per_key_head(query, keys.shape[1])
    if query.shape[1] == 1:
        # Keys first: with so few queries, a CPU takes longer to turn the keys than to multiply. XLA would swap the two again.
        turned = jnp.einsum("rkch,rkqth->rkcqt", keys, grouped, preferred_element_type=jnp.float32)
        logits = jnp.moveaxis(jax.lax.optimization_barrier(turned), 2, -1) * scale
    else:
        logits = jnp.einsum("rkqth,rkch->rkqtc", grouped, keys, preferred_element_type=jnp.float32) * scale
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _weighted(weights: Float[Array, "R K Q T C"], values: Float[Array, "R K C H"]) -> Float[Array, "R T N H"]:
    out = jnp.einsum("rkqtc,rkch->rkqth", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return _per_query(out)


def attend_cached(query: Float[Array, "R T N H"], keys: Float[Array, "R K C H"], values: Float[Array, "R K C H"],
                  lengths: Int[Array, " R"], prompt: tuple | None, scale: float, softcap: float | None = None,
                  window: int = 0) -> Float[Array, "R T N H"]:
    """New tokens read the prompt (one copy per problem) and their own suffix, which already holds them.

    The two parts are softmax-normalised separately and merged by log-sum-exp in float32; that equals one softmax over both.

    Args:
      query: rotated queries of the T new tokens of each row.
      keys, values: the row's suffix including the new tokens, at slots ``lengths .. lengths + T - 1``.
      lengths: int32[R], suffix tokens before the new ones.
      prompt: (keys, values [B, K, P, H], lengths int32[B]) with R = B * W, or ``None``.
      scale: factor on logits.
      softcap: see `TransformerConfig`.
      window: how many tokens of prompt and suffix together a token reads, itself included; 0 = all.
    """
    rows, tokens, heads, size = query.shape
    slot, step = jnp.arange(keys.shape[2]), lengths[:, None] + jnp.arange(tokens)  # of keys [C], of queries [R, T]
    visible = slot <= step[..., None]  # [R, T, C]
    if window:
        visible &= slot > step[..., None] - window
    logits = jnp.where(visible[:, None, None], _logits(query, keys, scale, softcap), _MASKED)
    top = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    if prompt is None:
        return _weighted(weights / total, values).astype(query.dtype)

    prompt_keys, prompt_values, prompt_lengths = prompt
    problems = prompt_keys.shape[0]
    # The W rows of a problem are W*T queries of one sequence: the prompt is read once, not W times.
    shared = query.reshape(problems, (rows // problems) * tokens, heads, size)
    place = jnp.arange(prompt_keys.shape[2])
    real = (place < prompt_lengths[:, None])[:, None]  # [B, 1, P]
    if window:
        real &= place > prompt_lengths[:, None, None] + step.reshape(problems, -1, 1) - window  # [B, W*T, P]
    prompt_logits = jnp.where(real[:, None, None], _logits(shared, prompt_keys, scale, softcap), _MASKED)
    prompt_top = prompt_logits.max(-1, keepdims=True)
    prompt_weights = jnp.exp(prompt_logits - prompt_top)
    prompt_total = prompt_weights.sum(-1, keepdims=True)

    def per_query(x):  # one number per query: [.., K, Q, W*T or T, 1] -> [R, T, N, 1]
        return _per_query(x).reshape(rows, tokens, heads, 1)

    prompt_out = _weighted(prompt_weights, prompt_values).reshape(rows, tokens, heads, size)
    suffix_out = _weighted(weights, values)
    prompt_top, prompt_total, top, total = map(per_query, (prompt_top, prompt_total, top, total))
    peak = jnp.maximum(prompt_top, top)
    prompt_scale, scale = jnp.exp(prompt_top - peak), jnp.exp(top - peak)
    out = (prompt_out * prompt_scale + suffix_out * scale) / (prompt_total * prompt_scale + total * scale)
    return out.astype(query.dtype)
