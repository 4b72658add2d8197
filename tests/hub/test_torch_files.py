"""Files of torch.save, made by hand: tensors are read, code is never run."""

import collections
import io
import json
import os
import pickle
import pickletools
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.hub.hf_weights import open_weights
from jaxprm.hub.torch_files import TorchFiles

TYPES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
         "int64": "LongStorage", "uint8": "ByteStorage", "bool": "BoolStorage"}


class Global:
    """Pickled as a global that need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a global."""

    def __init__(self, module, name, *arguments, state=None):
        self.parts = Global(module, name), arguments, state


class Storage:
    def __init__(self, key, kind, size):
        self.identity = ("storage", Global("torch", TYPES[kind]), key, "cpu", size)


class Pickler(pickle._Pickler):
    """Writes what torch writes, without torch."""

    def persistent_id(self, item):
        return item.identity if isinstance(item, Storage) else None

    def save(self, item, save_persistent_id=True):
        if isinstance(item, Global):
            self.write(pickle.GLOBAL + f"{item.module}\n{item.name}\n".encode())
            return None
        return super().save(item, save_persistent_id)

    def save_call(self, item):
        function, arguments, state = item.parts
        self.save(function)
        self.save(arguments)
        self.write(pickle.REDUCE)
        if state is not None:
            self.save(state)
            self.write(pickle.BUILD)

    dispatch = {**pickle._Pickler.dispatch, Call: save_call}


def tensor(key, array, *, strides=None, shape=None, offset=0, size=None):
    shape = array.shape if shape is None else shape
    strides = tuple(step // array.itemsize for step in array.strides) if strides is None else strides
    storage = Storage(key, array.dtype.name, array.size if size is None else size)
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False,
                Call("collections", "OrderedDict"))


