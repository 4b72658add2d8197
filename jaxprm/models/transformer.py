"""The one decoder under scoring, sampling, search and training.

`forward` reads whole (packed) rows; `prefill` does the same for prompts and keeps their keys and values; `extend` reads new
tokens after a cache. All three run the same blocks, so reading a text in pieces equals reading it at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxprm.models import attention, linear
from jaxprm.models.attention import attend_at, attend_cached
from jaxprm.models.attention_kernels import attention_kernel
from jaxprm.models.cache import KVCache, PromptCache, split_heads, write
from jaxprm.models.config import TransformerConfig
from jaxprm.models.layers import Block, RMSNorm
from jaxprm.models.rope import rotary_angles, text_lengths
from jaxprm.models.sharding import constrain, gathered, out_sharding

# Attention is matrix products, too: "dots" keeps its result, which is no larger than the queries.
_REMAT_POLICIES = {"dots": jax.checkpoint_policies.save_from_both_policies(
                       jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
                       jax.checkpoint_policies.save_only_these_names(attention.SAVED, linear.SAVED)),
                   "full": jax.checkpoint_policies.nothing_saveable}

_SHALLOW_LAYERS = 8  # so few may be compiled one by one for training, which compiles one program
_UNROLLED_LAYERS = 4  # the same for reading, which compiles a program per length and keeps nothing for a derivative


class Transformer(nnx.Module):
    """Embedding, a stack of blocks (each parameter has a leading layer axis) and a final norm; no output matrix."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.vocab_size, config.width), jnp.float32)
                                   * config.width ** -0.5)
        keys = jax.random.split(rngs.params(), config.layers)
        self.blocks = jax.vmap(lambda key: Block(config, nnx.Rngs(params=key)))(keys)
        self.final_norm = RMSNorm(config.width, config)

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        table, dtype = constrain(self.embedding[...], None, None), self.config.compute_dtype
        x = table.at[tokens].get(out_sharding=out_sharding("batch", None, None))
        if self.config.embed_scale:
            # Rounded to bfloat16 only where transformers would do so: weights and activations are both of that type.
            x = x.astype(jnp.promote_types(x.dtype, dtype))
            x = x * jnp.asarray(self.config.width ** 0.5, x.dtype)
        return x.astype(dtype)

    def layer(self, index: int | Int[Array, ""]) -> Block:
        return jax.tree.map(lambda parameter: parameter[index], self.blocks)

    def layers(self) -> list[Block]:
        """All layers apart, a copy of the weights: for a loop that calls `extend`. Taking layers by index within the loop would
        copy them in every turn, because XLA does not move slices out of loops."""
        return [self.layer(index) for index in range(self.config.layers)]


