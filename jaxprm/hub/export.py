"""Writes models as Hugging Face directories that transformers 4.57 and 5, TRL and vLLM load.

A language model becomes a ``*ForCausalLM``. A reward model with a linear head becomes a ``*ForTokenClassification`` with the
labels (bad, good): for these classes softmax over two logits is what both libraries compute at every token.

    head kind                  class                      score.weight, score.bias
    scalar, ranking, value     *ForTokenClassification    rows [0; w], [0; b]: the log-odds are the head's output
    binary, difference         *ForTokenClassification    as they are, bad first
    validity                   *ForTokenClassification    as they are, three labels
    mlp                        *ForProcessRewardModel     score.0.*, score.2.* (Qwen2.5-Math-PRM's class; vLLM knows it)
    ensemble                   *ForEnsemblePRM            score.model.nn1/nn2/nn_out.* (ActPRM's class)

transformers has no class for the last two: their code is written beside them, and ``trust_remote_code=True`` loads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprm.errors import InputError
from jaxprm.hub.directory import new_directory
from jaxprm.hub.hf_config import CONFIG
from jaxprm.hub.hf_config_write import CLASS_NAMES, hf_config_json
from jaxprm.hub.hf_names import tensor_table
from jaxprm.hub.remote_code import remote_code
from jaxprm.hub.safetensors_writer import write_safetensors
from jaxprm.hub.weight_files import TensorInfo
from jaxprm.models.config import TransformerConfig
from jaxprm.models.reward_model import HeadConfig

SHARD_BYTES = 5 * 10**9
_CLASSES = {"mlp": "ForProcessRewardModel", "ensemble": "ForEnsemblePRM"}
_LINEAR = ("scalar", "ranking", "value", "binary", "difference", "validity")
_DTYPES = ("float32", "bfloat16", "float16")
_ONE_OUTPUT = ("scalar", "ranking", "value")


def export_directory(directory: str | os.PathLike, transformer: TransformerConfig, model_type: str,
                     parameters: Mapping[str, jax.Array | np.ndarray], head: HeadConfig | None = None, *,
                     tokenizer_files: Mapping[str, bytes | str], jaxprm_section: Mapping[str, Any] | None = None,
                     chat_template: str | None = None, extra: Mapping[str, Any] | None = None, dtype: str | None = None,
                     shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes a directory whole or not at all; a model directory that is there already is replaced.

    Tensors are written one at a time: beside the parameters themselves, the host holds one layer of one parameter.

    Args:
      directory: where; its parent is created.
      transformer: the decoder.
      model_type: architecture to write it as, see `jaxprm.hub.hf_config_write.find_model_type`.
      parameters: dotted name -> array, as `jaxprm.models.parameters` gives them; exactly those of the model.
      head: of a reward model; ``None`` = a language model.
      tokenizer_files: name -> content.
      jaxprm_section: what is kept under the key "jaxprm" of config.json: how steps are read, for a later import.
      chat_template: Jinja source; written as chat_template.jinja and into tokenizer_config.json.
      extra: more fields of config.json, such as token ids (`jaxprm.hub.hf_config_write.carried_fields`).
      dtype: "float32", "bfloat16" or "float16" for all tensors; ``None`` = each as it is.
      shard_bytes: largest size of a file of weights.

    Raises:
      InputError: this architecture cannot express the decoder or has no class with such a head, parameters are missing, unknown
        or of another shape, there are other files in the directory, a file of the tokenizer would overwrite one of the model.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"must be one of {', '.join(_DTYPES)}", field="dtype", value=dtype)
    if model_type == "gemma3_text" and head is not None:
        raise InputError("transformers has no class for a Gemma 3 with a head for every token", field="model_type",
                         value=model_type, hint="use a model directory of our own, or another architecture")
    if head is not None and (head.kind not in (*_CLASSES, *_LINEAR) or head.direction != "forward"):
        raise InputError("transformers has no class that scores with such a head", field="head.kind",
                         value=f"{head.kind}, {head.direction}", hint="keep the model directory of our own")
    sources = _sources(transformer, model_type, parameters, head)
    tensors = {name: TensorInfo(shape, jnp.dtype(dtype or kind)) for name, (shape, kind, _) in sources.items()}
    stored = jnp.dtype(dtype or parameters["backbone.embedding"].dtype).name
    task = "ForCausalLM" if head is None else _CLASSES.get(head.kind, "ForTokenClassification")
    labels = 0 if head is None or head.kind == "ensemble" else 2 if head.kind in _ONE_OUTPUT else head.outputs
    own = {} if head is None or head.kind != "ensemble" else {"num_ensemble": head.members}
    section = {} if jaxprm_section is None else {"jaxprm": dict(jaxprm_section)}
    architecture = CLASS_NAMES[model_type] + task
    code, mapped = ({}, {}) if head is None else remote_code(head, CLASS_NAMES[model_type], architecture)
    config = hf_config_json(transformer, model_type, architecture=architecture, dtype=stored, labels=labels,
                            extra={**(extra or {}), **own, **mapped, **section})
    files = _tokenizer_files(tokenizer_files, chat_template) | code | {CONFIG: _json(config)}
    if head is None:
        ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
        files["generation_config.json"] = _json({"_from_model_config": True, **ids})

    with new_directory(Path(directory)) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_safetensors(folder, tensors, lambda name: sources[name][2]().astype(tensors[name].dtype), shard_bytes)
    return Path(directory)


Source = tuple[tuple[int, ...], np.dtype, Callable[[], np.ndarray]]


def _sources(transformer: TransformerConfig, model_type: str, parameters: Mapping[str, Any],
             head: HeadConfig | None) -> dict[str, Source]:
    """Name in the file -> (shape, type, function that makes it); what is missing or left over is one error."""
    table = tensor_table(transformer, model_type, language_model=head is None)
    heads = {} if head is None else _head_sources(head, transformer.width)
    shapes = {entry.parameter: ((transformer.layers,) if entry.layer is not None else ()) + entry.layout.shape
              for entry in table.values()}
    shapes |= {name: shape for needed, _ in heads.values() for name, shape in needed.items()}
    problems = [f"missing {name}" for name in shapes if name not in parameters]
    problems += [f"unknown {name}" for name in parameters if name not in shapes]
    problems += [f"{name} has shape {tuple(parameters[name].shape)}, expected {shape}" for name, shape in shapes.items()
                 if name in parameters and tuple(parameters[name].shape) != shape]
    if problems:
        raise InputError(f"parameters do not fit {model_type}: {', '.join(problems)}")

    sources: dict[str, Source] = {}
    for name, entry in table.items():
        value = parameters[entry.parameter]
        sources[name] = (entry.layout.file_shape, jnp.dtype(value.dtype),
                         lambda value=value, entry=entry: entry.layout.to_file(_host(value, entry.layer)))
    for name, (needed, make) in heads.items():
        values = [parameters[part] for part in needed]
        shape = jax.eval_shape(make, *(jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values))
        sources[name] = (shape.shape, jnp.dtype(shape.dtype),
                         lambda make=make, values=values: np.asarray(make(*(_host(value, None) for value in values))))
    return sources


def _host(value: jax.Array | np.ndarray, layer: int | None) -> np.ndarray:
    if layer is None:
        return np.asarray(value)
    if isinstance(value, np.ndarray):
        return value[layer]
    return np.asarray(jax.lax.dynamic_index_in_dim(value, layer, keepdims=False))  # one compilation for all layers


def _head_sources(head: HeadConfig, width: int) -> dict[str, tuple[dict[str, tuple[int, ...]], Callable]]:
    """Name in the file -> (parameters it is made of and their shapes, how)."""
    kind, outputs, hidden, members = head.kind, head.outputs, head.hidden, head.members
    if kind == "ensemble":
        sizes = {"nn1": ("first", width, hidden), "nn2": ("second", hidden, hidden), "nn_out": ("last", hidden, 1)}
        same = lambda x: x  # noqa: E731
        return {f"score.model.{theirs}.{part}": ({f"head.{ours}_{name}": shape}, same)
                for theirs, (ours, inputs, outs) in sizes.items()
                for part, name, shape in (("weight", "kernel", (members, inputs, outs)), ("bias", "bias", (members, outs)))}
    kernel, bias = {"head.kernel": (hidden or width, outputs)}, {"head.bias": (outputs,)}
    if kind == "mlp":
        return {"score.0.weight": ({"head.hidden_kernel": (width, hidden)}, _transposed),
                "score.0.bias": ({"head.hidden_bias": (hidden,)}, _transposed),
                "score.2.weight": (kernel, _transposed), "score.2.bias": (bias, _transposed)}
    make = _zero_first if kind in _ONE_OUTPUT else _transposed
    return {"score.weight": (kernel, make), "score.bias": (bias, make)}


def _transposed(x):
    return x.T


def _zero_first(x):
    """[D, 1] -> [2, D], or [1] -> [2]: a row of zeros for "bad" before the one for "good"."""
    return jnp.concatenate([jnp.zeros_like(x.T), x.T])


def _tokenizer_files(given: Mapping[str, bytes | str], chat_template: str | None) -> dict[str, bytes]:
    files = {name: content.encode() if isinstance(content, str) else bytes(content) for name, content in given.items()}
    for name in files:
        if Path(name).name != name or name == CONFIG or name.endswith((".safetensors", ".safetensors.index.json")):
            raise InputError("is no name for a file of a tokenizer", field="tokenizer_files", value=name)
    if chat_template is not None:
        files["chat_template.jinja"] = chat_template.encode()
        settings = json.loads(files.get("tokenizer_config.json", b"{}"))
        files["tokenizer_config.json"] = _json({**settings, "chat_template": chat_template})
    return files


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n").encode()
