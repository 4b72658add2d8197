"""``jaxprm plan``: what a training step needs per device, and whether it fits, before a device is rented.

    In:  a config, 4 devices
    Out: mesh (1, 4, 1); weights 0.9 GB, gradients 0.9 GB, optimiser 1.8 GB, activations 3.1 GB, ..., fits on v5e

A GB is 10**9 bytes. A device counts as full at 90 % of its memory: the program, collectives and fragmentation need the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub.directory import read_architecture
from jaxprm.models.config import TransformerConfig
from jaxprm.models.reward_model import HeadConfig, RewardModel
from jaxprm.models.sharding import abstract_mesh, mesh_sizes
from jaxprm.objectives import STEP_OBJECTIVES
from jaxprm.pipelines.train_prm import TrainPRM
from jaxprm.training import OptimizerConfig, TrainConfig, step_loss
from jaxprm.training.memory import StepMemory, step_flops, step_memory

USABLE = 0.9  # share of a device's memory that a plan may fill
UTILISATION = 0.4  # share of a device's peak that times assume


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator chip: bytes of memory, peak bfloat16 operations per second (makers' data sheets), and how many chips a
    machine name such as v5p-256 counts as one (Google counts two TensorCores per v5p chip, but chips for v5e)."""

    memory: float
    flops: float
    counted: int = 1


DEVICES = {"h200": Device(141e9, 989e12), "h100": Device(80e9, 989e12), "a100": Device(80e9, 312e12),
           "v4": Device(32e9, 275e12, 2), "v5e": Device(16e9, 197e12), "v5p": Device(95e9, 459e12, 2),
           "v6e": Device(32e9, 918e12)}
MACHINES = ("h200-1", "v5e-16", "v5p-256")

# Qwen2.5 shapes, the backbones of most published PRMs.
_QWEN = dict(attention_bias=True, head_dim=128, context=4096, rope_theta=1e6, dtype="bfloat16", remat="dots")
MODELS = {"1.5B": TransformerConfig(151936, 1536, 28, 12, 2, mlp_dim=8960, **_QWEN),
          "7B": TransformerConfig(152064, 3584, 28, 28, 4, mlp_dim=18944, **_QWEN),
          "72B": TransformerConfig(152064, 8192, 80, 64, 8, mlp_dim=29568, **_QWEN)}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What decides about memory: architecture, head, objective, optimiser, shape of a batch, mesh.

    Attributes:
      model, head, objective, hyperparameters, training: as in `TrainPRM`.
      rows, tokens, steps: of a batch: B, T, S.
      devices: how many there are.
      mesh: sizes of (data, fsdp, tensor).
    """

    model: TransformerConfig
    head: HeadConfig = HeadConfig()
    objective: str = "binary_cross_entropy"
    hyperparameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    training: TrainConfig = TrainConfig()
    rows: int = 1
    tokens: int = 4096
    steps: int = 128
    devices: int = 1
    mesh: tuple[int, int, int] = (1, 1, 1)

    def memory(self) -> StepMemory:
        """Raises InputError if the mesh divides the devices, the rows, or a parameter badly."""
        mesh = None if self.devices == 1 else abstract_mesh(self.mesh, self.devices)
        loss = step_loss(STEP_OBJECTIVES[self.objective], **self.hyperparameters)
        return step_memory(lambda model: RewardModel(model, self.head, rngs=nnx.Rngs(0)), self.model, loss,
                           self.training.optimizer.build(self.training.steps), self.batch(), mesh)

    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the arrays of `StepBatch`."""
        per_token = dict.fromkeys(("tokens", "positions", "segment_ids"), np.int32)
        per_step = {"step_ends": np.int32, "step_mask": np.bool_, "labels": np.float32, "label_mask": np.bool_,
                    "weights": np.float32}
        return {name: jax.ShapeDtypeStruct((self.rows, size), dtype)
                for size, fields in ((self.tokens, per_token), (self.steps, per_step)) for name, dtype in fields.items()}


def setup(config: TrainPRM, devices: int, mesh: tuple[int, int, int] | None = None) -> Setup:
    """What `jaxprm train` would run with this config on so many devices.

    Args:
      config: of the run. Its data files are not read.
      devices: how many.
      mesh: instead of the config's; if neither says, fsdp takes all devices.

    Raises:
      InputError: no devices, or a mesh that does not cover them.
    """
    if devices < 1:
        raise InputError("must be at least 1", field="devices", value=devices)
    model = config.model if config.initial_model is None else read_architecture(config.initial_model)
    if config.row_tokens > model.context:
        raise InputError(f"is more than the initial model's context {model.context}", field="row_tokens",
                         value=config.row_tokens)
    sizes = mesh_sizes(mesh or config.mesh or (1, devices, 1), devices)
    return Setup(model, config.head, config.objective, config.hyperparameters, config.training, config.batch_rows,
                 config.row_tokens, config.row_steps, devices, sizes)


