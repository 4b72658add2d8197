"""``config.json`` of Hugging Face directories, in the style of transformers 4 and of transformers 5, into `TransformerConfig`.

Every field that changes the maths is read; what is missing has the value that transformers gives it; a field that is not
known, or has a value that this decoder cannot compute, is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.hf_config_fields import DEFAULTS, ROPE_THETA, SIZES, check_fields
from jaxprm.hub.hf_rope import read_rope
from jaxprm.models.config import TransformerConfig

CONFIG = "config.json"
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclasses.dataclass(frozen=True)
class HFConfig:
    """What a directory's config.json says.

    Attributes:
      architecture: the class it was saved from, such as "Qwen2ForCausalLM"; "" if the file names none.
      model_type: "qwen2", "qwen3", "llama", "mistral", "gemma2" or "gemma3_text".
      transformer: the decoder. Its ``dtype`` is "float32" whatever the file holds; replace it to compute in bfloat16.
      raw: the file as it is.
    """

    architecture: str
    model_type: str
    transformer: TransformerConfig
    raw: dict[str, Any]

    @property
    def dtype(self) -> str | None:
        """Type that the weights were saved in ("float32", "bfloat16", "float16"), if the file says."""
        for section in (self.raw, self.raw.get("text_config") or {}):
            for key in ("dtype", "torch_dtype"):
                if isinstance(section.get(key), str):
                    return section[key].removeprefix("torch.")
        return None


def read_hf_config(directory: str | os.PathLike) -> HFConfig:
    """Reads the config.json of a Hugging Face directory.

    Raises:
      InputError: no such file, not JSON, an architecture that is not known, a field that is missing, unknown, or has a value
        that is not supported. Unknown fields are named all at once.
    """
    path = Path(directory) / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint="give a directory with a Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from None
    if not isinstance(raw, dict):
        raise InputError("must be a JSON object", file=path)
    return parse_hf_config(raw, path)


def parse_hf_config(raw: dict[str, Any], file: Path) -> HFConfig:
    """As `read_hf_config`, for content that was read from ``file``."""
    names = raw.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError("must be a list of names", file=file, field="architectures", value=names)
    architecture = names[0] if names else ""
    model_type, section = raw.get("model_type"), raw
    if model_type == "gemma3":
        section = raw.get("text_config")
        if not isinstance(section, dict):
            raise InputError("must be a JSON object", file=file, field="text_config", value=section)
        _refuse(check_fields(raw, "gemma3_text", multimodal=True), raw, file)
        model_type = "gemma3_text"
        if "tie_word_embeddings" in raw:
            section = {"tie_word_embeddings": raw["tie_word_embeddings"]} | section
    if model_type not in DEFAULTS:
        known = f"architecture '{architecture}' is not known; its model_type must be one of gemma3, {', '.join(DEFAULTS)}"
        raise InputError(known, file=file, field="model_type", value=model_type)
    return HFConfig(architecture, model_type, transformer_config(section, model_type, file), raw)


def transformer_config(section: Mapping[str, Any], model_type: str, file: Path) -> TransformerConfig:
    """The decoder that a config describes; ``section`` is the part of the file about text."""
    _refuse(check_fields(section, model_type), section, file)
    get = _Fields({**DEFAULTS[model_type], **section}, file)
    width, layers, heads = (get.integer(name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    head_dim = get.integer("head_dim", or_none=True) or width // heads
    context = get.integer("max_position_embeddings")
    gemma, gemma3 = model_type.startswith("gemma"), model_type == "gemma3_text"
    windows = _windows(get, model_type, layers)
    rope = read_rope(section, file, context=context, local=gemma3, theta=ROPE_THETA.get(model_type, 10_000.0))
    query_scale = None
    if gemma and (scalar := get.number("query_pre_attn_scalar")) != head_dim:
        query_scale = scalar ** -0.5
    bias = model_type == "qwen2" or get.flag("attention_bias")
    try:
        return TransformerConfig(
            get.integer("vocab_size"), width, layers, heads, get.integer("num_key_value_heads", or_none=True) or heads,
            head_dim, get.integer("intermediate_size"), context, rope.rope_theta, get.number("rms_norm_eps"),
            attention_bias=bias, output_bias=bias and model_type != "qwen2", qk_norm=model_type == "qwen3" or gemma3,
            tie_embeddings=get.flag("tie_word_embeddings"), mlp_bias=get.flag("mlp_bias"),
            activation=_activation(get, "hidden_activation" if gemma else "hidden_act"),
            norm_plus_one=gemma, post_norms=gemma, embed_scale=gemma, query_scale=query_scale,
            attention_softcap=None if gemma3 else get.number("attn_logit_softcapping", or_none=True),
            logit_softcap=get.number("final_logit_softcapping", or_none=True), windows=windows,
            rope_scaling=rope.rope_scaling, local_rope_theta=rope.local_rope_theta if windows else None)
    except InputError as error:
        if error.file is not None:
            raise
        raise InputError(f"does not make a decoder: {error}", file=file) from None


def _refuse(problems: list[tuple[str, str]], section: Mapping[str, Any], file: Path) -> None:
    if not problems:
        return
    field, message = problems[0]
    others = "".join(f", so is '{name}'" if text == message else f"; '{name}' {text}" for name, text in problems[1:])
    hints = {"quantization_config": "give the checkpoint before quantisation"}
    hint = hints.get(field, "take it out of the file if it changes nothing" if "not known" in message else None)
    raise InputError(message + others, file=file, field=field, value=section[field], hint=hint)


def _windows(get: _Fields, model_type: str, layers: int) -> tuple[int, ...]:
    """Per layer, the tokens that a token reads (0 = all), ``()`` if every layer reads all.

    In:  qwen2, 4 layers, use_sliding_window, sliding_window 6, max_window_layers 2
    Out: (0, 0, 6, 6)
    """
    window = get.integer("sliding_window", or_none=True)
    if model_type in ("qwen2", "qwen3"):
        window = window if get.flag("use_sliding_window") else None
        first = get.integer("max_window_layers", least=0)
        rule = [window is not None and layer >= first for layer in range(layers)]
    elif model_type == "gemma2":
        rule = [layer % 2 == 0 for layer in range(layers)]
    elif model_type == "gemma3_text":
        pattern = get.integer("sliding_window_pattern")
        rule = [(layer + 1) % pattern != 0 for layer in range(layers)]
    else:
        rule = [window is not None] * layers
    listed = get.values["layer_types"]
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != layers or any(kind not in _LAYER_TYPES for kind in listed):
            raise InputError(f"must be a list of {layers} names, each {' or '.join(_LAYER_TYPES)}", file=get.file,
                             field="layer_types", value=listed)
        sliding = [kind == "sliding_attention" for kind in listed]
        if model_type in ("llama", "mistral") and sliding != rule:
            raise InputError(f"transformers does not read it for {model_type}, and sliding_window says otherwise",
                             file=get.file, field="layer_types", value=listed)
        rule = sliding
    if any(rule) and window is None:
        raise InputError("is missing, but layers have a window", file=get.file, field="sliding_window", value=None)
    return tuple(window if slides else 0 for slides in rule) if any(rule) else ()


def _activation(get: _Fields, field: str) -> str:
    name = get.values[field]
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise InputError(f"must be one of {', '.join(_ACTIVATIONS)}", file=get.file, field=field, value=name)
    return _ACTIVATIONS[name]


@dataclasses.dataclass(frozen=True)
class _Fields:
    """Values of a config by their JSON types; a field that the architecture does not have is false or ``None``."""

    values: Mapping[str, Any]
    file: Path

    def integer(self, field: str, or_none: bool = False, least: int = 1) -> int | None:
        if or_none and self.values.get(field) is None:
            return None
        self._present(field)
        value = self.values[field]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"must be an integer, at least {least}", file=self.file, field=field, value=value)
        return value

    def number(self, field: str, or_none: bool = False) -> float | None:
        if or_none and self.values.get(field) is None:
            return None
        self._present(field)
        value = self.values[field]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise InputError("must be a positive number", file=self.file, field=field, value=value)
        return float(value)

    def flag(self, field: str) -> bool:
        value = self.values.get(field)
        if value is not None and not isinstance(value, bool):
            raise InputError("must be true or false", file=self.file, field=field, value=value)
        return bool(value)

    def _present(self, field: str) -> None:
        if field not in self.values:
            sizes = f"; every config has {', '.join(SIZES)}" if field in SIZES else ""
            raise InputError("is missing" + sizes, file=self.file, field=field)
