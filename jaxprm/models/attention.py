"""Attention in float32 softmax: over packed rows, or over a shared prompt and a row's own suffix."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.models.sharding import constrain

_MASKED = -1e30  # finite: exp(_MASKED - m) is 0, and a row without any key stays free of NaN


_BLOCK = 128  # queries that are read at once
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
    """Grouped-query attention within rows of packed solutions; N query heads, K key/value heads.

    Queries are read in blocks, each against the keys up to about its own end: nearly half of a causal matrix is never
    computed, and the logits at hand, ``[B, N, 128, T]``, stay in a processor's cache where ``[B, N, T, T]`` would not. The
    backward pass computes the weights of a block again instead of keeping those of all.

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
    tokens = query.shape[1]
    index = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), segment_ids.shape)
    keys, values = key.swapaxes(1, 2), value.swapaxes(1, 2)

    @functools.partial(jax.checkpoint, static_argnums=1)
    def read(block, end):
        query, segments, at, places = block
        seen = visible(segments, segment_ids[:, :end], at[0], index[0, :end])
        if window is not None:
            seen &= within_window(places, positions[:, :end], window)
        logits = _logits(query, keys[:, :, :end], scale, softcap)
        logits = jnp.where(seen[:, None, None], logits, _MASKED)
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
        total = weights.sum(-1).transpose(0, 3, 1, 2).reshape(query.shape[:3])
        return (_weighted(weights, values[:, :, :end]) / total[..., None]).astype(query.dtype)

    outs = []
    span = _BLOCK * -(-tokens // (_BLOCK * _SPANS))
    for start in range(0, tokens, span):
        end = min(start + span, tokens)
        piece = tuple(x[:, start:end] for x in (query, segment_ids, index, positions))
        if (end - start) % _BLOCK or end - start == _BLOCK:
            outs.append(read(piece, end))
        else:  # block after block, all with the keys of the span
            split = tuple(x.reshape(x.shape[0], -1, _BLOCK, *x.shape[2:]).swapaxes(0, 1) for x in piece)
            out = jax.lax.map(lambda block, end=end: read(block, end), split)
            outs.append(out.swapaxes(0, 1).reshape(piece[0].shape))
    out = jnp.concatenate(outs, axis=1)
    return constrain(out, "batch", None, "heads", None) if one_key_head else out


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
    rows, tokens, heads, size = query.shape
    grouped = query.reshape(rows, tokens, keys.shape[1], heads // keys.shape[1], size).transpose(0, 2, 3, 1, 4)
    logits = jnp.einsum("rkqth,rkch->rkqtc", grouped, keys, preferred_element_type=jnp.float32) * scale
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _weighted(weights: Float[Array, "R K Q T C"], values: Float[Array, "R K C H"]) -> Float[Array, "R T N H"]:
    rows, kv_heads, group, tokens, _ = weights.shape
    out = jnp.einsum("rkqtc,rkch->rkqth", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, kv_heads * group, values.shape[-1])


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
        return x.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, heads, 1)

    prompt_out = _weighted(prompt_weights, prompt_values).reshape(rows, tokens, heads, size)
    suffix_out = _weighted(weights, values)
    prompt_top, prompt_total, top, total = map(per_query, (prompt_top, prompt_total, top, total))
    peak = jnp.maximum(prompt_top, top)
    prompt_scale, scale = jnp.exp(prompt_top - peak), jnp.exp(top - peak)
    out = (prompt_out * prompt_scale + suffix_out * scale) / (prompt_total * prompt_scale + total * scale)
    return out.astype(query.dtype)