def find_device(name: str) -> Device:
    """Raises InputError if it is not known."""
    if name not in DEVICES:
        raise InputError("is not known", field="device", value=name, hint=f"one of {', '.join(DEVICES)}")
    return DEVICES[name]


def describe(plan: Setup, device: str | None = None) -> Iterator[tuple[str, str]]:
    """(name, value) lines: bytes per device, operations, and whether it fits.

    Args:
      plan: what is trained.
      device: a name of `DEVICES`; None = all of them.

    Raises:
      InputError: the device is not known, or the mesh does not suit the model.
    """
    names = list(DEVICES) if device is None else [device]
    devices = [find_device(name) for name in names]
    memory, flops = plan.memory(), step_flops(plan.model, plan.rows, plan.tokens)
    yield "mesh", f"{plan.devices} device(s): data {plan.mesh[0]}, fsdp {plan.mesh[1]}, tensor {plan.mesh[2]}"
    yield "batch", f"{plan.rows} rows of {plan.tokens:,} tokens, remat {plan.model.remat}, {plan.model.dtype}"
    yield "", "per device:"
    for name, value in dataclasses.asdict(memory).items():
        yield f"  {name}", _readable(value)
    yield "  total", _readable(memory.total)
    yield "operations", (f"{sum(flops.values()):.3g} per step: {flops['matmul']:.3g} in matrix products, "
                         f"{flops['attention']:.3g} in attention (at most), {flops['recomputed']:.3g} recomputed")
    for name, each in zip(names, devices):
        seconds = sum(flops.values()) / (plan.devices * each.flops * UTILISATION)
        fits = memory.total <= USABLE * each.memory
        word = "fits" if fits else f"does not fit: {suggestion(plan, memory, each)}" if device else "does not fit"
        yield f"on {name}", (f"{word} ({memory.total / each.memory:.0%} of {each.memory / 1e9:.0f} GB; "
                             f"{seconds:.3g} s per step at {UTILISATION:.0%} of its bfloat16 peak)")


def suggestion(plan: Setup, memory: StepMemory, device: Device) -> str:
    """What to change so that a plan that does not fit does: remat, then mesh, then less to train, then more devices."""
    room = USABLE * device.memory
    if plan.model.remat != "full":
        plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, remat="full"))
        memory = plan.memory()
        if memory.total <= room:
            return f'remat = "full" takes {_readable(memory.total)}'
    for sizes in _other_meshes(plan):
        other = dataclasses.replace(plan, mesh=sizes)
        with_mesh = other.memory()
        if with_mesh.total <= room:
            return f'remat = "full" with mesh = {sizes} takes {_readable(with_mesh.total)}'
    frozen = memory.weights + memory.batch + memory.activations + memory.working
    if frozen <= room:
        return f'LoRA with remat = "full" takes a little more than {_readable(frozen)}'
    whole = (memory.weights + memory.optimizer + memory.gradients) * plan.devices
    return f"weights, gradients and optimiser alone need {math.ceil(whole / room)} devices with fsdp, even before activations"


def _other_meshes(plan: Setup) -> Iterator[tuple[int, int, int]]:
    """Meshes that split weights over all devices, with as much of it on the tensor axis as divides the key heads."""
    tensor = 1
    while plan.devices % tensor == 0 and plan.model.kv_heads % tensor == 0:
        fsdp = plan.devices // tensor
        if (1, fsdp, tensor) != plan.mesh and plan.rows % fsdp == 0 and plan.model.width % fsdp == 0:
            yield (1, fsdp, tensor)
        tensor *= 2


def table() -> Iterator[str]:
    """Markdown lines: every model of `MODELS` on every machine of `MACHINES`, one row of 4,096 tokens per device."""
    yield "| model | machine | mesh | remat | weights | gradients | optimiser | activations | working | total | fits | step |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for machine in MACHINES:
        name, _, count = machine.partition("-")
        device, devices = DEVICES[name], int(count) // DEVICES[name].counted
        for size, model in MODELS.items():
            plan = Setup(model, training=TrainConfig(optimizer=OptimizerConfig()), rows=devices, devices=devices,
                         mesh=(1, devices, 1))
            memory, flops = plan.memory(), step_flops(model, plan.rows, plan.tokens)
            fits = memory.total <= USABLE * device.memory
            cells = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.working, memory.total)
            seconds = sum(flops.values()) / (devices * device.flops * UTILISATION)
            yield " | ".join((f"| {size}", f"{devices} x {name} ({device.memory / 1e9:.0f} GB)", str(plan.mesh), model.remat,
                              *(f"{value / 1e9:.1f}" for value in cells),
                              "yes" if fits else f"no: {suggestion(plan, memory, device)}", f"{seconds:.2g} s |"))


def _readable(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.3g} MB"
