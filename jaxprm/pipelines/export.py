"""``jaxprm export``: a model of ours, or one that was loaded, as a Hugging Face directory that is read back without options."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.checkpoints import local_directory
from jaxprm.hub.directory import LoadedModel, load_language_model, load_reward_model, read_config
from jaxprm.hub.export import SHARD_BYTES, export_directory
from jaxprm.hub.families import Settings
from jaxprm.hub.families.exported import own_section
from jaxprm.hub.hf_config import read_hf_config
from jaxprm.hub.hf_config_write import carried_fields, find_model_type
from jaxprm.hub.load import is_own, load_prm, open_prm
from jaxprm.hub.remote_code import MODULE
from jaxprm.models.parameters import parameters
from jaxprm.models.reward_model import RewardModel
from jaxprm.progress import Progress
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.steps.format import StepEncoder
from jaxprm.steps.hf_tokenizer import HFTokenizer, load_hf_tokenizer

_PROBES = ("12 + 30 = 42", "First,  add 3\tand 4.\n\nThen √16 = 4 — so", " a leading blank", "数学 ки", "")


def run(output: str | os.PathLike, *, run: str | os.PathLike | None = None, model: str | os.PathLike | None = None,
        family: str | None = None, reference: str | os.PathLike | None = None, settings: Settings = Settings(),
        base: str | os.PathLike | None = None, dtype: str = "float32", shard_bytes: int = SHARD_BYTES,
        progress: Progress) -> Path:
    """Writes a directory that `transformers` 4 and 5, TRL and vLLM load, and `load_prm` without options; returns its path.

    Args:
      output: is written whole or not at all.
      run: a run or model directory of our own.
      model: or any model that `load_prm` loads; an adapter is merged, an implicit model gives its policy.
      family, reference, settings, base: as in `load_prm`.
      dtype: of the written weights.
      shard_bytes: largest size of a file of weights.
      progress: is told what transformers needs to be told, too, to load the directory as it is meant.

    Raises:
      InputError: not exactly one of ``run`` and ``model``, a model that cannot be read, or one that cannot be written.
    """
    if (run is None) == (model is None):
        raise InputError("give either --run (a model of our own) or --model (any other)")
    source = local_directory(run if model is None else model)
    if is_own(source):
        if family is not None or reference is not None or base is not None or settings != Settings():
            raise InputError("says itself how it is read; leave family, reference and other settings out", file=source)
        written = _export_own(source, output, dtype, shard_bytes)
    else:
        written = _export_published(source, output, family, reference, settings, base, dtype, shard_bytes)
    progress.log(f"exported {source} to {written}")
    for line in _how_to_load(written):
        progress.log(line)
    return written


def _how_to_load(directory: Path) -> list[str]:
    """Where transformers would not load a written directory as it is meant."""
    lines = []
    if (directory / f"{MODULE}.py").is_file():
        lines.append(f"its head is no class of transformers: load it with trust_remote_code=True ({MODULE}.py)")
    if read_hf_config(directory).model_type == "qwen2" and not load_hf_tokenizer(directory).is_qwen2:
        lines.append("warning: AutoTokenizer of transformers 5 splits text as Qwen2 does for every model of type qwen2; this "
                     "tokenizer is another, so load it with PreTrainedTokenizerFast.from_pretrained, or its ids are wrong")
    return lines


def _export_own(source: Path, output: str | os.PathLike, dtype: str, shard_bytes: int) -> Path:
    language = read_config(source).get("kind") == "language_model"
    loaded: LoadedModel = (load_language_model if language else load_reward_model)(source)
    model = loaded.model.policy if isinstance(loaded.model, ImplicitModel) else loaded.model
    config, tokenizer = model.config, hf_tokenizer(loaded.encoder)
    head = model.head.config if isinstance(model, RewardModel) else None
    section = own_section(loaded.encoder, None if head is None else head.kind, loaded.info)
    # Of a policy that is its own reward model the reward model is written.
    values = {name: value for name, value in parameters(model).items() if head is None or name != "unembedding"}
    return export_directory(output, config, find_model_type(config), values, head, dtype=dtype,
                            tokenizer_files=tokenizer.files(), jaxprm_section=section, extra=_token_ids(tokenizer),
                            shard_bytes=shard_bytes)


def _export_published(source: Path, output: str | os.PathLike, family: str | None, reference: str | os.PathLike | None,
                      settings: Settings, base: str | os.PathLike | None, dtype: str, shard_bytes: int) -> Path:
    narrow = "bfloat16" if dtype == "bfloat16" else "float32"  # no more memory than what is written
    loaded = load_prm(source, family, reference, dtype=narrow, settings=settings, base=base)
    opened = open_prm(source, family, settings=settings, base=base, reference=reference is not None)
    policy = loaded.model.policy if isinstance(loaded.model, ImplicitModel) else loaded.model
    head = policy.head.config if isinstance(policy, RewardModel) else None
    config = read_hf_config(opened.checkpoint.config)
    section: dict[str, Any] = dict(config.raw.get("jaxprm") or {})
    if opened.family is not None:
        section = {"family": opened.family.name, **opened.settings.as_json()}
    # The encoder's tokenizer, not a fresh one: PQM adds its mark to it.
    return export_directory(output, policy.config, config.model_type, parameters(policy), head, dtype=dtype,
                            tokenizer_files=opened.encoder.tokenizer.files(), jaxprm_section=section,
                            extra=carried_fields(config.raw), shard_bytes=shard_bytes)


def hf_tokenizer(encoder: StepEncoder) -> HFTokenizer:
    """Our tokenizer as one that transformers reads, with the format's begin and end tokens.

    Raises:
      InputError: it cannot be expressed, or would give other ids.
    """
    own, step_format = encoder.tokenizer, encoder.format
    if isinstance(own, HFTokenizer):
        return own
    with tempfile.TemporaryDirectory() as folder:
        own.save(folder)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": step_format.end_token,
                  "pad_token": "<pad>" if own.token_id("<pad>") is not None else step_format.end_token}
        if step_format.begin:
            config["bos_token"] = step_format.begin_token
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        written = load_hf_tokenizer(folder, add_bos=step_format.begin)
    # The separator is written by its id, so only its entry must be the same: text never holds it.
    texts = (*_PROBES, f"{step_format.prompt_prefix}12 + 30 = ?{step_format.prompt_suffix}")
    for text in (*texts, step_format.separator):
        same = own.token_id(text) == written.token_id(text) if text == step_format.separator else \
            own.encode(text) == written.encode(text)
        if not same:
            raise InputError("its export would give other ids", field="tokenizer", value=text,
                             hint="train with a tokenizer.json, or a sentencepiece model of kind BPE")
    return written


def _token_ids(tokenizer: HFTokenizer) -> dict[str, int]:
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    return {name: value for name, value in ids.items() if value is not None}
