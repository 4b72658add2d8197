"""Names and layouts of weights: one bijective table per architecture, read in both directions.

A row says where a parameter lives in a Hugging Face file and how its axes are arranged on both sides. Axes are letters whose
sizes the config gives; brackets hold axes that are merged into one, the first letter moving slowest:

    Row("blocks.attention.query", "layers.{}.self_attn.q_proj.weight", "(N H) D", "D N H")

PyTorch keeps a linear map as [out, in]; ours are [in, out] with heads apart. Files hold one tensor per layer, we hold one array
[L, ...] for all layers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TypeVar

import jax
import numpy as np

from jaxprm.errors import InputError
from jaxprm.models.config import TransformerConfig

Array = TypeVar("Array", np.ndarray, jax.Array)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      ours: dotted name after ``backbone.``; only ``unembedding`` stands alone.
      theirs: name after the prefix of the backbone (usually ``model.``); ``{}`` is the layer, counted from 0.
      layout: axes of the tensor in the file.
      axes: the same axes in our order, without the leading layer axis.
      when: name of the field of `TransformerConfig` that must be true; "" = always there.
    """

    ours: str
    theirs: str
    layout: str
    axes: str
    when: str = ""


_EMBEDDING = (Row("embedding", "embed_tokens.weight", "V D", "V D"),
              Row("final_norm.scale", "norm.weight", "D", "D"))
_PROJECTIONS = (
    Row("blocks.attention_norm.scale", "layers.{}.input_layernorm.weight", "D", "D"),
    Row("blocks.attention.query", "layers.{}.self_attn.q_proj.weight", "(N H) D", "D N H"),
    Row("blocks.attention.key", "layers.{}.self_attn.k_proj.weight", "(K H) D", "D K H"),
    Row("blocks.attention.value", "layers.{}.self_attn.v_proj.weight", "(K H) D", "D K H"),
    Row("blocks.attention.output", "layers.{}.self_attn.o_proj.weight", "D (N H)", "N H D"),
    Row("blocks.mlp.gate", "layers.{}.mlp.gate_proj.weight", "F D", "D F"),
    Row("blocks.mlp.up", "layers.{}.mlp.up_proj.weight", "F D", "D F"),
    Row("blocks.mlp.down", "layers.{}.mlp.down_proj.weight", "D F", "F D"),
)
_QKV_BIAS = (
    Row("blocks.attention.query_bias", "layers.{}.self_attn.q_proj.bias", "(N H)", "N H", "attention_bias"),
    Row("blocks.attention.key_bias", "layers.{}.self_attn.k_proj.bias", "(K H)", "K H", "attention_bias"),
    Row("blocks.attention.value_bias", "layers.{}.self_attn.v_proj.bias", "(K H)", "K H", "attention_bias"),
)
_OUTPUT_BIAS = (Row("blocks.attention.output_bias", "layers.{}.self_attn.o_proj.bias", "D", "D", "output_bias"),)
_QK_NORM = (Row("blocks.attention.query_norm.scale", "layers.{}.self_attn.q_norm.weight", "H", "H", "qk_norm"),
            Row("blocks.attention.key_norm.scale", "layers.{}.self_attn.k_norm.weight", "H", "H", "qk_norm"))
_MLP_BIAS = (Row("blocks.mlp.gate_bias", "layers.{}.mlp.gate_proj.bias", "F", "F", "mlp_bias"),
             Row("blocks.mlp.up_bias", "layers.{}.mlp.up_proj.bias", "F", "F", "mlp_bias"),
             Row("blocks.mlp.down_bias", "layers.{}.mlp.down_proj.bias", "D", "D", "mlp_bias"))
_MLP_NORM = (Row("blocks.mlp_norm.scale", "layers.{}.post_attention_layernorm.weight", "D", "D"),)
# Gemma's post_attention_layernorm is what its name says: a norm on the output of the attention.
_GEMMA_NORMS = (Row("blocks.attention_post_norm.scale", "layers.{}.post_attention_layernorm.weight", "D", "D"),
                Row("blocks.mlp_norm.scale", "layers.{}.pre_feedforward_layernorm.weight", "D", "D"),
                Row("blocks.mlp_post_norm.scale", "layers.{}.post_feedforward_layernorm.weight", "D", "D"))

TABLES: Mapping[str, tuple[Row, ...]] = {
    "qwen2": _EMBEDDING + _PROJECTIONS + _MLP_NORM + _QKV_BIAS,
    "qwen3": _EMBEDDING + _PROJECTIONS + _MLP_NORM + _QKV_BIAS + _OUTPUT_BIAS + _QK_NORM,
    "llama": _EMBEDDING + _PROJECTIONS + _MLP_NORM + _QKV_BIAS + _OUTPUT_BIAS + _MLP_BIAS,
    "mistral": _EMBEDDING + _PROJECTIONS + _MLP_NORM,
    "gemma2": _EMBEDDING + _PROJECTIONS + _GEMMA_NORMS + _QKV_BIAS + _OUTPUT_BIAS,
    "gemma3_text": _EMBEDDING + _PROJECTIONS + _GEMMA_NORMS + _QKV_BIAS + _OUTPUT_BIAS + _QK_NORM,
}
UNEMBEDDING = Row("unembedding", "lm_head.weight", "V D", "D V")