def write(path: Path, content, storages=(), *, byteorder=b"little", compress=zipfile.ZIP_STORED, root="archive/"):
    data = io.BytesIO()
    Pickler(data, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(root + "data.pkl", data.getvalue())
        archive.writestr(root + "byteorder", byteorder)
        for key, value in dict(storages).items():
            archive.writestr(f"{root}data/{key}", value.tobytes(), compress_type=compress)
    return path


def opened(path):
    return TorchFiles(path, [path])


@pytest.mark.parametrize("kind", TYPES)
def test_types(tmp_path, kind):
    values = np.arange(12).reshape(3, 4).astype(kind if kind != "bfloat16" else ml_dtypes.bfloat16)
    files = opened(write(tmp_path / "x.bin", {"w": tensor("0", values)}, {"0": values}))
    assert files.names()["w"] == ((3, 4), values.dtype)
    np.testing.assert_array_equal(files.read("w"), values)
    np.testing.assert_array_equal(files.read("w", (slice(1, 3), slice(0, 2))), values[1:3, :2])


def test_views_share_a_storage(tmp_path):
    """Transposed, offset, scalar and empty tensors; tied weights; parameters; the metadata that state dicts carry."""
    values = np.arange(24, dtype=np.float32)
    whole = tensor("7", values, shape=(4, 6), strides=(6, 1))
    items = {"plain": whole, "turned": tensor("7", values, shape=(6, 4), strides=(1, 6)),
             "row": tensor("7", values, shape=(3,), strides=(2,), offset=5),
             "scalar": tensor("7", values, shape=(), strides=()), "none": tensor("7", values, shape=(0, 3), strides=(3, 1)),
             "parameter": Call("torch._utils", "_rebuild_parameter", whole, True, Call("collections", "OrderedDict"))}
    files = opened(write(tmp_path / "x.bin", {"state_dict": items}, {"7": values}))
    expected = {"plain": values.reshape(4, 6), "turned": values.reshape(4, 6).T, "row": values[[5, 7, 9]],
                "scalar": values[0], "none": np.zeros((0, 3)), "parameter": values.reshape(4, 6)}
    assert list(files.names()) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(files.read(name), value, err_msg=name)
    np.testing.assert_array_equal(files.read("turned", (slice(2, 5), slice(1, 2))), expected["turned"][2:5, 1:2])
    # A state dict has its modules' versions as an attribute.
    marked = Call("collections", "OrderedDict", (("plain", whole),), state={"_metadata": {"": {"version": 1}}})
    assert list(opened(write(tmp_path / "y.bin", marked, {"7": values})).names()) == ["plain"]


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return path


def test_code_is_refused_and_not_run(tmp_path):
    target = tmp_path / "made"
    path = hostile(tmp_path / "x.bin", pickle.dumps({"w": RunsCode(target)}, protocol=2))
    with pytest.raises(InputError) as caught:
        opened(path)
    assert str(caught.value) == (f"{path}: wants to run '{os.mkdir.__module__}.mkdir', which no tensor needs; nothing was run; "
                                 "do not trust this file; use safetensors")
    assert not target.exists()


@pytest.mark.parametrize(("module", "name"), [
    ("builtins", "eval"), ("builtins", "getattr"), ("os", "system"), ("subprocess", "Popen"), ("torch", "load"),
    ("torch.storage", "_load_from_bytes"), ("numpy.core.multiarray", "_reconstruct"), ("jaxprm.hub.torch_files", "_read"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("collections", "OrderedDict.__init__")])
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_other_name_is_found(tmp_path, module, name, protocol):
    if protocol == 2:
        data = pickle.PROTO + b"\2" + pickle.GLOBAL + f"{module}\n{name}\n".encode() + pickle.STOP
    else:
        text = b"".join(pickle.SHORT_BINUNICODE + bytes([len(part)]) + part.encode() for part in (module, name))
        data = pickle.PROTO + b"\4" + text + pickle.STACK_GLOBAL + pickle.STOP
    pickletools.dis(data, io.StringIO())
    with pytest.raises(InputError, match="wants to run '.*', which no tensor needs; nothing was run"):
        opened(hostile(tmp_path / "x.bin", data))


def test_the_reader_itself_cannot_be_changed(tmp_path):
    """BUILD sets attributes of the object that it is given, also of functions and classes."""
    from jaxprm.hub import torch_files
    before = dict(vars(torch_files._tensor)), torch_files._tensor.__defaults__
    for module, name in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict"), ("torch", "FloatStorage")):
        data = io.BytesIO()
        pickler = Pickler(data, protocol=2)
        pickler.write(pickle.PROTO + b"\2" + pickle.GLOBAL + f"{module}\n{name}\n".encode())
        pickler.save((None, {"__defaults__": (1,), "evil": 1}))
        pickler.write(pickle.BUILD + pickle.STOP)
        with pytest.raises(InputError, match="is damaged or holds more than tensors|does not hold named tensors"):
            opened(hostile(tmp_path / "x.bin", data.getvalue()))
    assert (dict(vars(torch_files._tensor)), torch_files._tensor.__defaults__) == before
    assert not hasattr(collections.OrderedDict, "evil")


VALUES = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(("content", "message"), [
    ({"w": tensor("0", VALUES, shape=(7,), strides=(1,))}, "a tensor that is larger than its storage"),
    ({"w": tensor("0", VALUES, shape=(10**6, 10**6), strides=(0, 1))}, "a tensor that is larger than its storage"),
    ({"w": tensor("0", VALUES, offset=-1)}, "a tensor of an unknown form"),
    ({"w": tensor("0", VALUES, shape=(2, 3), strides=(1,))}, "a tensor of an unknown form"),
    ({"w": 3}, "field 'w': is not a tensor"),
    ({4: tensor("0", VALUES)}, "field '4': is not a tensor"),
    ([1, 2], "does not hold named tensors")])
def test_malformed_descriptions(tmp_path, content, message):
    with pytest.raises(InputError) as caught:
        opened(write(tmp_path / "x.bin", content, {"0": VALUES}))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_archives(tmp_path):
    path = write(tmp_path / "x.bin", {"w": tensor("0", VALUES)}, {"0": VALUES})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read .*; it is cut short, or was written by torch before 1.6"):
        opened(path)
    short = opened(write(tmp_path / "y.bin", {"w": tensor("0", VALUES)}, {"0": VALUES[:5]}))
    with pytest.raises(InputError, match="storage '0' cannot be read .it is cut short.*; the file is damaged"):
        short.read("w")
    absent = opened(write(tmp_path / "z.bin", {"w": tensor("0", VALUES)}))
    with pytest.raises(InputError, match="storage '0' cannot be read"):
        absent.read("w")
    packed = opened(write(tmp_path / "p.bin", {"w": tensor("0", VALUES)}, {"0": VALUES}, compress=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="it is compressed"):
        packed.read("w")
    with pytest.raises(InputError, match="was written on a big-endian machine"):
        opened(write(tmp_path / "b.bin", {"w": tensor("0", VALUES)}, {"0": VALUES}, byteorder=b"big"))
    with zipfile.ZipFile(tmp_path / "n.bin", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(InputError, match="is not a file of torch.save"):
        opened(tmp_path / "n.bin")


def test_shards(tmp_path):
    write(tmp_path / "a.bin", {"w": tensor("0", VALUES)}, {"0": VALUES})
    write(tmp_path / "b.bin", {"v": tensor("0", VALUES[:2])}, {"0": VALUES[:2]})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.bin", "v": "b.bin"}}))
    weights = open_weights(tmp_path)
    assert list(weights.names()) == ["w", "v"] and weights.read("v").tolist() == [0.0, 1.0]
    index.write_text(json.dumps({"weight_map": {"w": "a.bin", "u": "b.bin"}}))
    with pytest.raises(InputError, match="names tensors that are in no shard: u"):
        open_weights(tmp_path)
    write(tmp_path / "b.bin", {"w": tensor("0", VALUES[:2])}, {"0": VALUES[:2]})
    with pytest.raises(InputError, match="field 'w': is also in a.bin"):
        open_weights(tmp_path)


def test_files_that_torch_wrote(shared):
    """Universal-PRM's pytorch_model.bin and ReasonFlux's reward_head.pt; numbers read off the raw bytes."""
    folder = shared / "fixtures" / "hf" / "prm"
    if not folder.is_dir():
        pytest.skip("no Hugging Face fixtures in ../shared")
    weights = open_weights(folder / "universal_prm_assumed")
    assert weights.names()["model.embed_tokens.weight"].shape == (432, 32) and len(weights.names()) == 28
    with zipfile.ZipFile(folder / "universal_prm_assumed" / "pytorch_model.bin") as archive:
        raw = np.frombuffer(archive.read("pytorch_model/data/0"), np.float32)
    np.testing.assert_array_equal(weights.read("model.embed_tokens.weight"), raw.reshape(432, 32))
    head = opened(folder / "reasonflux_prm_15b" / "reward_head.pt")
    assert {name: info.shape for name, info in head.names().items()} == {"weight": (1, 32), "bias": (1,)}
    np.testing.assert_allclose(head.read("bias"), [-0.21300176], rtol=1e-6)
