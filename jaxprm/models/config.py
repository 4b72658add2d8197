"""Architecture of a decoder: every field changes the maths or the memory, none is decoration."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp

from jaxprm.errors import InputError
from jaxprm.models.rope import RopeScaling

Activation = Literal["silu", "gelu_tanh"]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "dots", "full"]
AttentionKernel = Literal["blocked", "cudnn", "splash"]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A pre-norm decoder: RMSNorm, rotary positions, grouped-query attention, gated MLP.

    One class covers Qwen 2, 2.5 and 3, Llama 2 and 3, Mistral, Gemma 2 and Gemma 3 (text); the defaults are plain Llama.

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
      dtype: of activations ("float32" or "bfloat16"); softmax, norms and losses are computed in float32. Parameters are
        float32 in training; models that only read may hold them in bfloat16.
      remat: what the backward pass recomputes: "none", "dots" (everything but matrix products and
        attention) or "full".
      activation: of the MLP's gate, "silu" or "gelu_tanh" (GELU's tanh approximation, Gemma).
      mlp_bias: biases on the three projections of the MLP.
      norm_plus_one: RMSNorm multiplies by ``1 + scale`` before it rounds (Gemma).
      post_norms: RMSNorm on what attention and MLP add to the residual stream, too (Gemma 2 and 3).
      embed_scale: embeddings are multiplied by ``sqrt(width)`` (Gemma).
      query_scale: factor on attention logits; ``None`` = ``head_dim ** -0.5``.
      attention_softcap: attention logits become ``cap * tanh(logits / cap)`` before the mask (Gemma 2).
      logit_softcap: the same for a language model's next-token logits.
      windows: per layer, how many tokens a token reads, itself included; 0 = all before it. ``()`` = all layers read all.
      rope_scaling: stretched rotary positions, see `RopeScaling`.
      local_rope_theta: base of the rotary frequencies in layers with a window, which are not scaled (Gemma 3); ``None`` =
        as all other layers.
      attention: kernel for whole rows, see `jaxprm.models.attention_kernels`: "blocked" runs everywhere, "cudnn" on NVIDIA
        GPUs (bfloat16, no softcap), "splash" on TPUs. Results agree up to rounding; it is not saved with a model.
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
    dtype: Dtype = "float32"
    remat: Remat = "none"
    activation: Activation = "silu"
    mlp_bias: bool = False
    norm_plus_one: bool = False
    post_norms: bool = False
    embed_scale: bool = False
    query_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    windows: tuple[int, ...] = ()
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    attention: AttentionKernel = "blocked"

    def __post_init__(self):
        for field in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_dim", "context"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.heads % self.kv_heads:
            raise InputError(f"must divide heads = {self.heads}", field="kv_heads", value=self.kv_heads)
        if self.head_dim % 2:
            raise InputError("must be even (rotary positions turn pairs)", field="head_dim", value=self.head_dim)
        for field in ("rope_theta", "norm_eps", "query_scale", "attention_softcap", "logit_softcap", "local_rope_theta"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise InputError("must be positive", field=field, value=value)
        for field, allowed in (("dtype", Dtype), ("remat", Remat), ("activation", Activation), ("attention", AttentionKernel)):
            if getattr(self, field) not in get_args(allowed):
                raise InputError(f"must be one of {', '.join(get_args(allowed))}", field=field, value=getattr(self, field))
        if self.windows and len(self.windows) != self.layers:
            raise InputError(f"must have one number for each of the {self.layers} layers", field="windows", value=self.windows)
        if any(window < 0 for window in self.windows):
            raise InputError("must not be negative (0 = no window)", field="windows", value=self.windows)
        if self.rope_scaling is not None and self.rope_scaling.kind == "dynamic" and self.head_dim < 4:
            raise InputError("must be at least 4 for dynamic rope scaling", field="head_dim", value=self.head_dim)
        if self.local_rope_theta is not None and not any(self.windows):
            raise InputError("needs a layer with a window", field="local_rope_theta", value=self.local_rope_theta)
        if self.attention == "cudnn":
            fits_head = self.head_dim % 8 == 0 and self.head_dim <= 256
            for field, needed, fits in (("dtype", "bfloat16", self.dtype == "bfloat16"),
                                        ("head_dim", "a multiple of 8 up to 256", fits_head),
                                        ("attention_softcap", "None", self.attention_softcap is None)):
                if not fits:
                    raise InputError(f"must be {needed} for attention = 'cudnn'", field=field, value=getattr(self, field),
                                     hint="or use attention = 'blocked'")

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def attention_scale(self) -> float:
        """Factor on attention logits."""
        return self.head_dim ** -0.5 if self.query_scale is None else self.query_scale

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product per token (no embedding lookup, no norms)."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp_dim)
