"""Which kernel computes attention over whole rows: our own, which runs everywhere, or one made for a kind of machine.

All read the same arguments and give what `jaxprm.models.attention.attend` gives; incremental reading (`attend_cached`) has
one implementation. A kernel is chosen by `TransformerConfig.attention`, never by looking at the machine; one that cannot run
here is refused when the model is traced, before anything is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError
from jaxprm.models.attention import SAVED, attend, within_window
from jaxprm.models.config import TransformerConfig
from jaxprm.models.sharding import ShardingRules, constrain, has_mesh

_BLOCK = 128  # rows are padded to a multiple: the splash kernel's smallest block, and cuDNN's backward pass wants it, too
_LARGEST_BLOCK = 512
_BACKENDS = {"cudnn": "gpu", "splash": "tpu"}


def attention_kernel(config: TransformerConfig) -> Callable[..., Float[Array, "B T N H"]]:
    """``(query, key, value, segment_ids, positions, window) -> out`` as in `attend`, by ``config.attention``.

    Raises:
      InputError: this machine cannot run the kernel.
    """
    if config.attention == "blocked":
        return lambda query, key, value, segment_ids, positions, window: attend(
            query, key, value, segment_ids, positions, config.attention_scale, config.attention_softcap, window)
    backend = jax.default_backend()
    if backend != _BACKENDS[config.attention]:
        raise InputError(f"runs on a {_BACKENDS[config.attention].upper()}, this machine offers a {backend.upper()}",
                         field="attention", value=config.attention, hint="use blocked, which runs everywhere")
    if config.attention == "cudnn":
        kernel = functools.partial(cudnn_attend, scale=config.attention_scale)
    else:
        kernel = functools.partial(splash_attend, scale=config.attention_scale, softcap=config.attention_softcap,
                                   windows=tuple(sorted(set(config.windows))) or (0,))
    return functools.partial(on_each_device, kernel)


def on_each_device(kernel: Callable, query: Float[Array, "B T N H"], key: Float[Array, "B T K H"],
                   value: Float[Array, "B T K H"], segment_ids: Int[Array, "B T"], positions: Int[Array, "B T"],
                   window: Int[Array, ""] | None) -> Float[Array, "B T N H"]:
    """Runs a kernel that knows no meshes on every device's rows and heads."""
    window = jnp.zeros((), jnp.int32) if window is None else window
    arrays = (query, key, value, segment_ids, positions)
    if not has_mesh():
        return kernel(*arrays, window)
    heads, kv_heads, tokens = ("batch", None, "heads", None), ("batch", None, "kv_heads", None), ("batch", None)
    axes = (heads, kv_heads, kv_heads, tokens, tokens)
    arrays = tuple(constrain(array, *names) for array, names in zip(arrays, axes))
    specs = tuple(ShardingRules().spec(names) for names in axes)
    # Kernels are opaque to the check of what varies over which mesh axis.
    return jax.shard_map(kernel, in_specs=(*specs, PartitionSpec()), out_specs=specs[0], check_vma=False)(*arrays, window)


def cudnn_attend(query, key, value, segment_ids, positions, window, *, scale: float) -> Float[Array, "B T N H"]:
    """Flash attention of cuDNN. Packed rows need a mask ``[B, 1, T, T]``: about 2 * T**2 bytes per row, so T up to about 8k.

    Raises:
      InputError: cuDNN refuses these shapes on this GPU.
    """
    arguments = cudnn_arguments(query, key, value, segment_ids, positions, window, scale)
    try:
        out = jax.nn.dot_product_attention(**arguments, implementation="cudnn")
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"refused by cuDNN ({error})", field="attention", value="cudnn", hint="use blocked") from None
    return jnp.where((segment_ids > 0)[..., None, None], out[:, : query.shape[1]], 0)


def cudnn_arguments(query, key, value, segment_ids, positions, window, scale: float) -> dict[str, Any]:
    """What `jax.nn.dot_product_attention` gets; ``out[:, :T]`` is the result, where it is not padding.

    Padding reads padding here: a query without any key has no softmax, and cuDNN makes it NaN.
    """
    (query, key, value, segment_ids, positions), _ = _padded(query, key, value, segment_ids, positions)
    mask = segment_ids[:, :, None] == segment_ids[:, None]
    mask &= within_window(positions, positions, window) | (segment_ids == 0)[:, :, None]
    mask &= jnp.tril(jnp.ones(mask.shape[1:], bool))  # cuDNN skips what is_causal hides; the mask must not reveal it
    return dict(query=query, key=key, value=value, mask=mask[:, None], scale=scale, is_causal=True)


def splash_attend(query, key, value, segment_ids, positions, window, *, scale: float, softcap: float | None,
                  windows: tuple[int, ...], interpret: bool = False) -> Float[Array, "B T N H"]:
    """Splash attention, the flash kernel for packed rows that comes with JAX for TPUs.

    Args:
      query, key, value, segment_ids, positions, window, scale, softcap: as in `attend`. Tokens of a solution stand side by
        side, so that a window over positions is one over the row.
      windows: the values that ``window`` can take. The kernel skips what a mask hides, so it needs masks while it is compiled.
      interpret: run the kernel in slow motion on any machine (for tests).
    """
    # Imported here: it is experimental, and part of no path that runs without a TPU.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    (query, key, value, segment_ids, _), tokens = _padded(query, key, value, segment_ids, positions)
    length, heads = query.shape[1:3]
    block = next(size for size in (_LARGEST_BLOCK, 256, _BLOCK) if length % size == 0)
    sizes = splash.BlockSizes(*[block] * 8)
    ids = splash.SegmentIds(segment_ids, segment_ids)

    def read(size: int, query, key, value):
        shape = (length, length)
        mask = splash.LocalMask(shape, (size - 1, 0), 0) if size else splash.CausalMask(shape)
        kernel = splash.make_splash_mha_single_device(
            splash.MultiHeadMask([mask] * heads), block_sizes=sizes, attn_logits_soft_cap=softcap,
            residual_checkpoint_name=SAVED, interpret=interpret)
        return jax.vmap(kernel)(query, key, value, ids)

    # The kernel takes heads first and no factor on logits.
    arrays = ((query * scale).astype(query.dtype), key, value)
    arrays = tuple(x.swapaxes(1, 2) for x in arrays)
    branches = [functools.partial(read, size) for size in windows]
    index = jnp.argmax(jnp.asarray(windows) == window)
    out = branches[0](*arrays) if len(branches) == 1 else jax.lax.switch(index, branches, *arrays)
    out = out.swapaxes(1, 2)[:, :tokens].astype(query.dtype)
    return jnp.where((segment_ids > 0)[:, :tokens, None, None], out, 0)


def _padded(*arrays: Array) -> tuple[tuple[Array, ...], int]:
    """Rows filled up with padding (segment 0) to a multiple of the kernels' block, and their length before."""
    tokens = arrays[0].shape[1]
    more = -tokens % _BLOCK
    return tuple(jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2)) for x in arrays), tokens
