"""Attention in float32 softmax: over one packed sequence, or over a shared prompt and a row's own suffix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprm.models.sharding import constrain

_MASKED = -1e30  # finite: exp(_MASKED - m) is 0, and a row without any key stays free of NaN


def causal_mask(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """True where query i may read key j: the same solution, not later, not padding (segment 0).

    In:  [1, 1, 2, 0]
    Out: [[1,0,0,0], [1,1,0,0], [0,0,1,0], [0,0,0,0]]
    """
    tokens = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same & (segment_ids[:, :, None] > 0) & jnp.tri(tokens, dtype=bool)


def within_window(mask: Bool[Array, "B T T"], positions: Int[Array, "B T"], window: Int[Array, ""]) -> Bool[Array, "B T T"]:
    """The mask of a layer whose tokens read ``window`` tokens, themselves included; 0 = no window.

    In:  causal mask of 4 tokens, window 2
    Out: [[1,0,0,0], [1,1,0,0], [0,1,1,0], [0,0,1,1]]
    """
    distance = positions[:, :, None] - positions[:, None, :]
    return mask & ((distance < window) | (window == 0))


def attend(query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"],
           mask: Bool[Array, "B T T"], scale: float, softcap: float | None = None) -> Float[Array, "B T N H"]:
    """Grouped-query attention within one buffer of tokens; N query heads, K key/value heads."""
    if key.shape[2] == 1:
        # Query heads are split over a mesh as key heads are, and one key head is whole.
        query = constrain(query, "batch", None, None, None)
    if softcap is None:
        out = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], scale=scale)
    else:
        logits = jnp.where(mask[:, None, None], _logits(query, key.swapaxes(1, 2), scale, softcap), _MASKED)
        out = _weighted(jax.nn.softmax(logits, axis=-1), value.swapaxes(1, 2)).astype(query.dtype)
    return constrain(out, "batch", None, "heads", None) if key.shape[2] == 1 else out


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
