"""Heads of published models: which tensors they are stored in, and how these become the parameters of a `StepHead`.

PyTorch keeps a linear map as [out, in], a `StepHead` as [in, out]; only ActPRM stores [member, in, out] as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxprm.errors import InputError
from jaxprm.models.config import TransformerConfig
from jaxprm.models.reward_model import HeadConfig, HeadKind

PREFIXES = ("", "pretrained_model.", "base_model.model.")
"""What may stand in front of a tensor's name: nothing, TRL's value-head wrapper, PEFT."""


@runtime_checkable
class Weights(Protocol):
    """What heads ask of `jaxprm.hub.hf_weights.WeightFiles`."""

    def names(self) -> Mapping[str, Any]: ...

    def read(self, name: str) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class HeadSource:
    """What a head may be cut from.

    weights: the checkpoint's tensors.
    transformer: its architecture.
    columns: ids of the (bad, good) tokens, for heads cut out of the vocabulary.
    extra: tensors of a separate file (``reward_head.pt``).
    """

    weights: Weights
    transformer: TransformerConfig
    columns: tuple[int, int] | None = None
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def find(self, *names: str) -> str | None:
        """The first of the names that is there, with whatever prefix it has."""
        known = self.weights.names()
        return next((prefix + name for name in names for prefix in PREFIXES if prefix + name in known), None)

    def read(self, *names: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """The first of the tensors that is there, as float32; ``None`` in ``shape`` is any size.

        Raises:
          InputError: none is there, or it has another shape.
        """
        found = self.find(*names)
        if found is None:
            raise InputError("the weights have no such tensor, so this is no model of that family", field=names[0],
                             hint="choose another --family")
        value = np.asarray(self.weights.read(found))
        if value.ndim != len(shape) or any(size is not None and size != have for size, have in zip(shape, value.shape)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise InputError(f"has shape {value.shape}, expected ({wanted})", field=found)
        return value.astype(np.float32)


Load = Callable[[HeadSource], tuple[HeadConfig, dict[str, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class HeadRule:
    """How to make a family's head.

    Attributes:
      kind: of the head.
      where: the tensors, in words, for ``jaxprm inspect``.
      load: source -> (head config, parameter name without ``head.`` -> array).
      claims: first parts of the names of tensors that belong to the head (or that the family leaves unread).
    """

    kind: HeadKind
    where: str
    load: Load
    claims: tuple[str, ...] = ("score", "v_head", "score_head")


def _linear(kind: HeadKind, *stems: str) -> Load:
    """``stem.weight`` [K, D] and ``stem.bias`` [K] (absent = 0).

    A one-output head may come as two rows [0, w], the form in which it is exported for token classification.
    """
    outputs = HeadConfig(kind).outputs

    def load(source: HeadSource) -> tuple[HeadConfig, dict[str, np.ndarray]]:
        width = source.transformer.width
        weight = source.read(*(f"{stem}.weight" for stem in stems), shape=(None, width))
        name = source.find(*(f"{stem}.bias" for stem in stems))
        bias = source.read(name, shape=(len(weight),)) if name else np.zeros(len(weight), np.float32)
        if outputs == 1 and len(weight) == 2 and not weight[0].any() and not bias[0]:
            weight, bias = weight[1:], bias[1:]
        if len(weight) != outputs:
            raise InputError(f"has {len(weight)} outputs, the family has {outputs}", field=f"{stems[0]}.weight",
                             hint="choose another --family")
        return HeadConfig(kind), {"kernel": weight.T, "bias": bias}

    return load


def _columns(source: HeadSource) -> tuple[HeadConfig, dict[str, np.ndarray]]:
    """Two rows of the output matrix (the embedding where they are tied), or the two-row head of an exported model."""
    if source.find("score.weight"):
        return _linear("binary", "score")(source)
    if source.transformer.logit_softcap is not None:
        raise InputError("the model caps its logits, so two columns of them are no linear head", field="logit_softcap",
                         value=source.transformer.logit_softcap)
    assert source.columns is not None
    names = ("model.embed_tokens.weight",) if source.transformer.tie_embeddings else ("lm_head.weight",)
    matrix = source.find(*names)
    if matrix is None:
        raise InputError("the weights have no such tensor", field=names[0], hint="the checkpoint is incomplete")
    rows = np.stack([np.asarray(_row(source.weights, matrix, column), np.float32) for column in source.columns])
    return HeadConfig("binary"), {"kernel": rows.T, "bias": np.zeros(2, np.float32)}


def _row(weights: Weights, name: str, index: int) -> np.ndarray:
    # A vocabulary matrix is the largest tensor of a checkpoint; readers that can, read one row of it.
    if hasattr(weights, "read_rows"):
        return weights.read_rows(name, index, index + 1)[0]
    return weights.read(name)[index]


def _mlp(source: HeadSource) -> tuple[HeadConfig, dict[str, np.ndarray]]:
    """Qwen2.5-Math-PRM: Linear, ReLU, Linear."""
    if source.find("score.0.weight") is None and source.find("score.weight"):
        return _linear("binary", "score")(source)
    hidden_kernel = source.read("score.0.weight", shape=(None, source.transformer.width))
    hidden = len(hidden_kernel)
    return HeadConfig("mlp", hidden=hidden), {
        "hidden_kernel": hidden_kernel.T, "hidden_bias": source.read("score.0.bias", shape=(hidden,)),
        "kernel": source.read("score.2.weight", shape=(2, hidden)).T, "bias": source.read("score.2.bias", shape=(2,))}


def _ensemble(source: HeadSource) -> tuple[HeadConfig, dict[str, np.ndarray]]:
    """ActPRM: E networks with two hidden layers, stored as [E, in, out]."""
    stem = "score.model."
    first = source.read(f"{stem}nn1.weight", shape=(None, source.transformer.width, None))
    members, _, hidden = first.shape
    return HeadConfig("ensemble", hidden=hidden, members=members), {
        "first_kernel": first, "first_bias": source.read(f"{stem}nn1.bias", shape=(members, hidden)),
        "second_kernel": source.read(f"{stem}nn2.weight", shape=(members, hidden, hidden)),
        "second_bias": source.read(f"{stem}nn2.bias", shape=(members, hidden)),
        "last_kernel": source.read(f"{stem}nn_out.weight", shape=(members, hidden, 1)),
        "last_bias": source.read(f"{stem}nn_out.bias", shape=(members, 1))}


def _reasonflux(source: HeadSource) -> tuple[HeadConfig, dict[str, np.ndarray]]:
    """1.5B: a linear map in a file of its own. 7B: two labels, stored as Qwen's head or as a linear one."""
    if not source.extra:
        return _linear("scalar", "score")(source) if source.find("score.weight") and _outputs(source) == 1 else _mlp(source)
    tensors = {name.rsplit(".", 1)[-1]: value for name, value in source.extra.items()}
    if set(tensors) != {"weight", "bias"} or tensors["weight"].shape != (1, source.transformer.width):
        found = {name: value.shape for name, value in source.extra.items()}
        raise InputError(f"holds {found}, expected weight (1, {source.transformer.width}) and bias (1,)",
                         field="reward_head.pt")
    return HeadConfig("scalar"), {"kernel": tensors["weight"].astype(np.float32).T,
                                  "bias": tensors["bias"].astype(np.float32)}


def _outputs(source: HeadSource) -> int:
    return len(source.read("score.weight", shape=(None, source.transformer.width)))


COLUMNS = HeadRule("binary", "two columns of the output matrix", _columns, claims=("lm_head", "score"))
TWO_LABELS = HeadRule("binary", "score (2 labels)", _linear("binary", "score"))
DIFFERENCE = HeadRule("difference", "score (2 labels)", _linear("difference", "score"))
SCALAR = HeadRule("scalar", "v_head", _linear("scalar", "v_head.summary", "v_head", "score"))
VALUE = HeadRule("value", "v_head", _linear("value", "v_head.summary", "v_head", "score"))
VALIDITY = HeadRule("validity", "score_head (3 labels)", _linear("validity", "score_head", "score"))
MLP = HeadRule("mlp", "score.0, score.2", _mlp)
ENSEMBLE = HeadRule("ensemble", "score.model (score.reg_model is a frozen copy)", _ensemble)
REASONFLUX = HeadRule("scalar", "reward_head.pt or score", _reasonflux)
