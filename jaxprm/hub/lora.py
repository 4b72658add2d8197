"""LoRA adapters of PEFT (Hu et al. 2021), merged into the weights as they are read: ``W + scale * B A``.

    adapter_config.json          peft_type, r, lora_alpha, rank_pattern, alpha_pattern, use_rslora, modules_to_save, ...
    adapter_model.safetensors    base_model.model.<module>.lora_A.weight [r, in], .lora_B.weight [out, r];
                                 <module>.weight for modules that were trained whole
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.errors import InputError
from jaxprm.hub.torch_files import TorchFiles
from jaxprm.hub.weight_files import Index, SafetensorFiles, TensorInfo, WeightFiles, shortened

ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_UNSUPPORTED = {"use_dora": False, "fan_in_fan_out": False, "bias": "none", "use_qalora": False, "lora_bias": False,
                "trainable_token_indices": None, "target_parameters": None, "alora_invocation_tokens": None}


class MergedFiles(WeightFiles):
    """The tensors of a checkpoint with an adapter merged into them.

    The sums are computed, and returned, in float32; `names` has the types of the checkpoint.
    """

    def __init__(self, base: WeightFiles, adapter: WeightFiles, pairs: Mapping[str, tuple[str, str, float]],
                 replaced: Mapping[str, str]):
        self.source = adapter.source
        self._base, self._adapter, self._pairs, self._replaced = base, adapter, pairs, replaced
        self._names = {**base.names(), **{name: adapter.names()[theirs] for name, theirs in replaced.items()}}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        if name in self._replaced:
            return self._adapter.read(self._replaced[name], index)
        weight = self._base.read(name, index)
        if name not in self._pairs:
            return weight
        down, up, scale = self._pairs[name]
        rows, columns = index or (slice(None), slice(None))
        factors = (self._adapter.read(up)[rows], self._adapter.read(down)[:, columns])
        change = factors[0].astype(np.float32) @ factors[1].astype(np.float32)
        return weight.astype(np.float32) + np.float32(scale) * change


def is_adapter(directory: str | os.PathLike) -> bool:
    """Whether a directory holds a PEFT adapter instead of a whole model."""
    return (Path(directory) / ADAPTER_CONFIG).is_file()


def read_adapter_config(directory: str | os.PathLike) -> dict[str, Any]:
    """The content of adapter_config.json; ``base_model_name_or_path`` says which model the adapter belongs to.

    Raises:
      InputError: it cannot be read, is not LoRA, or uses a variant that is not supported.
    """
    path = Path(directory) / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError("only LoRA adapters are known", file=path, field="peft_type",
                         value=config.get("peft_type") if isinstance(config, dict) else config)
    for field, plain in _UNSUPPORTED.items():
        if config.get(field) not in (plain, None):
            raise InputError("is not supported", file=path, field=field, value=config[field],
                             hint="merge the adapter with peft and give the merged model")
    return config


def merged(weights: WeightFiles, adapter_directory: str | os.PathLike) -> WeightFiles:
    """A checkpoint as seen through a LoRA adapter.

    Args:
      weights: the model that the adapter was trained on.
      adapter_directory: with adapter_config.json and adapter_model.safetensors (or .bin).

    Raises:
      InputError: the adapter cannot be read, is of another kind, or does not fit the model; tensors are listed.
    """
    directory = Path(adapter_directory)
    config = read_adapter_config(directory)
    if (path := directory / ADAPTER_WEIGHTS).is_file():
        adapter: WeightFiles = SafetensorFiles(path, [path])
    elif (path := directory / ADAPTER_BIN).is_file():
        adapter = TorchFiles(path, [path])
    else:
        raise InputError(f"holds neither {ADAPTER_WEIGHTS} nor {ADAPTER_BIN}", file=directory)

    found, base = adapter.names(), weights.names()
    saved = tuple(config.get("modules_to_save") or ())
    pairs: dict[str, tuple[str, str, float]] = {}
    replaced: dict[str, str] = {}
    problems = []
    for name in found:
        module = name.removeprefix(_PREFIX)
        if match := re.fullmatch(r"(.+)\.lora_([AB])(\.default)?\.weight", module):
            down = name if match[2] == "A" else name.replace(".lora_B.", ".lora_A.")
            up = down.replace(".lora_A.", ".lora_B.")
            target = match[1] + ".weight"
            if down not in found or up not in found:
                problems.append(f"{name} stands alone")
            elif target not in base:
                problems.append(f"{name}: the model has no {target}")
            elif (found[up].shape[0], found[down].shape[1]) != base[target].shape or \
                    found[up].shape[1] != found[down].shape[0]:
                problems.append(f"{name} does not fit {target} {list(base[target].shape)}")
            else:
                pairs[target] = down, up, _scale(config, match[1], found[down].shape[0], directory)
        elif (match := re.fullmatch(r"(.+?)(\.modules_to_save(\.default)?)?(\.weight|\.bias)", module)) and \
                match[1].rsplit(".", 1)[-1] in saved:
            replaced[match[1] + match[4]] = name
        else:
            problems.append(f"{name} is not known")
    if problems:
        raise InputError(f"the adapter does not fit the model: {shortened(problems)}", file=adapter.source)
    if not pairs and not replaced:
        raise InputError("holds no LoRA tensors", file=adapter.source)
    return MergedFiles(weights, adapter, pairs, replaced)


def _scale(config: Mapping[str, Any], module: str, rank: int, directory: Path) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA; both can differ by module."""
    alpha, expected = (_of_module(config.get(pattern) or {}, module, config.get(field))
                       for pattern, field in (("alpha_pattern", "lora_alpha"), ("rank_pattern", "r")))
    if not isinstance(alpha, (int, float)) or expected != rank:
        raise InputError(f"does not fit {module}, whose rank is {rank}", file=directory / ADAPTER_CONFIG,
                         field="r" if expected != rank else "lora_alpha", value=expected if expected != rank else alpha)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_module(patterns: Mapping[str, Any], module: str, default):
    return next((value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module)), default)
