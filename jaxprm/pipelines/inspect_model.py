"""``jaxprm inspect``: what is in a model directory and how it reads steps."""

from __future__ import annotations

import os

from jaxprm.hub.directory import find_model, load_language_model, load_reward_model, read_config
from jaxprm.models.parameters import parameters


def describe(directory: str | os.PathLike) -> list[tuple[str, str]]:
    """(name, value) pairs: size, architecture, head, step format with its token ids, tokenizer, provenance.

    Raises:
      InputError: as `load_reward_model`; the model is loaded, so what is described can be used.
    """
    config = read_config(directory)
    load = load_language_model if config.get("kind") == "language_model" else load_reward_model
    loaded = load(directory)
    model, encoder, step_format = loaded.model, loaded.encoder, loaded.encoder.format
    arrays = parameters(model)
    count = sum(value.size for value in arrays.values())
    rows = [("directory", str(find_model(directory))),
            ("kind", f"{config['kind']}, {config['format']}, saved by jaxprm {config['jaxprm']}"),
            ("parameters", f"{count:,} in {len(arrays)} arrays, {4 * count / 2**20:.1f} MiB"),
            ("architecture", _fields(config["transformer"]))]
    if "head" in config:
        rows.append(("head", f"{model.head.config.kind}, {model.head.config.outputs} output(s) per step"))
    separator = (f"{step_format.separator!r} (id {encoder.separator_id})" if step_format.separator else "none")
    reads = {"at": "at the separator", "before": "at the last token before the separator",
             "last": "at the last token of the step"}
    begin = f"begins with {step_format.begin_token} (id {encoder.begin_id}), " if step_format.begin else ""
    rows += [("prompt", f"{begin}{step_format.prompt_prefix!r} + problem + {step_format.prompt_suffix!r}"),
             ("separator", separator),
             ("score is read", reads[step_format.readout]),
             ("end of solution", f"{step_format.end_token} (id {encoder.end_id})"),
             ("neutral ratings", step_format.neutral),
             ("aggregation", step_format.aggregation),
             ("tokenizer", f"{encoder.tokenizer.vocab_size:,} entries, sha256 {encoder.tokenizer.fingerprint[:16]}...")]
    rows += [(f"info: {name}", _fields(value) if isinstance(value, dict) else str(value))
             for name, value in loaded.info.items()]
    return rows


def _fields(values: dict) -> str:
    return ", ".join(f"{name} {_fields(value) if isinstance(value, dict) else value}" for name, value in values.items())