@functools.lru_cache(maxsize=1024)
def _groups(text: str) -> tuple[str, ...]:
    """``"(N H) D" -> ("NH", "D")``."""
    groups, inside = [], False
    for letter in text.replace(" ", ""):
        if letter in "()":
            inside = letter == "("
            if inside:
                groups.append("")
        elif inside:
            groups[-1] += letter
        else:
            groups.append(letter)
    return tuple(groups)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor of a file becomes one layer of a parameter, and back.

    Attributes:
      layout, axes: as in `Row`.
      sizes: letter -> size, pairs.
    """

    layout: str
    axes: str
    sizes: tuple[tuple[str, int], ...]

    def _size(self, letter: str) -> int:
        return dict(self.sizes)[letter]

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return tuple(math.prod(map(self._size, group)) for group in _groups(self.layout))

    @property
    def shape(self) -> tuple[int, ...]:
        """Our shape, without the layer axis."""
        return tuple(map(self._size, _groups(self.axes)))

    def _order(self) -> tuple[int, ...]:
        letters = "".join(_groups(self.layout))
        return tuple(letters.index(axis) for axis in _groups(self.axes))

    def from_file(self, tensor: Array, sizes: Mapping[str, int] | None = None) -> Array:
        """A tensor of the file in our order; ``sizes`` replaces those of axes of which only a part was read."""
        sizes = dict(self.sizes) | dict(sizes or {})
        return tensor.reshape([sizes[letter] for letter in "".join(_groups(self.layout))]).transpose(self._order())

    def to_file(self, parameter: Array) -> Array:
        """The inverse of `from_file`."""
        return parameter.transpose(np.argsort(self._order()).tolist()).reshape(self.file_shape)

    def part(self, index: tuple[slice, ...]) -> tuple[tuple[slice, ...], dict[str, int], tuple[slice, ...]]:
        """What to read for a part of our array.

        Args:
          index: one slice (step 1) for each of our axes.

        Returns:
          The slices of the file's axes, the sizes of the axes in what they hold, and the slices that `from_file` of it still
          needs. Of merged axes only the first can be cut in the file:

              In:  layout "(N H) D", axes "D N H", sizes N=4 H=8 D=32, index (0:16, 1:2, 0:8)
              Out: (8:16, 0:16), {D: 16, N: 1, H: 8}, (:, :, :)
        """
        wanted = {axis: range(self._size(axis))[piece] for axis, piece in zip(_groups(self.axes), index)}
        read: dict[str, range] = {}
        slices = []
        for group in _groups(self.layout):
            first, inner = wanted[group[0]], math.prod(map(self._size, group[1:]))
            slices.append(slice(first.start * inner, first.stop * inner))
            read |= {letter: range(self._size(letter)) for letter in group[1:]} | {group[0]: first}
        rest = tuple(slice(wanted[axis].start - read[axis].start, wanted[axis].stop - read[axis].start)
                     for axis in _groups(self.axes))
        return tuple(slices), {letter: len(span) for letter, span in read.items()}, rest


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file: the parameter it belongs to, its layer (``None`` = the parameter has no layers), its layout."""

    parameter: str
    layer: int | None
    layout: Layout


def tensor_table(config: TransformerConfig, model_type: str, *, language_model: bool = False,
                 prefix: str = "model.") -> dict[str, Entry]:
    """Every tensor that a file of this architecture holds, by its name there.

    Args:
      config: sizes, and which optional tensors there are.
      model_type: a key of `TABLES`.
      language_model: with ``lm_head.weight`` unless embeddings are tied.
      prefix: what the backbone's names begin with.

    Raises:
      InputError: an unknown model type, or one that lacks a part that ``config`` has.
    """
    if model_type not in TABLES:
        raise InputError(f"must be one of {', '.join(TABLES)}", field="model_type", value=model_type)
    optional = {row.when for row in TABLES[model_type]}
    for part in ("attention_bias", "output_bias", "qk_norm", "mlp_bias"):
        if getattr(config, part) and part not in optional:
            raise InputError(f"{model_type} has no such tensors", field=part, value=True)
    if config.post_norms != (_GEMMA_NORMS[0] in TABLES[model_type]):
        raise InputError(f"does not fit {model_type}", field="post_norms", value=config.post_norms)
    rows = [row for row in TABLES[model_type] if not row.when or getattr(config, row.when)]
    sizes = {"V": config.vocab_size, "D": config.width, "N": config.heads, "K": config.kv_heads, "H": config.head_dim,
             "F": config.mlp_dim}
    table = {}
    for row in rows:
        layout = _layout(row, sizes)
        layers = range(config.layers) if "{}" in row.theirs else (None,)
        for layer in layers:
            table[prefix + row.theirs.format(layer)] = Entry("backbone." + row.ours, layer, layout)
    if language_model and not config.tie_embeddings:
        table[unembedding_name(prefix)] = Entry(UNEMBEDDING.ours, None, _layout(UNEMBEDDING, sizes))
    return table


def unembedding_name(prefix: str) -> str:
    """Name of the output matrix beside a backbone with this prefix."""
    # `model.language_model.` is a backbone inside a backbone; its output matrix stands beside the outer one.
    outer = "" if prefix == "model.language_model." else prefix.removesuffix("model.")
    return outer + UNEMBEDDING.theirs


def _layout(row: Row, sizes: Mapping[str, int]) -> Layout:
    letters = _groups(row.axes)
    return Layout(row.layout, row.axes, tuple((letter, sizes[letter]) for letter in letters))