def forward(model: Transformer, tokens: Int[Array, "B T"], positions: Int[Array, "B T"],
            segment_ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Final hidden states of packed rows; a token reads only earlier tokens of its own segment. Padding is segment 0."""
    return _run(model, tokens, positions, segment_ids, keep=False)[0]


def forward_steps(model: Transformer, tokens: Int[Array, "B T"], positions: Int[Array, "B T"], segment_ids: Int[Array, "B T"],
                  step_ends: Int[Array, "B S"], *, derivative: bool = False) -> Float[Array, "B S D"]:
    """`forward`, read at step ends: the last block computes nothing for other tokens but their keys and values.

    Layers are taken by index, which copies no weights; a derivative would pay for it with a buffer of all weights per layer.
    With ``derivative``, the weights of a shallow model are cut into the last layer's and the others' instead, and a deep one
    computes its last block for all tokens. So does a shallow one if there are more step ends in a row than queries in a block
    of attention, because attention at step ends keeps its weights, ``[B, N, S, T]``, for the derivative.
    """
    config, last = model.config, model.config.layers - 1
    if derivative and (config.layers > _SHALLOW_LAYERS or step_ends.shape[1] > attention.QUERY_BLOCK):
        return gather_steps(forward(model, tokens, positions, segment_ids), step_ends)
    everywhere, local = _angles(config, positions, lambda: text_lengths(positions, segment_ids))
    body, windows = _reader(config, everywhere, local, positions, segment_ids, keep=False)
    x = model.embed(tokens)
    if derivative:
        others = jax.tree.map(lambda values: values[:last], (model.blocks, windows))
        x, _ = jax.lax.scan(body, x, others, unroll=_unroll(config, last))
    else:
        x, _ = jax.lax.scan(lambda x, index: body(x, (model.layer(index), None if windows is None else windows[index])), x,
                            jnp.arange(last), unroll=max(last, 1) if last < _UNROLLED_LAYERS else 1)

    def pick(values):
        return gather_steps(values, step_ends)

    def end(x, block):
        window = config.windows[last] if config.windows else 0

        def read(query, key, value):
            return attend_at(query, key, value, step_ends, segment_ids, positions, config.attention_scale,
                             config.attention_softcap, window)

        return block(x, local if window else everywhere, read, pick)

    return model.final_norm(_remat(config, end)(x, model.layer(last)))


def gather_steps(values: Float[Array, "B T ..."], step_ends: Int[Array, "B S"]) -> Float[Array, "B S ..."]:
    """What stands at step ends.

    In:  values of [q, s, s, SEP, s, SEP], step_ends [3, 5]
    Out: those of the two SEP tokens
    """
    pick = jax.vmap(lambda row, ends: row.at[ends].get(mode="clip"))
    if out_sharding() is None:
        return pick(values, step_ends)
    return jnp.take_along_axis(values, step_ends.reshape(*step_ends.shape, *[1] * (values.ndim - 2)), axis=1)


def prefill(model: Transformer, tokens: Int[Array, "B P"], lengths: Int[Array, " B"]) -> tuple[Array, PromptCache]:
    """Reads right-padded prompts of ``lengths`` tokens; returns hidden states [B, P, D] and the cache to share."""
    slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    segment_ids = (slots < lengths[:, None]).astype(jnp.int32)
    positions = jnp.broadcast_to(slots, tokens.shape)
    hidden, (keys, values) = _run(model, tokens, positions, segment_ids, keep=True)
    layers = range(model.config.layers)
    keys, values = (tuple(split_heads(part[i]) for i in layers) for part in (keys, values))
    return hidden, PromptCache(keys, values, lengths)


def _angles(config: TransformerConfig, positions: Int[Array, "B T"], lengths: Callable[[], Int[Array, "B T"]]) -> tuple:
    """Rotary angles of layers without and with a window."""
    scaling, dtype = config.rope_scaling, config.compute_dtype
    texts = lengths() if scaling is not None and scaling.kind == "dynamic" else None
    everywhere = rotary_angles(positions, config.head_dim, config.rope_theta, scaling, texts, dtype)
    if config.local_rope_theta is None:
        return everywhere, everywhere
    return everywhere, rotary_angles(positions, config.head_dim, config.local_rope_theta, dtype=dtype)


def _layer_angles(config: TransformerConfig, everywhere: tuple, local: tuple, window: Int[Array, ""] | None) -> tuple:
    if config.local_rope_theta is None:
        return everywhere
    return jax.tree.map(lambda near, far: jnp.where(window > 0, near, far), local, everywhere)


def _reader(config: TransformerConfig, everywhere: tuple, local: tuple, positions: Int[Array, "B T"],
            segment_ids: Int[Array, "B T"], keep: bool) -> tuple[Callable, Int[Array, " L"] | None]:
    """What a scan does to packed rows: ``(x, (block, window)) -> (x, keys and values if kept)``; the windows of all layers."""
    attend = attention_kernel(config)
    windows = jnp.asarray(config.windows, jnp.int32) if any(config.windows) else None  # None: layers are all alike

    def body(x, layer: tuple[Block, Array | None]):
        block, window = layer
        kept = None

        def read(query, key, value):
            nonlocal kept
            kept = (key.swapaxes(1, 2), value.swapaxes(1, 2)) if keep else None
            return attend(query, key, value, segment_ids, positions, window)

        return block(x, _layer_angles(config, everywhere, local, window), read), kept

    return _remat(config, body), windows


def _remat(config: TransformerConfig, function: Callable) -> Callable:
    return function if config.remat == "none" else jax.checkpoint(function, policy=_REMAT_POLICIES[config.remat])


def _unroll(config: TransformerConfig, layers: int) -> int:
    """How many layers a scan over ``layers`` of them compiles one by one.

    A rolled loop keeps residuals of all layers in stacked, zero-filled buffers; for a shallow model that costs more time than
    is won by compiling one layer. With rematerialisation there is little to keep, and XLA's CPU backend would join what an
    unrolled loop computes again with what it has computed, and keep it all.
    """
    return max(layers, 1) if config.layers <= _SHALLOW_LAYERS and config.remat == "none" else 1


def _run(model: Transformer, tokens, positions, segment_ids, keep: bool):
    config = model.config
    angles = _angles(config, positions, lambda: text_lengths(positions, segment_ids))
    body, windows = _reader(config, *angles, positions, segment_ids, keep)
    x, kept = jax.lax.scan(body, model.embed(tokens), (model.blocks, windows), unroll=_unroll(config, config.layers))
    return model.final_norm(x), kept


def extend(model: Transformer, cache: KVCache, tokens: Int[Array, "R T"], lengths: Int[Array, " R"],
           layers: list[Block] | None = None) -> tuple[Float[Array, "R T D"], KVCache]:
    """Reads ``lengths[r] <= T`` new tokens of each row after what its cache holds.

    Args:
      cache: needs room: ``cache.lengths + T <= cache.capacity`` for every row.
      tokens: right-padded; what stands behind ``lengths`` is read into slots that the next call overwrites.
      lengths: int32[R]; 0 leaves a row as it was.
      layers: `Transformer.layers`, taken before a loop.

    Returns:
      Hidden states [R, T, D] (entries at or after ``lengths`` are meaningless) and the longer cache.
    """
    config = model.config
    positions = cache.positions[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    everywhere, local = _angles(config, positions, lambda: jnp.broadcast_to((cache.positions + lengths)[:, None], tokens.shape))
    windows = config.windows or (0,) * config.layers
    x = model.embed(tokens)
    keys, values = [], []
    layers = model.layers() if layers is None else layers
    for index in range(config.layers):

        def read(query, key, value, index=index):
            keys.append(write(cache.keys[index], key.swapaxes(1, 2), cache.lengths))
            values.append(write(cache.values[index], value.swapaxes(1, 2), cache.lengths))
            prompt = cache.prompt and (cache.prompt.keys[index], cache.prompt.values[index], cache.prompt.lengths)
            return attend_cached(query, keys[-1], values[-1], cache.lengths, prompt, config.attention_scale,
                                 config.attention_softcap, windows[index])

        x = layers[index](x, local if windows[index] else everywhere, read)
    cache = dataclasses.replace(cache, keys=tuple(keys), values=tuple(values), lengths=cache.lengths + lengths)
    return model.final_norm(x), cache


class LanguageModel(nnx.Module):
    """A decoder with next-token logits; the output matrix is the embedding table if ``tie_embeddings``."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.backbone = Transformer(config, rngs=rngs)
        if not config.tie_embeddings:
            self.unembedding = nnx.Param(
                jax.random.normal(rngs.params(), (config.width, config.vocab_size), jnp.float32) * config.width ** -0.5)

    @property
    def config(self) -> TransformerConfig:
        return self.backbone.config

    def output_matrix(self) -> Float[Array, "D V"]:
        matrix = self.backbone.embedding[...].T if self.config.tie_embeddings else self.unembedding[...]
        return gathered(matrix, "embed", "vocab")


def logits(model: LanguageModel, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Next-token logits, float32."""
    values = jnp.matmul(hidden, model.output_matrix().astype(hidden.dtype), preferred_element_type=jnp.float32)
    cap = model.config.logit_softcap
    return values if cap is None else cap * jnp.tanh(values / cap)
