"""``jaxprm plan``: what a training step needs per device, and whether it fits, before a device is rented.

    In:  a config, 4 devices
    Out: mesh (1, 4, 1); weights 0.9 GB, gradients 0.9 GB, optimiser 1.8 GB, activations 3.1 GB, ..., fits on v5e

A GB is 10**9 bytes. A device counts as full at 90 % of its memory: the program, collectives and fragmentation need the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxprm.data.columns import column_dtypes
from jaxprm.errors import InputError
from jaxprm.hub.directory import read_architecture
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.models.reward_model import HeadConfig, RewardModel
from jaxprm.models.sharding import abstract_mesh, mesh_sizes
from jaxprm.models.transformer import LanguageModel
from jaxprm.pipelines.prm_recipe import Recipe, is_implicit, loss_of, more_columns, untrained
from jaxprm.pipelines.train_prm import TrainPRM
from jaxprm.training import LoraConfig, OptimizerConfig, TrainConfig
from jaxprm.training.losses import LossFunction
from jaxprm.training.memory import StepMemory, step_flops, step_memory
from jaxprm.training.optimizer import is_head

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
    """What decides about memory: architecture, objective and what it reads, optimiser, shape of a batch, mesh.

    Attributes:
      model, head, objective, hyperparameters, recipe, training: as in `TrainPRM`.
      rows, tokens, steps: of a batch: B, T, S.
      devices: how many there are.
      mesh: sizes of (data, fsdp, tensor).
    """

    model: TransformerConfig
    head: HeadConfig = HeadConfig()
    objective: str = "binary_cross_entropy"
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Recipe = Recipe()
    training: TrainConfig = TrainConfig()
    rows: int = 1
    tokens: int = 4096
    steps: int = 128
    devices: int = 1
    mesh: tuple[int, int, int] = (1, 1, 1)

    def memory(self) -> StepMemory:
        """Of the stage that needs most. Raises InputError if the mesh divides the devices, the rows, or a parameter badly."""
        return max((memory for _, memory in self.stages()), key=lambda memory: memory.total)

    def stages(self) -> list[tuple[str, StepMemory]]:
        """What is trained, in words, and its memory: two stages if the backbone is frozen at first."""
        frozen, steps = min(self.training.optimizer.freeze_backbone_steps, self.training.steps), self.training.steps
        stages = [(f"steps 1 to {frozen:,}, the head alone", is_head)] if frozen else []
        stages += [(f"steps {frozen + 1:,} to {steps:,}, everything", None)] if frozen < steps else []
        mesh = None if self.devices == 1 else abstract_mesh(self.mesh, self.devices)
        return [(name, step_memory(self.build, self.model, self.loss(), self.training, self.batch(), mesh,
                                   vocabulary=self.vocabulary, only=only)) for name, only in stages]

    def flops(self) -> dict[str, float]:
        """Operations of a step of the last stage, see `step_flops`."""
        head_alone = self.training.optimizer.freeze_backbone_steps >= self.training.steps
        return step_flops(self.model, self.rows, self.tokens, vocabulary=self.vocabulary,
                          frozen_weights=self.training.lora is not None, head_alone=head_alone)

    @property
    def vocabulary(self) -> bool:
        """Whether the loss reads next-token logits."""
        return is_implicit(self.objective) or self.recipe.language_model_weight > 0

    def build(self, architecture: TransformerConfig) -> RewardModel | LanguageModel:
        """The model that is trained, of this architecture."""
        # Which two tokens a head of label marks reads is known to the tokenizer; any two cost the same.
        head = dataclasses.replace(self.head, rows=(0, 1)) if self.recipe.label_marks else self.head
        return untrained(architecture, self.objective, head, self.recipe, jax.random.key(0))

    def loss(self) -> LossFunction:
        """The loss function; its constants (`ensemble_anchor` holds the head's first parameters) are zeros."""
        model = jax.eval_shape(lambda: self.build(self.model))
        values = {name: np.zeros(value.shape, value.dtype) if is_head(name) else value
                  for name, value in parameters(model).items()}
        return loss_of(with_parameters(model, values), self.objective, self.hyperparameters, self.recipe)

    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the arrays of `StepBatch` that the objective reads."""
        per_token = dict.fromkeys(("tokens", "positions", "segment_ids"), np.int32)
        columns = column_dtypes(more_columns(self.objective, self.head, self.recipe))
        return {name: jax.ShapeDtypeStruct((self.rows, size), dtype)
                for size, fields in ((self.tokens, per_token), (self.steps, columns)) for name, dtype in fields.items()}


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
    model = config.model
    if config.initial_model is not None:
        model = config.initial_architecture(read_architecture(config.initial_model))
    sizes = mesh_sizes(mesh or config.mesh or (1, devices, 1), devices)
    return Setup(model, config.head, config.objective, config.hyperparameters, config.recipe, config.training,
                 config.batch_rows, config.row_tokens, config.row_steps, devices, sizes)


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
    stages, flops = plan.stages(), plan.flops()
    name, memory = max(stages, key=lambda stage: stage[1].total)
    yield "mesh", f"{plan.devices} device(s): data {plan.mesh[0]}, fsdp {plan.mesh[1]}, tensor {plan.mesh[2]}"
    yield "model", f"{plan.model.dtype}, remat {plan.model.remat}, attention {plan.model.attention}"
    yield "trained", ", ".join(_trained(plan))
    parts = f", in {plan.training.accumulate} parts" if plan.training.accumulate > 1 else ""
    yield "batch", f"{plan.rows} rows of {plan.tokens:,} tokens{parts}"
    yield "", "per device:" if len(stages) == 1 else f"per device, {name}:"
    for part, value in dataclasses.asdict(memory).items():
        yield f"  {part}", _readable(value)
    yield "  total", _readable(memory.total)
    for other, value in stages:
        if other != name:
            yield "", f"{other}: {_readable(value.total)}"
    yield "operations", (f"{sum(flops.values()):.3g} per step: {flops['matmul']:.3g} in matrix products, "
                         f"{flops['attention']:.3g} in attention (at most), {flops['recomputed']:.3g} recomputed")
    for name, each in zip(names, devices):
        seconds = sum(flops.values()) / (plan.devices * each.flops * UTILISATION)
        fits = memory.total <= USABLE * each.memory
        word = "fits" if fits else f"does not fit: {suggestion(plan, memory, each)}" if device else "does not fit"
        yield f"on {name}", (f"{word} ({memory.total / each.memory:.0%} of {each.memory / 1e9:.0f} GB; "
                             f"{seconds:.3g} s per step at {UTILISATION:.0%} of its bfloat16 peak)")


def _trained(plan: Setup) -> Iterator[str]:
    training = plan.training
    yield plan.objective
    if is_implicit(plan.objective):
        yield "a language model without a head; the reference is read from disk, as a number per step"
    if training.lora is not None:
        yield f"adapters of rank {training.lora.rank} on {', '.join(training.lora.targets)}"
    if training.ema:
        yield f"a moving average of {training.ema:g}"
    yield training.optimizer.rule


def suggestion(plan: Setup, memory: StepMemory, device: Device) -> str:
    """What to change so that a plan that does not fit does: remat, then mesh, then micro-batches, then less to train, then more
    devices."""
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
    parts = plan.training.accumulate
    while plan.rows // (plan.mesh[0] * plan.mesh[1]) % (parts := 2 * parts) == 0:
        divided = dataclasses.replace(plan, training=dataclasses.replace(plan.training, accumulate=parts)).memory()
        if divided.total <= room:
            return f'accumulate = {parts} with remat = "full" takes {_readable(divided.total)}'
    if plan.training.lora is None:
        adapted = dataclasses.replace(plan, training=dataclasses.replace(plan.training, lora=LoraConfig())).memory()
        if adapted.total <= room:
            return f'LoRA of rank {LoraConfig().rank} with remat = "full" takes {_readable(adapted.total)}'
    whole = (memory.total - memory.batch - memory.activations - memory.working) * plan.devices
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
            memory, flops = plan.memory(), plan.flops()
            fits = memory.total <= USABLE * device.memory
            cells = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.working, memory.total)
            seconds = sum(flops.values()) / (devices * device.flops * UTILISATION)
            yield " | ".join((f"| {size}", f"{devices} x {name} ({device.memory / 1e9:.0f} GB)", str(plan.mesh), model.remat,
                              *(f"{value / 1e9:.1f}" for value in cells),
                              "yes" if fits else f"no: {suggestion(plan, memory, device)}", f"{seconds:.2g} s |"))


def _readable(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.3g} MB"
