"""``jaxprm inspect``: what is in a model directory, how it reads steps, and what looks wrong."""

from __future__ import annotations

import math
import os

from jaxprm.errors import InputError
from jaxprm.hub.checkpoints import local_directory
from jaxprm.hub.directory import LoadedModel, find_model, load_language_model, load_reward_model, read_config
from jaxprm.hub.families import Settings
from jaxprm.hub.families.detect import UncertainFamily
from jaxprm.hub.load import OpenedModel, Parts, is_own, open_prm
from jaxprm.models.parameters import parameters
from jaxprm.steps.format import StepEncoder

SMALL_CONTEXT = 4096
ACTIVATIONS = {"scalar": "sigmoid", "ranking": "sigmoid", "binary": "softmax, probability of the good one",
               "mlp": "softmax, probability of the good one", "value": "none: the raw value",
               "difference": "softmax, p(good) - p(bad), in [-1, 1]", "validity": "softmax of 3, p(neutral) + p(positive)",
               "ensemble": "sigmoid of every member, mean"}
_PROBE = ("What is 12 + 30?", ("First, 12 + 30 = 42.", "So the answer is 42."))

Facts = list[tuple[str, str]]


def describe(directory: str | os.PathLike, family: str | None = None, *, settings: Settings = Settings(),
             base: str | os.PathLike | None = None) -> Facts:
    """(name, value) pairs: size, architecture, head, how text is read with its token ids, provenance, warnings.

    Args:
      directory: of our own models, which are loaded, so that what is described can be used; or a Hugging Face one, of which
        tensors are not read.
      family, settings, base: as in `jaxprm.hub.load.open_prm`.

    Raises:
      InputError: as `load_reward_model` or `open_prm`.
    """
    path = local_directory(directory)
    if is_own(path):
        return _own(path)
    try:
        # Whether a reference is given changes no more than that implicit models are not refused.
        opened = open_prm(directory, family, settings=settings, base=base, reference=family == "implicit")
    except UncertainFamily as error:
        return _parts(Parts.open(directory, base, settings.variant)) + [
            ("family", "not certain"), ("warning", f"it cannot be scored like this: {error.message}; {error.hint}")]
    return _published(opened)


def _own(directory: str | os.PathLike) -> Facts:
    config = read_config(directory)
    load = load_language_model if config.get("kind") == "language_model" else load_reward_model
    loaded: LoadedModel = load(directory)
    arrays = parameters(loaded.model)
    count = sum(value.size for value in arrays.values())
    rows = [("directory", str(find_model(directory))),
            ("kind", f"{config['kind']}, {config['format']}, saved by jaxprm {config['jaxprm']}"),
            ("parameters", f"{count:,} in {len(arrays)} arrays, {4 * count / 2**20:.1f} MiB"),
            ("architecture", _fields(config["transformer"]))]
    if "head" in config:
        rows.append(("head", f"{loaded.model.head.config.kind}, {loaded.model.head.config.outputs} output(s) per step"))
    rows += _step_format(loaded.encoder)
    rows.append(("tokenizer", f"{loaded.encoder.tokenizer.vocab_size:,} entries, "
                              f"sha256 {loaded.encoder.tokenizer.fingerprint[:16]}..."))
    return rows + _info(loaded.info)


def _step_format(encoder: StepEncoder) -> Facts:
    step_format = encoder.format
    separator = (f"{step_format.separator!r} (id {encoder.separator_id})" if step_format.separator else "none")
    reads = {"at": "at the separator", "before": "at the last token before the separator",
             "last": "at the last token of the step"}
    begin = f"begins with {step_format.begin_token} (id {encoder.begin_id}), " if step_format.begin else ""
    return [("prompt", f"{begin}{step_format.prompt_prefix!r} + problem + {step_format.prompt_suffix!r}"),
            ("separator", separator),
            ("score is read", reads[step_format.readout]),
            ("end of solution", f"{step_format.end_token} (id {encoder.end_id})"),
            ("neutral ratings", step_format.neutral),
            ("aggregation", step_format.aggregation)]


