"""Tensors in files of ``torch.save`` (``pytorch_model.bin``, ``reward_head.pt``), without torch and without running code.

Such a file is a zip archive: ``data.pkl`` describes the tensors, ``data/<key>`` are the raw bytes of the storages they lie in.
A pickle may name any function to call. This reader knows the few names that tensors need and stands for them itself; a file
that names anything else is refused before anything happens.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprm.errors import InputError
from jaxprm.hub.weight_files import Index, TensorInfo, WeightFiles, check_index, read_index

BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
             "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
             "ByteStorage": "uint8", "BoolStorage": "bool"}
_MOST_DESCRIPTION = 256 << 20  # bytes of data.pkl; that of a model with 10^5 tensors is below 32 MiB


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # elements


class _Tensor(NamedTuple):
    """A view of a storage: nothing is read before it is asked for."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage, offset, shape, strides, *_):
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or \
            any(not isinstance(number, int) or isinstance(number, bool) or number < 0 for number in numbers):
        raise ValueError("a tensor of an unknown form")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if 0 not in shape and last >= storage.size:
        raise ValueError("a tensor that is larger than its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data, *_):
    return data


# Everything that a pickle may name. A pickle can set attributes of what it was given, so this is strings, immutable types, and
# functions of which each file gets its own copy.
_FUNCTIONS: Mapping[tuple[str, str], Any] = {("torch._utils", "_rebuild_tensor_v2"): _tensor,
                                             ("torch._utils", "_rebuild_tensor"): _tensor,
                                             ("torch._utils", "_rebuild_parameter"): _parameter}
_TYPES: Mapping[tuple[str, str], Any] = {("collections", "OrderedDict"): collections.OrderedDict, ("torch", "Size"): tuple,
                                         **{("torch", name): dtype for name, dtype in _STORAGES.items()}}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, file: Path):
        super().__init__(io.BytesIO(data))
        self._file = file

    def find_class(self, module: str, name: str):
        if (module, name) in _TYPES:
            return _TYPES[module, name]
        if (module, name) in _FUNCTIONS:
            function = _FUNCTIONS[module, name]
            return lambda *arguments: function(*arguments)
        raise InputError(f"wants to run '{module}.{name}', which no tensor needs; nothing was run", file=self._file,
                         hint="do not trust this file; use safetensors")

    def persistent_load(self, identity):
        kind, dtype, key, _, size = identity
        if kind != "storage" or dtype not in _STORAGES.values() or not isinstance(size, int) or not isinstance(key, str):
            raise ValueError("a storage of an unknown form")
        return _Storage(key, jnp.dtype(dtype), size)


class TorchFiles(WeightFiles):
    """Tensors of one or several files of ``torch.save``."""

    def __init__(self, source: Path, files: list[Path]):
        self.source = source
        self._tensors: dict[str, tuple[Path, _Tensor]] = {}
        for file in files:
            for name, tensor in _tensors(file).items():
                if name in self._tensors:
                    raise InputError(f"is also in {self._tensors[name][0].name}", file=file, field=name)
                self._tensors[name] = file, tensor

    def names(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(tensor.shape, tensor.storage.dtype) for name, (_, tensor) in self._tensors.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        file, tensor = self._tensors[name]
        if not index:
            return _read(file, tensor)
        first, *others = (slice(*part.indices(size)) for part, size in zip(index, tensor.shape))
        rows = max(first.stop - first.start, 0)
        part = tensor._replace(offset=tensor.offset + first.start * tensor.strides[0], shape=(rows, *tensor.shape[1:]))
        return _read(file, part)[(slice(None), *others)]


def open_torch_index(path: Path) -> TorchFiles:
    """Shards of a ``pytorch_model.bin.index.json``."""
    shards, places = read_index(path)
    files = TorchFiles(path.parent, shards)
    check_index(path, places, files.names())
    return files


def _tensors(file: Path) -> dict[str, _Tensor]:
    with _archive(file) as archive:
        root = _root(archive, file)
        if archive.getinfo(root + "data.pkl").file_size > _MOST_DESCRIPTION:
            raise InputError("its description of tensors is too long", file=file)
        byteorder = root + "byteorder"
        if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
            raise InputError("was written on a big-endian machine", file=file, hint="save it again on another")
        try:
            found = _Unpickler(archive.read(root + "data.pkl"), file).load()
        except InputError:
            raise
        except Exception as error:  # a pickle can fail in any way: it is a program
            raise InputError(f"is damaged or holds more than tensors ({type(error).__name__}: {error})", file=file) from None
    # Checkpoints of some trainers keep the weights one level down.
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise InputError("does not hold named tensors", file=file)
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise InputError("is not a tensor", file=file, field=str(name))
    return dict(found)


def _read(file: Path, tensor: _Tensor) -> np.ndarray:
    storage, size = tensor.storage, tensor.storage.dtype.itemsize
    if 0 in tensor.shape:
        return np.empty(tensor.shape, storage.dtype)
    count = 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides))
    with _archive(file) as archive:
        entry = f"{_root(archive, file)}data/{storage.key}"
        try:
            # Stored as it is, so a part can be read without the rest; torch never compresses.
            if archive.getinfo(entry).compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed")
            with archive.open(entry) as stream:
                stream.seek(tensor.offset * size)
                data = stream.read(count * size)
            if len(data) != count * size:
                raise ValueError("it is cut short")
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"storage '{storage.key}' cannot be read ({error})", file=file,
                             hint="the file is damaged; download it again") from None
    flat = np.frombuffer(data, storage.dtype)
    if tensor.strides == _contiguous(tensor.shape):
        return flat.reshape(tensor.shape)
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, [stride * size for stride in tensor.strides]).copy()


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1:]) for axis in range(len(shape)))


def _archive(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read ({error})", file=file,
                         hint="it is cut short, or was written by torch before 1.6; save it again as safetensors") from None


def _root(archive: zipfile.ZipFile, file: Path) -> str:
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("data.pkl")]
    if len(roots) != 1:
        raise InputError("is not a file of torch.save", file=file)
    return roots[0]
