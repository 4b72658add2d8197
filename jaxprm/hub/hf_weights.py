"""Weights of Hugging Face directories into our parameters, tensor by tensor, straight to where they live.

A file holds one tensor per layer, we hold one array for all layers. Large arrays are made on their devices first and filled
layer by layer, each shard from the slices of the file that it needs; the host never holds more than a few tensors.
"""

from __future__ import annotations

import fnmatch
import functools
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprm.errors import InputError
from jaxprm.hub.hf_names import Entry, tensor_table, unembedding_name
from jaxprm.hub.torch_files import BIN, BIN_INDEX, TorchFiles, open_torch_index
from jaxprm.hub.weight_files import (SAFETENSORS, SAFETENSORS_INDEX, SafetensorFiles, WeightFiles, check_index, read_index,
                                     shortened)
from jaxprm.models.config import TransformerConfig

# What stands before the backbone's names: transformers; trl's model with a value head; models that read images, too, in the
# old and the new spelling; a backbone saved alone.
PREFIXES = ("model.", "pretrained_model.model.", "language_model.model.", "model.language_model.", "")
# Tensors that carry nothing: rotary frequencies that old versions saved, and the parts of Gemma 3 that read images.
_IGNORED = ("*rotary_emb.inv_freq", "*.attn.bias", "*.attn.masked_bias")
_IMAGES = ("vision_tower.*", "multi_modal_projector.*", "model.vision_tower.*", "model.multi_modal_projector.*")
_EMBEDDING = "embed_tokens.weight"
# Stacks up to this size are put together on the host; larger ones are filled on the device, which costs a compilation each.
_HOST_STACK = 64 << 20


def open_weights(directory: str | os.PathLike) -> WeightFiles:
    """The weights of a directory; only headers are read.

    Looks for model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json, in this order.

    Raises:
      InputError: none of them is there, a file is cut short, a shard is missing, an index names tensors that no shard holds, a
        pickle names code to run.
    """
    directory = Path(directory)
    if (path := directory / SAFETENSORS).is_file():
        return SafetensorFiles(path, [path])
    if (path := directory / SAFETENSORS_INDEX).is_file():
        shards, places = read_index(path)
        weights = SafetensorFiles(path.parent, shards)
        check_index(path, places, weights.names())
        return weights
    if (path := directory / BIN).is_file():
        return TorchFiles(path, [path])
    if (path := directory / BIN_INDEX).is_file():
        return open_torch_index(path)
    raise InputError(f"holds no weights: neither {SAFETENSORS}, {BIN}, nor an index of shards", file=directory)


def find_prefix(weights: WeightFiles) -> str:
    """What the names of the backbone begin with, one of `PREFIXES`.

    Raises:
      InputError: there is no embedding table under any of them.
    """
    for prefix in PREFIXES:
        if prefix + _EMBEDDING in weights.names():
            return prefix
    known = " or ".join(prefix + _EMBEDDING for prefix in PREFIXES)
    raise InputError(f"holds no {known}", file=weights.source, hint="this is not a decoder that jaxprm knows")


def stored_vocabulary(weights: WeightFiles) -> int:
    """Rows of the embedding table in the files; a model that was resized can have another number than its config."""
    return weights.names()[find_prefix(weights) + _EMBEDDING].shape[0]


def load_backbone(weights: WeightFiles, transformer: TransformerConfig, model_type: str, *, language_model: bool = False,
                  claimed: Collection[str] = (), dtype: str | None = None,
                  shardings: Mapping[str, jax.sharding.Sharding] | None = None) -> dict[str, jax.Array]:
    """The parameters of a decoder, one after the other.

    Args:
      weights: the files.
      transformer: the architecture.
      model_type: which table of names, see `jaxprm.hub.hf_names`.
      language_model: also the output matrix, "unembedding", unless embeddings are tied.
      claimed: names of tensors that the caller reads itself or knows to be of no use; ``*`` stands for anything.
      dtype: "float32" or "bfloat16"; ``None`` = as stored, float16 as float32.
      shardings: dotted name -> where that parameter lives (`jaxprm.models.parameter_shardings`); ``None`` = the first device.

    Returns:
      Dotted name -> array, names as `jaxprm.models.parameters` gives them.

    Raises:
      InputError: tensors are missing, unknown, or of another shape (all of them in one error), or are damaged.
    """
    prefix = find_prefix(weights)
    table = tensor_table(transformer, model_type, language_model=language_model, prefix=prefix)
    _check(weights, table, prefix, model_type, transformer, language_model, claimed)
    groups: dict[str, dict[int | None, str]] = {}
    for name, entry in table.items():
        groups.setdefault(entry.parameter, {})[entry.layer] = name
    parameters = {}
    for parameter, by_layer in groups.items():
        names = [by_layer[layer] for layer in sorted(by_layer, key=lambda layer: layer or 0)]
        sharding = shardings[parameter] if shardings is not None else jax.sharding.SingleDeviceSharding(jax.devices()[0])
        stored = functools.reduce(jnp.promote_types, (weights.names()[name].dtype for name in names))
        target = jnp.dtype(dtype or ("float32" if stored == jnp.float16 else stored))
        parameters[parameter] = _parameter(weights, names, table[names[0]], target, sharding)
    return parameters


def _parameter(weights: WeightFiles, names: list[str], entry: Entry, dtype: jnp.dtype,
               sharding: jax.sharding.Sharding) -> jax.Array:
    shape = entry.layout.shape if entry.layer is None else (len(names), *entry.layout.shape)
    shards: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        shards.setdefault(tuple(part.indices(size)[:2] for part, size in zip(index, shape)), []).append(device)
    pieces = []
    for bounds, devices in shards.items():
        first = _shard(weights, names, entry, tuple(slice(*bound) for bound in bounds), dtype, devices[0])
        pieces += [first, *(jax.device_put(first, device) for device in devices[1:])]
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _shard(weights: WeightFiles, names: list[str], entry: Entry, index: tuple[slice, ...], dtype: jnp.dtype,
           device: jax.Device) -> jax.Array:
    """One shard of a parameter: the part ``index`` of it, on ``device``."""
    layers, index = (slice(0, 1), index) if entry.layer is None else (index[0], index[1:])
    slices, sizes, rest = entry.layout.part(index)

    def read(name: str) -> np.ndarray:  # a strided view: whoever copies it puts the axes in order
        return entry.layout.from_file(weights.read(name, slices), sizes)[rest]

    names = names[layers]
    if entry.layer is None:
        return jax.device_put(read(names[0]), device).astype(dtype)
    shape = (len(names), *(part.stop - part.start for part in index))
    if math.prod(shape) * dtype.itemsize <= _HOST_STACK:
        host = np.empty(shape, dtype)
        for layer, name in enumerate(names):
            host[layer] = read(name)
        return jax.device_put(host, device)
    stack = jnp.zeros(shape, dtype, device=device)
    for layer, name in enumerate(names):
        stack = _filled(stack, jax.device_put(read(name), device), layer)
        stack.block_until_ready()  # else the host runs ahead, and holds every tensor that waits for its turn
    return stack


@functools.partial(jax.jit, donate_argnums=0)
def _filled(stack, part, layer):
    return jax.lax.dynamic_update_index_in_dim(stack, part.astype(stack.dtype), layer, 0)


def _check(weights: WeightFiles, table: Mapping[str, Entry], prefix: str, model_type: str, transformer: TransformerConfig,
           language_model: bool, claimed: Collection[str]) -> None:
    """Compares names and shapes with what the architecture needs; one error lists all that is wrong."""
    found = weights.names()
    ignored = [*_IGNORED, *claimed, *(_IMAGES if model_type == "gemma3_text" else ())]
    output = unembedding_name(prefix)
    if not language_model or transformer.tie_embeddings:
        ignored.append(output)
    known = lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)  # noqa: E731
    missing = [name for name in table if name not in found]
    unknown = [name for name in found if name not in table and not known(name)]
    shapes = [f"{name} is {list(found[name].shape)}, expected {list(entry.layout.file_shape)}"
              for name, entry in table.items() if name in found and found[name].shape != entry.layout.file_shape]
    problems = [f"{what}: {shortened(items)}" for what, items in
                (("missing", missing), ("unknown", unknown), ("of another shape", shapes)) if items]
    if problems:
        raise InputError("tensors do not fit the config: " + "; ".join(problems), file=weights.source)
    if language_model and transformer.tie_embeddings and output in found:
        _check_tied(weights, prefix + _EMBEDDING, output)


def _check_tied(weights: WeightFiles, embedding: str, output: str) -> None:
    """transformers 4 ignores the second matrix and transformers 5 uses it, so it must say the same as the first."""
    rows, _ = weights.names()[embedding].shape
    same = weights.names()[embedding] == weights.names()[output]
    for start in range(0, rows if same else 0, 8192):
        part = (slice(start, min(start + 8192, rows)), slice(None))
        same = same and weights.read(embedding, part).tobytes() == weights.read(output, part).tobytes()
    if not same:
        raise InputError(f"differs from {embedding}, although config.json says tie_word_embeddings", file=weights.source,
                         field=output, hint="say in config.json which one it is")
