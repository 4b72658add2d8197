"""A decoder's ``config.json`` for transformers 4 and 5: both rope styles, both names of the dtype, explicit layer types.

What is written is read again and compared, so that a decoder which an architecture cannot express is refused by name instead of
being saved as another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.hf_config import CONFIG, transformer_config
from jaxprm.hub.hf_config_fields import CARRIED, DEFAULTS
from jaxprm.hub.hf_rope import Rope, write_rope
from jaxprm.models.config import TransformerConfig

_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}
# Classes of transformers begin with these.
CLASS_NAMES: Mapping[str, str] = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "mistral": "Mistral",
                                  "gemma2": "Gemma2", "gemma3_text": "Gemma3"}


def hf_config_json(config: TransformerConfig, model_type: str, *, architecture: str, dtype: str, labels: int = 0,
                   extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of config.json.

    Args:
      config: the decoder; its ``dtype`` and ``remat`` are settings of a run and not written.
      model_type: "qwen2", "qwen3", "llama", "mistral", "gemma2" or "gemma3_text".
      architecture: name of the class to load it with, such as "Qwen2ForTokenClassification".
      dtype: type of the saved weights: "float32", "bfloat16" or "float16".
      labels: outputs of a classification head, 0 = there is none; they are named LABEL_0, LABEL_1, ...
      extra: more fields, such as token ids; those that the decoder determines cannot be among them.

    Raises:
      InputError: this architecture cannot express the decoder; the fields are named.
    """
    fields: dict[str, Any] = {"architectures": [architecture], "model_type": model_type, "dtype": dtype, "torch_dtype": dtype,
                              **_decoder_fields(config, model_type)}
    if labels:
        names = [f"LABEL_{index}" for index in range(labels)]
        fields |= {"id2label": {str(index): name for index, name in enumerate(names)},
                   "label2id": {name: index for index, name in enumerate(names)}}
    clash = sorted(set(extra or ()) & set(fields))
    if clash:
        raise InputError("is set by the model itself", field=clash[0], value=extra[clash[0]])
    return {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True, **(extra or {}), **fields}


def carried_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an imported config that an export keeps: token ids and what a family's head reads."""
    return {name: raw[name] for name in CARRIED if name in raw}


def find_model_type(config: TransformerConfig) -> str:
    """The first architecture that expresses ``config``.

    Raises:
      InputError: none does.
    """
    reasons = {}
    for model_type in ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"):
        try:
            _decoder_fields(config, model_type)
            return model_type
        except InputError as error:
            reasons[model_type] = str(error)
    raise InputError("no architecture of transformers computes this decoder: "
                     + " | ".join(f"{name}: {reason}" for name, reason in reasons.items()))


def _decoder_fields(config: TransformerConfig, model_type: str) -> dict[str, Any]:
    if model_type not in DEFAULTS:
        raise InputError(f"must be one of {', '.join(DEFAULTS)}", field="model_type", value=model_type)
    gemma = model_type.startswith("gemma")
    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size, "hidden_size": config.width, "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim, "max_position_embeddings": config.context, "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings, "hidden_act": _ACTIVATIONS[config.activation],
        **write_rope(Rope(config.rope_theta, config.rope_scaling, config.local_rope_theta), config.context,
                     local=model_type == "gemma3_text"),
        **_window_fields(config.windows, model_type, config.layers)}
    if gemma:
        fields |= {"hidden_activation": fields["hidden_act"], "query_pre_attn_scalar": _query_scalar(config),
                   "final_logit_softcapping": config.logit_softcap, "attn_logit_softcapping": config.attention_softcap}
    if model_type in ("qwen3", "llama", "gemma2", "gemma3_text"):
        fields["attention_bias"] = config.attention_bias
    if model_type == "llama":
        fields["mlp_bias"] = config.mlp_bias
    if model_type in ("llama", "gemma2", "gemma3_text") and config.width % config.heads:
        raise InputError(f"must be a multiple of heads = {config.heads}: transformers refuses other {model_type} models",
                         field="width", value=config.width)
    _check(config, transformer_config(fields, model_type, Path(CONFIG)), model_type)
    return fields


def _check(config: TransformerConfig, expressed: TransformerConfig, model_type: str) -> None:
    settings = {"dtype": config.dtype, "remat": config.remat}
    scales = [one.head_dim ** -0.5 if one.query_scale is None else one.query_scale for one in (config, expressed)]
    if scales[0] == scales[1]:
        settings["query_scale"] = config.query_scale
    expressed = dataclasses.replace(expressed, **settings)
    wrong = [field.name for field in dataclasses.fields(config)
             if getattr(config, field.name) != getattr(expressed, field.name)]
    if wrong:
        others = "".join(f", {name} = {getattr(config, name)!r}" for name in wrong[1:])
        raise InputError(f"cannot be expressed by model_type '{model_type}'{others and ', nor can ' + others[2:]}",
                         field=wrong[0], value=getattr(config, wrong[0]))


def _window_fields(windows: Sequence[int], model_type: str, layers: int) -> dict[str, Any]:
    sizes = sorted({window for window in windows if window})
    if len(sizes) > 1:
        raise InputError("must be one size for all layers that have one", field="windows", value=tuple(windows))
    window = sizes[0] if sizes else None
    slides = [bool(size) for size in windows] or [False] * layers
    names = ["sliding_attention" if slide else "full_attention" for slide in slides]
    if model_type == "llama":
        return {}
    if model_type == "mistral":
        return {"sliding_window": window}
    if model_type in ("qwen2", "qwen3"):
        first = slides.index(True) if window else layers
        return {"use_sliding_window": bool(window), "sliding_window": window, "max_window_layers": first,
                "layer_types": names}
    fields: dict[str, Any] = {"sliding_window": window or DEFAULTS[model_type]["sliding_window"], "layer_types": names}
    if model_type == "gemma3_text":
        # For transformers before layer_types; where no pattern fits, the list stands alone.
        fields["sliding_window_pattern"] = next(
            (size for size in range(1, layers + 2) if slides == [(layer + 1) % size != 0 for layer in range(layers)]), 6)
    return fields


def _query_scalar(config: TransformerConfig) -> int | float:
    if config.query_scale is None:
        return config.head_dim
    exact = config.query_scale ** -2
    return round(exact) if round(exact) ** -0.5 == config.query_scale else exact
