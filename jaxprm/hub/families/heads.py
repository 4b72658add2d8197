"""Heads of published models: which tensors they are stored in, and how these become the parameters of a `StepHead`.

PyTorch keeps a linear map as [out, in], a `StepHead` as [in, out]; only ActPRM stores [member, in, out] as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxprm.errors import InputError
from jaxprm.hub.hf_names import unembedding_name
from jaxprm.hub.hf_weights import find_prefix
from jaxprm.hub.weight_files import WeightFiles
from jaxprm.models.config import TransformerConfig
from jaxprm.models.reward_model import HeadConfig, HeadKind

PREFIXES = ("", "pretrained_model.")
"""What may stand in front of a head's names: nothing, or TRL's wrapper of models with a value head."""


@dataclasses.dataclass(frozen=True)
class HeadSource:
    """What a head may be cut from.

    weights: the checkpoint's tensors.
    transformer: its architecture.
    columns: ids of the (bad, good) tokens, for heads cut out of the vocabulary.
    extra: tensors of a separate file (``reward_head.pt``).
    """

    weights: WeightFiles
    transformer: TransformerConfig
    columns: tuple[int, int] | None = None
    extra: WeightFiles | None = None

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
        stored = self.weights.names()[found].shape
        if len(stored) != len(shape) or any(size is not None and size != have for size, have in zip(shape, stored)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise InputError(f"has shape {stored}, expected ({wanted})", field=found)
        return _finite(found, self.weights.read(found))


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
    claims: tuple[str, ...] = ("score",)


def linear_head(kind: HeadKind, *stems: str) -> Load:
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
        return linear_head("binary", "score")(source)
    if source.transformer.logit_softcap is not None:
        raise InputError("the model caps its logits, so two columns of them are no linear head", field="logit_softcap",
                         value=source.transformer.logit_softcap)
    assert source.columns is not None
    prefix = find_prefix(source.weights)
    matrix = f"{prefix}embed_tokens.weight" if source.transformer.tie_embeddings else unembedding_name(prefix)
    if matrix not in source.weights.names():
        raise InputError("the weights have no such tensor", field=matrix, hint="the checkpoint is incomplete")
    height, width = source.weights.names()[matrix].shape
    if max(source.columns) >= height:
        raise InputError(f"has {height} rows, the tokenizer's tokens have the ids {source.columns}", field=matrix,
                         hint="this tokenizer is not that of the model")
    # A vocabulary matrix is the largest tensor of a checkpoint: only two of its rows are read.
    rows = [source.weights.read(matrix, (slice(column, column + 1), slice(0, width)))[0] for column in source.columns]
    return HeadConfig("binary"), {"kernel": _finite(matrix, np.stack(rows)).T, "bias": np.zeros(2, np.float32)}


def _mlp(source: HeadSource) -> tuple[HeadConfig, dict[str, np.ndarray]]:
    """Qwen2.5-Math-PRM: Linear, ReLU, Linear."""
    if source.find("score.0.weight") is None and source.find("score.weight"):
        return linear_head("binary", "score")(source)
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
    if source.extra is None:
        name = source.find("score.weight")
        # The first of the two rows is zero where the one-output head was exported for token classification.
        single = name is not None and not source.read(name, shape=(None, source.transformer.width))[:-1].any()
        return linear_head("scalar", "score")(source) if single else _mlp(source)
    names = {name.rsplit(".", 1)[-1]: name for name in source.extra.names()}
    shapes = {last: tuple(source.extra.names()[name].shape) for last, name in names.items()}
    if shapes != {"weight": (1, source.transformer.width), "bias": (1,)}:
        raise InputError(f"holds {shapes}, expected weight (1, {source.transformer.width}) and bias (1,)",
                         file=source.extra.source)
    weight, bias = (_finite(names[last], source.extra.read(names[last])) for last in ("weight", "bias"))
    return HeadConfig("scalar"), {"kernel": weight.T, "bias": bias}


def _finite(name: str, value: np.ndarray) -> np.ndarray:
    value = np.asarray(value).astype(np.float32)
    if not np.isfinite(value).all():
        raise InputError("holds numbers that are not finite", field=name)
    return value


COLUMNS = HeadRule("binary", "two columns of the output matrix", _columns)
TWO_LABELS = HeadRule("binary", "score (2 labels)", linear_head("binary", "score"))
DIFFERENCE = HeadRule("difference", "score (2 labels)", linear_head("difference", "score"))
SCALAR = HeadRule("scalar", "v_head", linear_head("scalar", "v_head.summary", "v_head", "score"),
                  claims=("v_head", "score"))
VALUE = HeadRule("value", "v_head", linear_head("value", "v_head.summary", "v_head", "score"),
                 claims=("v_head", "score"))
VALIDITY = HeadRule("validity", "score_head (3 labels)", linear_head("validity", "score_head", "score"),
                    claims=("score_head", "score"))
MLP = HeadRule("mlp", "score.0, score.2", _mlp)
ENSEMBLE = HeadRule("ensemble", "score.model (score.reg_model is a frozen copy)", _ensemble)
REASONFLUX = HeadRule("scalar", "reward_head.pt or score", _reasonflux)
