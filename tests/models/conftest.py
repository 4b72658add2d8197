"""Reads the tiny published-style checkpoints of ``../shared`` into our parameters, without the package's own importer."""

import json
import math
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxprm.models import LanguageModel, RopeScaling, TransformerConfig, parameters, with_parameters

_LAYER = {"input_layernorm.weight": "attention_norm.scale", "self_attn.q_proj.weight": "attention.query",
          "self_attn.k_proj.weight": "attention.key", "self_attn.v_proj.weight": "attention.value",
          "self_attn.o_proj.weight": "attention.output", "self_attn.q_proj.bias": "attention.query_bias",
          "self_attn.k_proj.bias": "attention.key_bias", "self_attn.v_proj.bias": "attention.value_bias",
          "self_attn.o_proj.bias": "attention.output_bias", "self_attn.q_norm.weight": "attention.query_norm.scale",
          "self_attn.k_norm.weight": "attention.key_norm.scale", "mlp.gate_proj.weight": "mlp.gate",
          "mlp.up_proj.weight": "mlp.up", "mlp.down_proj.weight": "mlp.down", "mlp.gate_proj.bias": "mlp.gate_bias",
          "mlp.up_proj.bias": "mlp.up_bias", "mlp.down_proj.bias": "mlp.down_bias"}
_PLAIN = {"post_attention_layernorm.weight": "mlp_norm.scale"}
_GEMMA = {"post_attention_layernorm.weight": "attention_post_norm.scale",
          "pre_feedforward_layernorm.weight": "mlp_norm.scale", "post_feedforward_layernorm.weight": "mlp_post_norm.scale"}


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= safetensors.numpy.load_file(path)
    return tensors


def read_config(directory: Path, **changes) -> TransformerConfig:
    """Of a v5 or a v4 ``config.json``; ``changes`` override fields."""
    raw = json.loads((directory / "config.json").read_text())
    gemma, layers = raw["model_type"].startswith("gemma"), raw["num_hidden_layers"]
    ropes = raw.get("rope_parameters") or {"rope_theta": raw.get("rope_theta"), **(raw.get("rope_scaling") or {})}
    full = ropes.get("full_attention", ropes)
    kind = full.get("rope_type", "default")
    scaling = None
    if kind != "default":
        keys = {"original_context": "original_max_position_embeddings", "low_freq_factor": "low_freq_factor",
                "high_freq_factor": "high_freq_factor", "factor": "factor"}
        scaling = RopeScaling(kind, **{ours: full[theirs] for ours, theirs in keys.items() if theirs in full})
    bias = raw.get("attention_bias", False)
    fields = dict(
        vocab_size=raw["vocab_size"], width=raw["hidden_size"], layers=layers, heads=raw["num_attention_heads"],
        kv_heads=raw["num_key_value_heads"], head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
        mlp_dim=raw["intermediate_size"], context=raw["max_position_embeddings"], rope_theta=float(full["rope_theta"]),
        norm_eps=raw["rms_norm_eps"], attention_bias=bias or raw["model_type"] == "qwen2", output_bias=bias,
        qk_norm=raw["model_type"] in ("qwen3", "gemma3_text"), tie_embeddings=raw.get("tie_word_embeddings", gemma),
        activation="gelu_tanh" if gemma else "silu", mlp_bias=raw.get("mlp_bias", False), norm_plus_one=gemma,
        post_norms=gemma, embed_scale=gemma, query_scale=raw["query_pre_attn_scalar"] ** -0.5 if gemma else None,
        attention_softcap=raw.get("attn_logit_softcapping"), logit_softcap=raw.get("final_logit_softcapping"),
        windows=_windows(raw), rope_scaling=scaling)
    if raw["model_type"] == "gemma3_text":
        fields["local_rope_theta"] = float(ropes["sliding_attention"]["rope_theta"] if "sliding_attention" in ropes
                                           else raw["rope_local_base_freq"])
    return TransformerConfig(**fields | changes)


def _windows(raw: dict) -> tuple[int, ...]:
    layers, window = raw["num_hidden_layers"], raw.get("sliding_window")
    if raw["model_type"] == "mistral":
        return (window,) * layers if window else ()
    if raw["model_type"] == "gemma3_text":
        return tuple(0 if (layer + 1) % raw["sliding_window_pattern"] == 0 else window for layer in range(layers))
    if "layer_types" in raw:
        return tuple(window if kind == "sliding_attention" else 0 for kind in raw["layer_types"])
    assert not raw.get("use_sliding_window")
    return ()


def read_language_model(directory: Path, parameter_dtype=jnp.float32, **changes) -> LanguageModel:
    config = read_config(directory, **changes)
    model = jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    values = convert(read_tensors(directory), {name: value.shape for name, value in parameters(model).items()})
    return with_parameters(model, {name: jnp.asarray(value, parameter_dtype) for name, value in values.items()})


def convert(tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Dotted parameters of ``shapes``; tensors of other names are left out."""
    table = _LAYER | (_GEMMA if "backbone.blocks.mlp_post_norm.scale" in shapes else _PLAIN)
    stacked, values = {}, {}
    for name, value in tensors.items():
        value = value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value
        parts = name.removeprefix("model.").split(".", 2)
        if parts[0] == "layers":
            value = value.T if value.ndim == 2 else value
            stacked.setdefault(f"backbone.blocks.{table[parts[2]]}", {})[int(parts[1])] = value
        elif name == "model.embed_tokens.weight":
            values["backbone.embedding"] = value
        elif name == "model.norm.weight":
            values["backbone.final_norm.scale"] = value
        elif name == "lm_head.weight" and "unembedding" in shapes:
            values["unembedding"] = value.T
    for name, layers in stacked.items():
        values[name] = np.stack([layers[index] for index in range(len(layers))])
    assert all(math.prod(shapes[name]) == value.size for name, value in values.items())
    return {name: value.reshape(shapes[name]) for name, value in values.items()}


@pytest.fixture(scope="session")
def published() -> types.SimpleNamespace:
    """The functions of this file."""
    return types.SimpleNamespace(tensors=read_tensors, config=read_config, language_model=read_language_model, convert=convert)
