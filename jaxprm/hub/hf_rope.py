"""Rotary positions in ``config.json``: the keys of transformers 4 and of transformers 5, both ways.

    v4   rope_theta, rope_scaling {rope_type | type, factor, ...} or null, rope_local_base_freq (Gemma 3)
    v5   rope_parameters {rope_theta, rope_type, ...}; Gemma 3: {full_attention: {...}, sliding_attention: {...}}

A file may hold both; the order of precedence is that of transformers 5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError
from jaxprm.models.rope import RopeScaling

ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "original_max_position_embeddings")
_LAYER_TYPES = ("full_attention", "sliding_attention")

# What each kind of scaling reads; every other key is refused.
_COMMON = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "finetuned",
           "partial_rotary_factor"}
_READS = {"linear": _COMMON, "dynamic": _COMMON,
          "llama3": _COMMON | {"low_freq_factor", "high_freq_factor"},
          "yarn": _COMMON | {"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"}}


@dataclasses.dataclass(frozen=True)
class Rope:
    """What a config says of rotary positions: the fields of `TransformerConfig` of the same names."""

    rope_theta: float
    rope_scaling: RopeScaling | None
    local_rope_theta: float | None = None


def read_rope(config: Mapping[str, Any], file: Path, *, context: int, local: bool, theta: float) -> Rope:
    """The rotary positions of a config in either style.

    Args:
      config: the content of config.json (of its ``text_config``, if it has one).
      file: for messages.
      context: ``max_position_embeddings``.
      local: layers with a window have rotary positions of their own (Gemma 3).
      theta: the base if the file names none.

    Raises:
      InputError: an unknown kind, or a key that this kind does not read.
    """
    old, new = (_object(config, key, file) for key in ("rope_scaling", "rope_parameters"))
    if local:
        nested = {kind: _object(new, kind, file) for kind in _LAYER_TYPES if kind in new}
        if new and set(new) - set(_LAYER_TYPES):
            raise InputError("must have the keys full_attention and sliding_attention", file=file, field="rope_parameters",
                             value=new)
        full, sliding = (nested.get(kind, {}) for kind in _LAYER_TYPES)
        full = full | old
        full.setdefault("rope_theta", config.get("rope_theta", theta))
        sliding.setdefault("rope_theta", config.get("rope_local_base_freq", 10_000.0))
        if _scaling(sliding, config, file, context) is not None:
            raise InputError("layers with a window cannot be scaled", file=file, field="rope_parameters.sliding_attention",
                             value=sliding)
        return Rope(_number(full, "rope_theta", file), _scaling(full, config, file, context),
                    _number(sliding, "rope_theta", file))
    if "rope_local_base_freq" in config:
        raise InputError("is not read by this architecture", file=file, field="rope_local_base_freq",
                         value=config["rope_local_base_freq"])
    values = dict(old or new)
    if set(values) & set(_LAYER_TYPES):
        raise InputError("rotary positions per kind of layer are only known for gemma3_text", file=file,
                         field="rope_parameters", value=values)
    values.setdefault("rope_theta", config.get("rope_theta", theta))
    return Rope(_number(values, "rope_theta", file), _scaling(values, config, file, context))


def write_rope(rope: Rope, context: int, local: bool) -> dict[str, Any]:
    """The keys of both styles; transformers 4 and 5 then read the same numbers."""
    scaling = {} if rope.rope_scaling is None else _scaling_keys(rope.rope_scaling, context)
    full = {"rope_type": "default", **scaling, "rope_theta": rope.rope_theta}
    keys: dict[str, Any] = {"rope_theta": rope.rope_theta, "rope_scaling": scaling or None, "rope_parameters": full}
    if local:
        base = 10_000.0 if rope.local_rope_theta is None else rope.local_rope_theta
        keys["rope_local_base_freq"] = base
        keys["rope_parameters"] = {"full_attention": full,
                                   "sliding_attention": {"rope_type": "default", "rope_theta": base}}
    return keys


def _scaling_keys(scaling: RopeScaling, context: int) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "dynamic":  # both versions of transformers start from max_position_embeddings, whatever else is there
        if scaling.original_context != context:
            raise InputError(f"must equal context = {context}: config.json cannot say anything else",
                             field="rope_scaling.original_context", value=scaling.original_context)
    elif scaling.kind != "linear":
        keys["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        keys |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        keys |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            keys["attention_factor"] = scaling.attention_factor
    return keys


def _scaling(values: Mapping[str, Any], config: Mapping[str, Any], file: Path, context: int) -> RopeScaling | None:
    kind = values.get("rope_type", values.get("type", "default"))
    if values.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("is not supported: all pairs of a head are rotated", file=file, field="partial_rotary_factor",
                         value=values["partial_rotary_factor"])
    if kind == "default":
        extra = set(values) - _COMMON
        if extra:
            raise InputError("is not read by rope type 'default'", file=file, field=sorted(extra)[0],
                             value=values[sorted(extra)[0]])
        return None
    if kind not in _READS:
        raise InputError(f"rope type must be one of default, {', '.join(_READS)}", file=file, field="rope_type", value=kind)
    for key in values:
        if key not in _READS[kind]:
            raise InputError(f"is not read by rope type '{kind}'", file=file, field=f"rope_scaling.{key}", value=values[key])
    if values.get("truncate", True) is not True:
        raise InputError("is not supported", file=file, field="rope_scaling.truncate", value=values["truncate"])

    original = config.get("original_max_position_embeddings") or values.get("original_max_position_embeddings") or context
    factor = values.get("factor")
    if factor is None and kind == "yarn":
        factor = context / original
    fields: dict[str, Any] = {"factor": _number({"factor": factor}, "factor", file)}
    if kind == "dynamic":
        fields["original_context"] = context
    elif kind != "linear":
        fields["original_context"] = int(original)
    for key in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor"):
        if values.get(key) is not None:
            fields[key] = _number(values, key, file)
        elif kind == "llama3" and key in _READS[kind]:
            raise InputError("is missing", file=file, field=f"rope_scaling.{key}")
    mscale, all_dim = values.get("mscale"), values.get("mscale_all_dim")
    if "attention_factor" not in fields and mscale and all_dim:
        growth = math.log(fields["factor"])
        fields["attention_factor"] = (0.1 * mscale * growth + 1.0) / (0.1 * all_dim * growth + 1.0)
    try:
        return RopeScaling(kind, **fields)
    except InputError as error:
        raise InputError(error.message, file=file, field=f"rope_scaling.{error.field}",
                         value=fields.get(error.field)) from None


def _object(config: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise InputError("must be a JSON object or null", file=file, field=key, value=value)
    return dict(value or {})


def _number(values: Mapping[str, Any], key: str, file: Path) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError("must be a number", file=file, field=key, value=value)
    return float(value)
