"""Tensors in files, read one at a time and only where they are needed: the interface, and safetensors behind it."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from jaxprm.errors import InputError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"

Index = tuple[slice, ...]

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
           "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


class TensorInfo(NamedTuple):
    """Shape and type of a tensor as it is stored."""

    shape: tuple[int, ...]
    dtype: np.dtype


class WeightFiles(abc.ABC):
    """Named tensors of a checkpoint, wherever they lie.

    Attributes:
      source: the directory or file, for messages.
    """

    source: Path

    @abc.abstractmethod
    def names(self) -> Mapping[str, TensorInfo]:
        """Every tensor; nothing but headers is read for it."""

    @abc.abstractmethod
    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """A tensor, or the part of it that ``index`` (one slice of step 1 per axis) selects, as a new array.

        Raises:
          KeyError: no such tensor.
          InputError: the file cannot be read.
        """


class SafetensorFiles(WeightFiles):
    """Tensors of one or several safetensors files.

    A file is mapped only while one of its tensors is read, so that what was read before does not stay in memory.
    """

    def __init__(self, source: Path, files: list[Path]):
        self.source = source
        self._files: dict[str, Path] = {}
        self._names: dict[str, TensorInfo] = {}
        for file in files:
            with _opened(file) as tensors:
                for name in tensors.keys():
                    if name in self._files:
                        raise InputError(f"is also in {self._files[name].name}", file=file, field=name)
                    part = tensors.get_slice(name)
                    stored = DTYPES.get(part.get_dtype())
                    if stored is None:
                        raise InputError(f"type {part.get_dtype()} is not supported", file=file, field=name)
                    self._files[name] = file
                    self._names[name] = TensorInfo(tuple(part.get_shape()), jnp.dtype(stored))

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        with _opened(self._files[name]) as tensors:
            return tensors.get_tensor(name) if not index else tensors.get_slice(name)[index]


def read_index(path: Path) -> tuple[list[Path], dict[str, str]]:
    """Shards and ``{tensor: shard}`` of an index file.

    Raises:
      InputError: not an index, or shards are missing; all of them are named.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        places = index["weight_map"]
        shards = sorted(set(places.values()))
        if not shards or any(Path(shard).name != shard for shard in shards):
            raise ValueError("it names files of other directories, or none")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"is not an index of shards ({error!r})", file=path) from None
    missing = [shard for shard in shards if not (path.parent / shard).is_file()]
    if missing:
        raise InputError(f"names files that are not there: {', '.join(missing)}", file=path,
                         hint="download the missing shards")
    return [path.parent / shard for shard in shards], places


def check_index(path: Path, places: Mapping[str, str], found: Mapping[str, TensorInfo]) -> None:
    """Raises InputError if the index names tensors that no shard holds."""
    missing = sorted(set(places) - set(found))
    if missing:
        raise InputError(f"names tensors that are in no shard: {shortened(missing)}", file=path)


def shortened(items: list[str], most: int = 20) -> str:
    """The first items in one line, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _opened(file: Path):
    try:
        return safetensors.safe_open(file, framework="np")
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot be read ({error})", file=file,
                         hint="it is cut short or damaged; download it again") from None
