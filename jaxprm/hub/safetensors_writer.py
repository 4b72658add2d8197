"""Writes safetensors files one tensor at a time: the library's own writer wants all tensors of a file in memory.

    8 bytes    length N of the header, little-endian
    N bytes    JSON: {name: {dtype, shape, data_offsets: [begin, end]}, ..., "__metadata__": {...}}, padded with spaces
    the rest   raw little-endian tensors, without gaps
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxprm.hub.weight_files import DTYPES, SAFETENSORS, SAFETENSORS_INDEX, TensorInfo

_CODES = {name: code for code, name in DTYPES.items()}
# transformers refuses files that do not say that they are PyTorch's.
_METADATA = {"format": "pt"}


def write_safetensors(folder: Path, tensors: Mapping[str, TensorInfo], read: Callable[[str], np.ndarray],
                      shard_bytes: int) -> list[Path]:
    """Writes model.safetensors, or numbered shards and their index if the tensors take more than ``shard_bytes``.

    Args:
      folder: an existing directory.
      tensors: what to write; shards are filled in this order.
      read: name -> array, asked for once for each name, in the order of the files.
      shard_bytes: largest size of the tensors in one file; one tensor alone may be larger.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, info in tensors.items():
        if shards[-1] and used + _bytes(info) > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += _bytes(info)
    if len(shards) == 1:
        path = folder / SAFETENSORS
        _write(path, {name: tensors[name] for name in shards[0]}, read)
        return [path]
    places, paths = {}, []
    for number, names in enumerate(shards, start=1):
        path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(path, {name: tensors[name] for name in names}, read)
        places |= {name: path.name for name in names}
        paths.append(path)
    index = {"metadata": {"total_size": sum(map(_bytes, tensors.values()))}, "weight_map": dict(sorted(places.items()))}
    (folder / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return paths


def _write(path: Path, tensors: Mapping[str, TensorInfo], read: Callable[[str], np.ndarray]) -> None:
    # Wide types first, as the library does: every tensor then starts at a multiple of its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": _METADATA}
    end = 0
    for name in names:
        begin, end = end, end + _bytes(tensors[name])
        header[name] = {"dtype": _CODES[tensors[name].dtype.name], "shape": list(tensors[name].shape),
                        "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = np.ascontiguousarray(read(name))
            if (array.shape, array.dtype) != tensors[name]:
                raise ValueError(f"{name} is {array.dtype}{array.shape}, announced as {tensors[name]}")
            file.write(array.reshape(-1).view(np.uint8).data)


def _bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize
