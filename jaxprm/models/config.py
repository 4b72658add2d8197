"""Architecture of a decoder: every field changes the maths or the memory, none is decoration."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp

from jaxprm.errors import InputError

Remat = Literal["none", "dots", "full"]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A pre-norm decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    Attributes:
      vocab_size: rows of the embedding table, V.
      width: size of the residual stream, D.
      layers: number of blocks.
      heads: query heads, N; ``kv_heads`` of them share one key/value head each ``heads // kv_heads``.
      kv_heads: key/value heads, K.
      head_dim: size of one head, H.
      mlp_dim: hidden size of the gated MLP, F.
      context: largest number of tokens (prompt and solution) the model is used with.
      rope_theta: base of the rotary frequencies.
      norm_eps: added to the mean square in every RMSNorm.
      attention_bias: biases on the query, key and value projections (Qwen2).
      output_bias: bias on the attention's output projection.
      qk_norm: RMSNorm over each query and key head before rotation (Qwen3).
      tie_embeddings: a language model reads its logits from the embedding table instead of its own matrix.
      dtype: of activations ("float32" or "bfloat16"); parameters, softmax and losses stay float32.
      remat: what the backward pass recomputes: "none", "dots" (everything but matrix products) or "full".
    """

    vocab_size: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 32
    mlp_dim: int = 384
    context: int = 512
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    attention_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        for field in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_dim", "context"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.heads % self.kv_heads:
            raise InputError(f"must divide heads = {self.heads}", field="kv_heads", value=self.kv_heads)
        if self.head_dim % 2:
            raise InputError("must be even (rotary positions turn pairs)", field="head_dim", value=self.head_dim)
        if self.rope_theta <= 0 or self.norm_eps <= 0:
            field = "rope_theta" if self.rope_theta <= 0 else "norm_eps"
            raise InputError("must be positive", field=field, value=getattr(self, field))
        for field, allowed in (("dtype", ("float32", "bfloat16")), ("remat", ("none", "dots", "full"))):
            if getattr(self, field) not in allowed:
                raise InputError(f"must be one of {', '.join(allowed)}", field=field, value=getattr(self, field))

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product per token (no embedding lookup, no norms)."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp_dim)
