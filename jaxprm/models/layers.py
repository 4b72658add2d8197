"""The parts of a decoder block: RMSNorm, grouped-query attention, gated MLP."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxprm.models.config import TransformerConfig
from jaxprm.models.linear import project
from jaxprm.models.rope import rotate

_ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


class RMSNorm(nnx.Module):
    """``x / sqrt(mean(x^2) + eps) * scale`` over the last axis (Zhang & Sennrich 2019), the quotient in float32.

    It rounds where transformers does: before the scale, or after ``1 + scale`` if ``norm_plus_one``.
    """

    def __init__(self, size: int, config: TransformerConfig):
        start = jnp.zeros if config.norm_plus_one else jnp.ones
        self.scale = nnx.Param(start((size,), jnp.float32))
        self.config = config

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        wide, scale = x.astype(jnp.float32), self.scale[...]
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.config.norm_eps)
        if self.config.norm_plus_one:
            return (wide * (1 + scale.astype(jnp.float32))).astype(x.dtype)
        return (wide.astype(x.dtype) * scale).astype(x.dtype)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * fan_in ** -0.5)


class Attention(nnx.Module):
    """Projections of grouped-query attention; how keys are read is the caller's ``read(query, key, value)``."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        width, heads, kv_heads, size = config.width, config.heads, config.kv_heads, config.head_dim
        self.query = _normal(rngs, (width, heads, size), width)
        self.key = _normal(rngs, (width, kv_heads, size), width)
        self.value = _normal(rngs, (width, kv_heads, size), width)
        self.output = _normal(rngs, (heads, size, width), heads * size * 2 * config.layers)
        if config.attention_bias:
            self.query_bias = nnx.Param(jnp.zeros((heads, size), jnp.float32))
            self.key_bias = nnx.Param(jnp.zeros((kv_heads, size), jnp.float32))
            self.value_bias = nnx.Param(jnp.zeros((kv_heads, size), jnp.float32))
        if config.output_bias:
            self.output_bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        if config.qk_norm:
            self.query_norm = RMSNorm(size, config)
            self.key_norm = RMSNorm(size, config)
        self.config = config

    def __call__(self, x: Float[Array, "B T D"], angles: tuple[Array, Array], read: Callable,
                 pick: Callable | None = None) -> Float[Array, "B T_out D"]:
        """With ``pick``, see `Block`, only the tokens it keeps ask; all are read."""
        query = project(x if pick is None else pick(x), self.query[...], ("embed", "heads", None))
        key = project(x, self.key[...], ("embed", "kv_heads", None))
        value = project(x, self.value[...], ("embed", "kv_heads", None))
        if self.config.attention_bias:
            query = query + self.query_bias[...].astype(x.dtype)
            key = key + self.key_bias[...].astype(x.dtype)
            value = value + self.value_bias[...].astype(x.dtype)
        if self.config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        asking = angles if pick is None else jax.tree.map(pick, angles)
        mixed = read(rotate(query, asking), rotate(key, angles), value)
        out = project(mixed, self.output[...], ("heads", None, "embed"), inputs=2)
        return out + self.output_bias[...].astype(x.dtype) if self.config.output_bias else out


class GatedMLP(nnx.Module):
    """``down(activation(gate(x)) * up(x))`` (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.gate = _normal(rngs, (config.width, config.mlp_dim), config.width)
        self.up = _normal(rngs, (config.width, config.mlp_dim), config.width)
        self.down = _normal(rngs, (config.mlp_dim, config.width), config.mlp_dim * 2 * config.layers)
        if config.mlp_bias:
            self.gate_bias = nnx.Param(jnp.zeros((config.mlp_dim,), jnp.float32))
            self.up_bias = nnx.Param(jnp.zeros((config.mlp_dim,), jnp.float32))
            self.down_bias = nnx.Param(jnp.zeros((config.width,), jnp.float32))
        self.config = config

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate = project(x, self.gate[...], ("embed", "mlp"))
        up = project(x, self.up[...], ("embed", "mlp"))
        if self.config.mlp_bias:
            gate, up = gate + self.gate_bias[...].astype(x.dtype), up + self.up_bias[...].astype(x.dtype)
        out = project(_ACTIVATIONS[self.config.activation](gate) * up, self.down[...], ("mlp", "embed"))
        return out + self.down_bias[...].astype(x.dtype) if self.config.mlp_bias else out


class Block(nnx.Module):
    """Pre-norm residual block; with ``post_norms`` what it adds to the stream is normed, too."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width, config)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.width, config)
        self.mlp = GatedMLP(config, rngs)
        if config.post_norms:
            self.attention_post_norm = RMSNorm(config.width, config)
            self.mlp_post_norm = RMSNorm(config.width, config)
        self.config = config

    def __call__(self, x: Float[Array, "B T D"], angles: tuple[Array, Array], read: Callable,
                 pick: Callable | None = None) -> Float[Array, "B T_out D"]:
        """``pick`` keeps some of the tokens of an array [B, T, ...]: only they leave the block, and only for them is computed
        what no other token needs (all but keys and values)."""
        mixed = self.attention(self.attention_norm(x), angles, read, pick)
        if pick is not None:
            x = pick(x)
        x = x + (self.attention_post_norm(mixed) if self.config.post_norms else mixed)
        out = self.mlp(self.mlp_norm(x))
        return x + (self.mlp_post_norm(out) if self.config.post_norms else out)