def _parts(opened: Parts) -> Facts:
    checkpoint, tensors = opened.checkpoint, opened.weights.names()
    count = sum(math.prod(info.shape) for info in tensors.values())
    size = sum(math.prod(info.shape) * info.dtype.itemsize for info in tensors.values())
    kinds = ", ".join(sorted({str(info.dtype) for info in tensors.values()}))
    rows = [("directory", str(checkpoint.adapter or checkpoint.weights)),
            ("kind", f"{opened.config.architecture or 'not named'}, Hugging Face ({opened.config.model_type})"),
            ("parameters", f"{count:,} in {len(tensors)} tensors, {size / 2**20:.1f} MiB ({kinds})")]
    if checkpoint.adapter:
        rows.append(("adapted model", str(checkpoint.weights)))
    places = {"config from": checkpoint.config, "tokenizer from": checkpoint.tokenizer}
    rows += [(name, str(place)) for name, place in places.items() if place != checkpoint.weights]
    rows.append(("architecture", ", ".join(f"{name} {value}" for name, value in vars(opened.config.transformer).items()
                                           if value not in (None, (), False) and name not in ("dtype", "remat"))))
    rows.append(("tokenizer", f"{opened.tokenizer.vocab_size:,} entries, begin token {opened.tokenizer.bos_token!r} "
                              f"({opened.tokenizer.rule})"))
    return rows


def _published(opened: OpenedModel) -> Facts:
    rows, encoder = _parts(opened), opened.encoder
    family = opened.family.name if opened.family else "our own model, exported"
    if opened.family and opened.family.variants:
        family += f" (variant {opened.settings.variant or 'main'}; also {', '.join(opened.family.variants)})"
    rows.append(("family", family))
    rows += _step_format(encoder) if isinstance(encoder, StepEncoder) else encoder.describe()
    if opened.head is None:
        rows.append(("score", "0.001 x log(policy / reference), summed up; needs --reference"))
    else:
        rows.append(("head", f"{opened.head.kind}, from {opened.head.where}"))
        if getattr(encoder, "columns", None) is not None:
            bad, good = (f"{opened.tokenizer.decode([column])!r} (id {column})" for column in encoder.columns)
            rows.append(("columns", f"good {good}, bad {bad}"))
        rows.append(("activation", ACTIVATIONS[opened.head.kind]))
    if not isinstance(encoder, StepEncoder):
        rows.append(("aggregation", encoder.aggregation))
    return rows + _info(opened.recorded) + [("warning", text) for text in warnings(opened)]


def warnings(opened: OpenedModel) -> list[str]:
    """What looks wrong with a checkpoint, in words."""
    found = []
    try:
        opened.check_vocabulary(opened.transformer.vocab_size)
    except InputError as error:
        found.append(f"it cannot be scored: {error}")
    try:
        if opened.head is not None:
            opened.head.load(opened.head_source())
    except InputError as error:
        found.append(f"it cannot be scored: {error}")
    config, tokenizer = opened.config, opened.tokenizer
    if opened.transformer.context <= SMALL_CONTEXT:
        found.append(f"the context is small ({opened.transformer.context} tokens): longer solutions are refused")
    ids = opened.encoder.encode(*_PROBE)[0]
    if tokenizer.bos_id is not None and ids[:2] == [tokenizer.bos_id] * 2:
        found.append("the text begins with two begin tokens: the chat template writes one and the tokenizer adds one")
    for name, known in (("bos_token_id", tokenizer.bos_id), ("eos_token_id", tokenizer.eos_id)):
        value = config.raw.get(name)
        values = value if isinstance(value, list) else [value]
        if value is not None and known is not None and known not in values:
            found.append(f"{name} is {value} in config.json and {known} in the tokenizer")
    if opened.family and opened.family.name in ("trl", "openrlhf") and opened.settings.separator is None:
        found.append("the directory does not store the separator; the family's default is assumed (--separator)")
    if opened.family and opened.family.name == "universal-prm":
        found.append("the names of the head's tensors are assumed (v_head): no published file was at hand")
    return found


def _info(values) -> Facts:
    return [(f"info: {name}", _fields(value) if isinstance(value, dict) else str(value)) for name, value in values.items()]


def _fields(values: dict) -> str:
    return ", ".join(f"{name} {_fields(value) if isinstance(value, dict) else value}" for name, value in values.items())
