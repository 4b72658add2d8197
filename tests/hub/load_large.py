"""Run by test_hf_weights.py in a process of its own: loads a large checkpoint, whole and split, and prints what memory it took.

    python load_large.py FILE     FILE is written (sparse: almost all zeros, and the disk holds next to nothing), then read
"""

import json
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprm.hub.hf_names import tensor_table
from jaxprm.hub.hf_weights import load_backbone, open_weights
from jaxprm.models import TransformerConfig, make_mesh, parameter_shardings

CONFIG = TransformerConfig(32768, width=2048, layers=21, heads=16, kv_heads=4, head_dim=128, mlp_dim=6144)
MIB = 2 ** 20


def write(path: Path) -> dict[str, float]:
    """All tensors zero but for the first element, which differs from tensor to tensor."""
    header, marks, end = {"__metadata__": {"format": "pt"}}, {}, 0
    for number, (name, entry) in enumerate(tensor_table(CONFIG, "llama").items()):
        shape = entry.layout.file_shape
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        marks[name] = float(jnp.bfloat16(number + 1))
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, mark in marks.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(np.asarray(mark, jnp.bfloat16).tobytes())
    return marks


def memory(field: str) -> float:
    """MiB of this process: VmRSS is now, VmHWM the most so far."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure(weights, marks, mesh) -> dict:
    names = {entry.parameter for entry in tensor_table(CONFIG, "llama").values()}
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    loaded = load_backbone(weights, CONFIG, "llama", shardings=mesh and parameter_shardings(names, mesh))
    jax.block_until_ready(loaded)
    result = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu,
              "peak": memory("VmHWM") - before, "model": sum(value.nbytes for value in loaded.values()) / MIB,
              "devices": len(loaded["backbone.embedding"].sharding.device_set)}
    for name, entry in tensor_table(CONFIG, "llama").items():
        corner = loaded[entry.parameter].addressable_shards[0].data
        first = corner if entry.layer is None else corner[entry.layer]
        assert float(first[(0,) * first.ndim]) == marks[name], name
    return result


if __name__ == "__main__":
    path = Path(sys.argv[1])
    marks = write(path)
    weights = open_weights(path.parent)
    largest = max(np.prod(info.shape) * info.dtype.itemsize for info in weights.names().values()) / MIB
    jnp.zeros(3).block_until_ready()
    mesh = make_mesh(1, 1, 2, devices=jax.devices()[:2])
    results = {"whole": measure(weights, marks, None), "split": measure(weights, marks, mesh)}
    print(json.dumps({"file": path.stat().st_size / MIB, "largest": float(largest), **results}))
