"""What this machine offers, as a table."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import jaxprm
from jaxprm.cli.config import shipped_configs
from jaxprm.data.rows import DATA_VARIABLE

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "sentencepiece")
EXTRAS = {"tfds": "tensorflow_datasets", "hub": "huggingface_hub", "serve": "uvicorn", "tensorboard": "tensorboardX",
          "wandb": "wandb", "test": "pytest", "parity": "trl"}


def facts() -> list[tuple[str, str]]:
    """(what, value) rows, in the order in which they are shown."""
    devices = jax.devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    rows = [
        ("jaxprm", jaxprm.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("devices", f"{len(devices)} x {kinds} ({jax.default_backend()}), {jax.process_count()} process(es)"),
    ]
    limit = (devices[0].memory_stats() or {}).get("bytes_limit") if jax.default_backend() != "cpu" else None
    if limit:
        rows.append(("device memory", f"{limit / 2**30:.1f} GiB each"))
    rows += [
        ("matrix product", f"{matmul_flops() / 1e9:,.0f} GFLOP/s (float32, one device)"),
        ("CPU cores", str(usable_cores())),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"),
        *((name, importlib.metadata.version(name)) for name in PACKAGES),
        ("extras installed", ", ".join(extra for extra, module in EXTRAS.items() if importlib.util.find_spec(module))
         or "none"),
        ("compilation cache", jax.config.jax_compilation_cache_dir or "off"),
        (DATA_VARIABLE, os.environ.get(DATA_VARIABLE, "not set: relative data paths start at the working directory")),
        ("configs", ", ".join(shipped_configs()) or "none"),
    ]
    return rows


def usable_cores() -> int:
    """Cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul_flops(size: int = 1024, repeats: int = 5) -> float:
    """Best of ``repeats`` float32 products of ``size`` x ``size`` matrices, in floating-point operations per second."""
    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    matrix = jnp.ones((size, size), jnp.float32)
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def show() -> None:
    """Prints the table."""
    table = Table(show_header=False, box=None)
    for name, value in facts():
        table.add_row(name, value)
    Console(highlight=False).print(table)
