"""The parts of a decoder block: RMSNorm, rotary positions, grouped-query attention, gated MLP."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxprm.models.config import TransformerConfig
from jaxprm.models.linear import project


class RMSNorm(nnx.Module):
    """``x / sqrt(mean(x^2) + eps) * scale`` over the last axis, in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float):
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * inverse * self.scale[...]).astype(x.dtype)


def rotary_angles(positions: Int[Array, "B T"], head_dim: int, theta: float) -> tuple[Array, Array]:
    """(cos, sin) float32[B, T, 1, H/2] of the rotary embedding (Su et al. 2021), half-split layout as in Llama and Qwen."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B T N H"], angles: tuple[Array, Array]) -> Float[Array, "B T N H"]:
    """Turns the pairs (x[i], x[i + H/2]) by the position's angles."""
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


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
            self.query_norm = RMSNorm(size, config.norm_eps)
            self.key_norm = RMSNorm(size, config.norm_eps)
        self.config = config

    def __call__(self, x: Float[Array, "B T D"], angles: tuple[Array, Array], read: Callable) -> Float[Array, "B T D"]:
        query = project(x, self.query[...], ("embed", "heads", None))
        key = project(x, self.key[...], ("embed", "kv_heads", None))
        value = project(x, self.value[...], ("embed", "kv_heads", None))
        if self.config.attention_bias:
            query = query + self.query_bias[...].astype(x.dtype)
            key = key + self.key_bias[...].astype(x.dtype)
            value = value + self.value_bias[...].astype(x.dtype)
        if self.config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        mixed = read(rotate(query, angles), rotate(key, angles), value)
        out = project(mixed, self.output[...], ("heads", None, "embed"), inputs=2)
        return out + self.output_bias[...].astype(x.dtype) if self.config.output_bias else out


class GatedMLP(nnx.Module):
    """``down(silu(gate(x)) * up(x))`` (SwiGLU, Shazeer 2020)."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.gate = _normal(rngs, (config.width, config.mlp_dim), config.width)
        self.up = _normal(rngs, (config.width, config.mlp_dim), config.width)
        self.down = _normal(rngs, (config.mlp_dim, config.width), config.mlp_dim * 2 * config.layers)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate = project(x, self.gate[...], ("embed", "mlp"))
        up = project(x, self.up[...], ("embed", "mlp"))
        return project(jax.nn.silu(gate) * up, self.down[...], ("mlp", "embed"))


class Block(nnx.Module):
    """Pre-norm residual block."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = GatedMLP(config, rngs)

    def __call__(self, x: Float[Array, "B T D"], angles: tuple[Array, Array], read: Callable) -> Float[Array, "B T D"]:
        x = x + self.attention(self.attention_norm(x), angles, read)
        return x + self.mlp(self.mlp_norm(x))
