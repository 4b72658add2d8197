"""Attention in float32 softmax: over one packed sequence, or over a shared prompt and a row's own suffix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_MASKED = -1e30  # finite: exp(_MASKED - m) is 0, and a row without any key stays free of NaN


def causal_mask(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """True where query i may read key j: the same solution, not later, not padding (segment 0).

    In:  [1, 1, 2, 0]
    Out: [[1,0,0,0], [1,1,0,0], [0,0,1,0], [0,0,0,0]]
    """
    tokens = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same & (segment_ids[:, :, None] > 0) & jnp.tri(tokens, dtype=bool)


def attend(query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"],
           mask: Bool[Array, "B T T"]) -> Float[Array, "B T N H"]:
    """Grouped-query attention within one buffer of tokens; N query heads, K key/value heads."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])


def _logits(query: Float[Array, "R T N H"], keys: Float[Array, "R K C H"]) -> Float[Array, "R K Q T C"]:
    rows, tokens, heads, size = query.shape
    grouped = query.reshape(rows, tokens, keys.shape[1], heads // keys.shape[1], size).transpose(0, 2, 3, 1, 4)
    logits = jnp.einsum("rkqth,rkch->rkqtc", grouped, keys, preferred_element_type=jnp.float32)
    return logits * (size ** -0.5)


def _weighted(weights: Float[Array, "R K Q T C"], values: Float[Array, "R K C H"]) -> Float[Array, "R T N H"]:
    rows, kv_heads, group, tokens, _ = weights.shape
    out = jnp.einsum("rkqtc,rkch->rkqth", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, kv_heads * group, values.shape[-1])


def attend_cached(query: Float[Array, "R T N H"], keys: Float[Array, "R K C H"], values: Float[Array, "R K C H"],
                  lengths: Int[Array, " R"], prompt: tuple | None) -> Float[Array, "R T N H"]:
    """New tokens read the prompt (one copy per problem) and their own suffix, which already holds them.

    The two parts are softmax-normalised separately and merged by log-sum-exp in float32; that equals one softmax over both.

    Args:
      query: rotated queries of the T new tokens of each row.
      keys, values: the row's suffix including the new tokens, at slots ``lengths .. lengths + T - 1``.
      lengths: int32[R], suffix tokens before the new ones.
      prompt: (keys, values [B, K, P, H], lengths int32[B]) with R = B * W, or ``None``.
    """
    rows, tokens, heads, size = query.shape
    slot, step = jnp.arange(keys.shape[2]), jnp.arange(tokens)
    visible = slot[None, None, :] <= lengths[:, None, None] + step[None, :, None]  # [R, T, C]
    logits = jnp.where(visible[:, None, None], _logits(query, keys), _MASKED)
    top = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    if prompt is None:
        return _weighted(weights / total, values).astype(query.dtype)

    prompt_keys, prompt_values, prompt_lengths = prompt
    problems = prompt_keys.shape[0]
    # The W rows of a problem are W*T queries of one sequence: the prompt is read once, not W times.
    shared = query.reshape(problems, (rows // problems) * tokens, heads, size)
    real = jnp.arange(prompt_keys.shape[2]) < prompt_lengths[:, None]  # [B, P]
    prompt_logits = jnp.where(real[:, None, None, None], _logits(shared, prompt_keys), _MASKED)
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
