"""Log-probabilities of a reference model, computed once per data set and kept on disk.

An implicit process reward model is trained on log-ratios to a reference that never changes: what the reference says of each
step is a number per step, and the reference need not be in memory while the policy is trained.

    PLACE/00000.npz ...    sums of the steps of ``PART`` examples each, with the key of the model and data they belong to

Each file is complete or absent, so that a killed run goes on with the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxprm.data.examples import Example
from jaxprm.errors import InputError
from jaxprm.models.parameters import batch_sharding, parameter_shardings, parameters, with_parameters
from jaxprm.models.transformer import LanguageModel
from jaxprm.records import atomic_write
from jaxprm.scoring.implicit import step_log_probs
from jaxprm.scoring.scorer import bucket, bucket_rows
from jaxprm.steps.batch import StepBatch

PART = 4096
"""Examples per file."""

_step_log_probs = jax.jit(step_log_probs)


def reference_log_probs(model: LanguageModel, examples: Sequence[Example], place: Path, *, batch_tokens: int = 16_384,
                        part: int = PART, mesh: jax.sharding.Mesh | None = None,
                        on_batch: Callable[[int, int], None] = lambda examples, tokens: None) -> list[np.ndarray]:
    """float32[steps] for each example: log-probability of each step's tokens under ``model``, nats.

    Args:
      model: the reference.
      examples: single solutions with ``step_starts``.
      place: folder of the cache; made if absent. What is there already is read, not computed.
      batch_tokens: tokens (padding included) per compiled call.
      part: examples per file of the cache.
      mesh: devices of this process to compute on.
      on_batch: called with the numbers of examples and tokens, also of those that were read from the cache.

    Raises:
      InputError: the cache is damaged or belongs to another model or other data; an example without ``step_starts``, or longer
        than the model's context.
    """
    if part < 1:
        raise InputError("must be at least 1", field="part", value=part)
    for index, example in enumerate(examples):
        if "step_starts" not in example:
            raise InputError("is missing", field=f"examples[{index}].step_starts")
        if len(example["tokens"]) > model.config.context:
            raise InputError(f"has {len(example['tokens'])} tokens, the reference model's context is {model.config.context}",
                             field=f"examples[{index}]", hint="leave too long solutions out")
    key = cache_key(model, examples, part)
    place.mkdir(parents=True, exist_ok=True)
    if mesh is not None:
        values = parameters(model)
        model = with_parameters(model, jax.device_put(values, parameter_shardings(values, mesh)))
    sums: list[np.ndarray] = []
    for number, start in enumerate(range(0, len(examples), part)):
        members = examples[start : start + part]
        file = place / f"{number:05}.npz"
        if file.exists():
            sums += _read(file, key, members)
            on_batch(len(members), sum(len(example["tokens"]) for example in members))
            continue
        found = _compute(model, members, batch_tokens, mesh, on_batch)
        with atomic_write(file) as out:
            np.savez(out.buffer, key=np.array(key), sums=np.concatenate(found))
        sums += found
    return sums


def with_reference(examples: Sequence[Example], sums: Sequence[np.ndarray]) -> list[Example]:
    """The examples with the column ``reference``."""
    return [{**example, "reference": values} for example, values in zip(examples, sums, strict=True)]


def cache_key(model: LanguageModel, examples: Sequence[Example], part: int = PART) -> str:
    """SHA-256 of everything the numbers depend on: architecture, parameters, tokens, where steps begin and end."""
    digest = hashlib.sha256(f"{model.config} {part}".encode())
    for name, value in parameters(model).items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(np.asarray(value)).view(np.uint8))
    for example in examples:
        for name in ("tokens", "step_starts", "step_ends"):
            digest.update(np.int64(len(example[name])).tobytes() + np.ascontiguousarray(example[name], np.int32).tobytes())
    return digest.hexdigest()


def _read(file: Path, key: str, members: Sequence[Example]) -> list[np.ndarray]:
    try:
        # From memory: numpy leaves a damaged file open.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            found, sums = str(content["key"]), content["sums"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file,
                         hint="the cache of reference log-probabilities is damaged; delete this file") from None
    if found != key:
        raise InputError(f"belongs to another model or other data (here {key[:12]}...)", file=file, field="key",
                         value=found[:12] + "...", hint="delete the folder, or start the run in another directory")
    counts = [len(example["step_ends"]) for example in members]
    if sums.dtype != np.float32 or sums.shape != (sum(counts),) or not np.isfinite(sums).all():
        raise InputError(f"does not hold {sum(counts)} finite numbers", file=file, field="sums", value=str(sums.shape),
                         hint="the cache of reference log-probabilities is damaged; delete this file")
    return np.split(sums, np.cumsum(counts)[:-1])


def _compute(model: LanguageModel, members: Sequence[Example], batch_tokens: int, mesh: jax.sharding.Mesh | None,
             on_batch: Callable[[int, int], None]) -> list[np.ndarray]:
    """Batches of examples of about one length, so that few shapes are compiled."""
    shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    lengths: dict[int, list[int]] = {}
    for index, example in enumerate(members):
        lengths.setdefault(bucket(len(example["tokens"])), []).append(index)
    sums: list[np.ndarray] = [np.zeros(0, np.float32)] * len(members)
    for tokens, places in sorted(lengths.items()):
        steps = bucket(max(len(members[index]["step_ends"]) for index in places), 8)
        most = max(1, batch_tokens // tokens // shards) * shards
        for start in range(0, len(places), most):
            chosen = places[start : start + most]
            batch = _pad([members[index] for index in chosen], tokens, steps, bucket_rows(len(chosen), most, shards))
            if mesh is not None:
                batch = jax.device_put(batch, batch_sharding(mesh))
            with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
                found = np.asarray(_step_log_probs(model, batch))
            for row, index in enumerate(chosen):
                sums[index] = found[row, : len(members[index]["step_ends"])]
            on_batch(len(chosen), sum(len(members[index]["tokens"]) for index in chosen))
    return sums


def _pad(examples: Sequence[Example], tokens: int, steps: int, rows: int) -> StepBatch:
    ids, segments = np.zeros((2, rows, tokens), np.int32)
    starts, ends = np.zeros((2, rows, steps), np.int32)
    mask = np.zeros((rows, steps), bool)
    for row, example in enumerate(examples):
        length, count = len(example["tokens"]), len(example["step_ends"])
        ids[row, :length], segments[row, :length] = example["tokens"], 1
        starts[row, :count], ends[row, :count], mask[row, :count] = example["step_starts"], example["step_ends"], True
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), ids.shape)
    zeros = np.zeros((rows, steps), np.float32)
    return StepBatch(ids, positions, segments, ends, mask, zeros, np.zeros_like(mask), zeros, step_starts=starts)
