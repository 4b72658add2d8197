"""Any process reward model from its directory: published families, our own models, and what we exported.

`open_prm` finds out what a directory holds without reading its weights (``jaxprm inspect``); `load_prm` reads them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub.checkpoints import Checkpoint, find_checkpoint, local_directory
from jaxprm.hub.directory import FORMAT, LoadedModel, find_model, load_language_model, load_reward_model
from jaxprm.hub.families import FAMILIES, Evidence, Family, FamilyEncoder, Settings
from jaxprm.hub.families.detect import detect, family_named
from jaxprm.hub.families.exported import OWN, own_format, own_model
from jaxprm.hub.families.heads import HeadRule, HeadSource
from jaxprm.hub.families.special import IMPLICIT_COEFFICIENT
from jaxprm.hub.hf_config import CONFIG, HFConfig, read_hf_config
from jaxprm.hub.hf_weights import load_backbone, open_weights, stored_vocabulary
from jaxprm.hub.lora import merged
from jaxprm.hub.torch_files import TorchFiles
from jaxprm.hub.weight_files import WeightFiles
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import parameter_shardings, parameters, with_parameters
from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.steps.format import StepEncoder
from jaxprm.steps.hf_tokenizer import HFTokenizer, load_hf_tokenizer
from jaxprm.steps.tokenizers import Tokenizer

GENERATION_CONFIG = "generation_config.json"
REWARD_HEAD = "reward_head.pt"
# Neither a head nor a backbone reads these: an output matrix that a head has replaced, whatever wraps it.
_UNREAD = ("lm_head.*", "pretrained_model.lm_head.*")


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A checkpoint, opened: where its parts lie, and what they are before tensors are read."""

    checkpoint: Checkpoint
    config: HFConfig
    weights: WeightFiles
    tokenizer: HFTokenizer

    @classmethod
    def open(cls, directory: str | os.PathLike, base: str | os.PathLike | None = None, inner: str = "") -> Parts:
        """Raises InputError if a part is missing or broken."""
        checkpoint = find_checkpoint(local_directory(directory), base=None if base is None else local_directory(base),
                                     inner=inner)
        config = read_hf_config(checkpoint.config)
        weights = open_weights(checkpoint.weights)
        if checkpoint.adapter is not None:
            weights = merged(weights, checkpoint.adapter)
        return cls(checkpoint, config, weights, load_hf_tokenizer(checkpoint.tokenizer))

    def check_vocabulary(self, rows: int) -> None:
        """Raises InputError if the tokenizer has ids beyond the ``rows`` of embeddings, or is not that of the config."""
        entries = self.tokenizer.vocab_size
        if entries > rows:
            raise InputError(f"the tokenizer has {entries} entries, the embedding table {rows} rows",
                             file=self.checkpoint.tokenizer, hint="this tokenizer is not that of the model")
        for name in ("bos_token_id", "eos_token_id"):
            for value in _ids(self.config.raw, name):
                if value >= entries:
                    raise InputError(f"the tokenizer has only {entries} entries", file=self.checkpoint.config / CONFIG,
                                     field=name, value=value, hint="this tokenizer is not that of the model")


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedModel(Parts):
    """What a checkpoint is, before its tensors are read.

    Attributes:
      family: of a published model, ``None`` for one that we trained and exported.
      settings: how the family is read.
      encoder: text -> tokens and read positions.
      head: how its head is made, ``None`` for an implicit model.
      transformer: the decoder; for PQM with as many embedding rows as the files have.
      recorded: what an export has noted about where the model comes from.
    """

    family: Family | None
    settings: Settings
    encoder: FamilyEncoder | StepEncoder
    head: HeadRule | None
    transformer: TransformerConfig
    recorded: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def info(self) -> dict[str, Any]:
        """Where the model comes from, as JSON values."""
        return {**self.recorded, "family": self.family.name if self.family else OWN, **self.settings.as_json(),
                "architecture": self.config.architecture, "model_type": self.config.model_type,
                "source": os.fspath(self.checkpoint.adapter or self.checkpoint.weights)}

    def head_source(self) -> HeadSource:
        """What the head is cut from."""
        path = self.checkpoint.weights / REWARD_HEAD
        extra = TorchFiles(path, [path]) if path.is_file() else None
        return HeadSource(self.weights, self.transformer, getattr(self.encoder, "columns", None), extra)


def open_prm(directory: str | os.PathLike, family: str | None = None, *, settings: Settings = Settings(),
             base: str | os.PathLike | None = None, reference: bool = False) -> OpenedModel:
    """Finds out what a Hugging Face directory holds; headers and small files are read, tensors are not.

    Args:
      directory: a checkpoint, an adapter, or a repository with one inside; ``hf:ORG/NAME`` is downloaded.
      family: one of `FAMILIES`; ``None`` = what the directory says.
      settings: further choices within the family; what an exported model says is the default.
      base: directory of the model that an adapter or bare weights belong to (``hf:ORG/NAME`` is downloaded).
      reference: whether there is a reference model, which only implicit models have.

    Raises:
      InputError: a part is missing or broken, the family is not certain (the candidates are listed) or does not fit.
    """
    parts = Parts.open(directory, base, settings.variant)
    checkpoint, config, weights, tokenizer = parts.checkpoint, parts.config, parts.weights, parts.tokenizer
    transformer = config.transformer
    section = config.raw.get("jaxprm")
    if isinstance(section, dict) and family is None:
        own = own_model(section, tokenizer, checkpoint.config / CONFIG)
        if own is not None:
            _refuse_settings(settings, reference)
            return OpenedModel(checkpoint, config, weights, tokenizer, None, settings, own.encoder, own.head, transformer,
                               own.info)
        family, settings = _recorded(section, settings, checkpoint.config / CONFIG)
    if family is not None:
        chosen = family_named(family)
    else:
        chosen = detect(_evidence(parts, reference), checkpoint.adapter or checkpoint.weights)
    if reference != (chosen.head is None):
        said = "needs one" if chosen.head is None else f"the family {chosen.name} has none"
        raise InputError(said, field="reference", hint="give it with --reference" if chosen.head is None else "leave it out")
    if settings.separator is None and chosen.separator_field is not None:
        settings = dataclasses.replace(settings, separator=config.raw.get(chosen.separator_field))
    try:
        encoder = chosen.encoder(tokenizer, settings)
    except InputError as error:
        raise error.located(file=error.file or checkpoint.tokenizer) from None
    if chosen.name == "pqm":  # published with a table that was resized after its config was written
        transformer = dataclasses.replace(transformer, vocab_size=stored_vocabulary(weights))
    return OpenedModel(checkpoint, config, weights, tokenizer, chosen, settings, encoder, chosen.head, transformer)


def load_prm(directory: str | os.PathLike, family: str | None = None, reference: str | os.PathLike | None = None, *,
             dtype: str = "float32", settings: Settings = Settings(), base: str | os.PathLike | None = None,
             mesh: jax.sharding.Mesh | None = None) -> LoadedModel:
    """Loads a process reward model, ready for `StepScorer`.

    Args:
      directory: a published checkpoint, a directory of our own (``jaxprm-model-1``), the run that trained it, or an export;
        ``hf:ORG/NAME`` is downloaded.
      family: one of `FAMILIES`; ``None`` = what the directory says.
      reference: directory of the reference model of an implicit one.
      dtype: "float32" or "bfloat16", of weights and activations; heads, norms and softmax stay in float32.
      settings: further choices within the family.
      base: directory of the model that an adapter or bare weights belong to.
      mesh: devices to load to, each its own part; ``None`` = the first device.

    Raises:
      InputError: as `open_prm` and `load_reward_model`; tensors that are missing, unknown or of another shape are listed.
    """
    _check_dtype(dtype)
    path = local_directory(directory)
    if is_own(path):
        if family is not None or reference is not None or base is not None or settings != Settings():
            raise InputError("says itself how it is read; leave family, reference and other settings out", file=path)
        loaded = load_reward_model(path)
        model = loaded.model
        if isinstance(model, ImplicitModel):
            parts = {name: _cast(getattr(model, name), dtype, mesh) for name in ("policy", "reference")}
            model = dataclasses.replace(model, **parts)
        else:
            model = _cast(model, dtype, mesh)
        return dataclasses.replace(loaded, model=model)
    opened = open_prm(path, family, settings=settings, base=base, reference=reference is not None)
    opened.check_vocabulary(opened.transformer.vocab_size)
    if reference is not None:
        model = ImplicitModel(_language_model(opened, dtype, mesh), _reference(reference, opened, dtype, mesh),
                              IMPLICIT_COEFFICIENT)
        return LoadedModel(model, opened.encoder, opened.info | {"reference": os.fspath(reference)})
    return LoadedModel(_reward_model(opened, dtype, mesh), opened.encoder, opened.info)


@dataclasses.dataclass(frozen=True, eq=False)
class CausalModel:
    """A language model that writes.

    Attributes:
      tokenizer: text <-> ids.
      end_ids: tokens that end a text, each as good as the others.
      encoder: how steps are written, if the model says so (ours do); ``None`` for a published one.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    end_ids: tuple[int, ...]
    encoder: StepEncoder | None = None


def load_causal_model(directory: str | os.PathLike, *, dtype: str = "float32") -> CausalModel:
    """Loads a language model: a Hugging Face directory (an adapter too), a directory of our own, or its export.

    Args:
      directory: where; ``hf:ORG/NAME`` is downloaded.
      dtype: as in `load_prm`.

    Raises:
      InputError: as `load_language_model` and `Parts.open`; a model with a head for its output matrix, or without an end
        token; tensors that are missing, unknown or of another shape are listed.
    """
    _check_dtype(dtype)
    path = local_directory(directory)
    if is_own(path):
        loaded = load_language_model(path)
        return CausalModel(_cast(loaded.model, dtype, None), loaded.encoder.tokenizer, (loaded.encoder.end_id,), loaded.encoder)
    parts = Parts.open(path)
    config, section = parts.config, parts.config.raw.get("jaxprm")
    file = parts.checkpoint.config / CONFIG
    if not config.architecture.endswith(("ForCausalLM", "ForConditionalGeneration")):
        raise InputError("is not a language model", file=file, field="architectures", value=config.architecture,
                         hint="a policy writes text: give a model of class *ForCausalLM")
    parts.check_vocabulary(config.transformer.vocab_size)
    encoder = own_format(section, parts.tokenizer, file) if isinstance(section, dict) else None
    end_ids = (encoder.end_id,) if encoder else _end_ids(parts)
    if not end_ids:
        raise InputError("is missing: no token ends a text", file=file, field="eos_token_id",
                         hint="name the end token in generation_config.json or tokenizer_config.json")
    return CausalModel(read_language_model(parts.weights, config, dtype), parts.tokenizer, end_ids, encoder)


def _end_ids(parts: Parts) -> tuple[int, ...]:
    """What generation_config.json, config.json and the tokenizer name: not all of them know how a chat model ends its turn."""
    try:
        generation = json.loads((parts.checkpoint.config / GENERATION_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        generation = {}
    named = [*_ids(generation if isinstance(generation, dict) else {}, "eos_token_id"), *_ids(parts.config.raw, "eos_token_id")]
    own = parts.tokenizer.eos_id
    return tuple(dict.fromkeys([*named, *([] if own is None else [own])]))


def _ids(section: Mapping[str, Any], name: str) -> list[int]:
    """A field that holds an id, several, or none."""
    values = section.get(name)
    return [value for value in (values if isinstance(values, list) else [values]) if isinstance(value, int)]


def _check_dtype(dtype: str) -> None:
    if dtype not in ("float32", "bfloat16"):
        raise InputError("must be float32 or bfloat16", field="dtype", value=dtype)


def is_own(directory: Path) -> bool:
    """Whether a directory holds a model that jaxprm has saved (or a run that did), not a Hugging Face one."""
    try:
        config = json.loads((find_model(directory) / CONFIG).read_text(encoding="utf-8"))
    except (InputError, OSError, ValueError):
        return (directory / "status.json").is_file()
    return isinstance(config, dict) and config.get("format") == FORMAT


def _evidence(parts: Parts, reference: bool) -> Evidence:
    return Evidence(parts.config.architecture, parts.config.model_type,
                    frozenset(name.removeprefix("pretrained_model.") for name in parts.weights.names()),
                    frozenset(path.name for path in parts.checkpoint.weights.iterdir()), parts.tokenizer,
                    adapter=parts.checkpoint.adapter is not None, reference=reference)


def _recorded(section: Mapping[str, Any], settings: Settings, file: Path) -> tuple[str | None, Settings]:
    """Family and settings that an export has recorded; settings that are given now win."""
    columns = section.get("columns")
    recorded = Settings(section.get("variant") or "", section.get("separator"), tuple(columns) if columns else None)
    family = section.get("family")
    if family is not None and family not in FAMILIES:
        raise InputError("is not a family that this version knows", file=file, field="jaxprm.family", value=family)
    return family, dataclasses.replace(recorded, **{field.name: getattr(settings, field.name)
                                                    for field in dataclasses.fields(settings) if getattr(settings, field.name)})


def _refuse_settings(settings: Settings, reference: bool) -> None:
    if settings != Settings() or reference:
        raise InputError("this model says itself how it is read; leave family, reference and other settings out")


def _reward_model(opened: OpenedModel, dtype: str, mesh: jax.sharding.Mesh | None) -> RewardModel:
    transformer = dataclasses.replace(opened.transformer, dtype=dtype)
    try:
        head, values = opened.head.load(opened.head_source())
    except InputError as error:
        raise error.located(file=error.file or opened.weights.source) from None
    empty = jax.eval_shape(lambda: RewardModel(transformer, head, rngs=nnx.Rngs(0)))
    claimed = [f"{prefix}{claim}.*" for claim in opened.head.claims for prefix in ("", "pretrained_model.")]
    shardings = None if mesh is None else parameter_shardings(parameters(empty), mesh)
    backbone = load_backbone(opened.weights, transformer, opened.config.model_type, claimed=(*claimed, *_UNREAD), dtype=dtype,
                             shardings=shardings)
    named = {f"head.{name}": jnp.asarray(value) for name, value in values.items()}
    if shardings is not None:
        named = {name: jax.device_put(value, shardings[name]) for name, value in named.items()}
    return with_parameters(empty, backbone | named, source=opened.weights.source)


def _language_model(opened: OpenedModel, dtype: str, mesh: jax.sharding.Mesh | None) -> LanguageModel:
    return read_language_model(opened.weights, opened.config, dtype, mesh)


def read_language_model(weights: WeightFiles, config: HFConfig, dtype: str,
                        mesh: jax.sharding.Mesh | None = None) -> LanguageModel:
    """A causal language model from its tensors."""
    transformer = dataclasses.replace(config.transformer, dtype=dtype)
    empty = jax.eval_shape(lambda: LanguageModel(transformer, rngs=nnx.Rngs(0)))
    shardings = None if mesh is None else parameter_shardings(parameters(empty), mesh)
    values = load_backbone(weights, transformer, config.model_type, language_model=True, dtype=dtype, shardings=shardings)
    return with_parameters(empty, values, source=weights.source)


def _reference(directory: str | os.PathLike, policy: OpenedModel, dtype: str,
               mesh: jax.sharding.Mesh | None) -> LanguageModel:
    checkpoint = find_checkpoint(local_directory(directory))
    config, tokenizer = read_hf_config(checkpoint.config), load_hf_tokenizer(checkpoint.tokenizer)
    probe, _ = policy.encoder.encode("What is 12 + 30? Give √x, too.", ["First, 12 + 30 = 42.", "So x = 42."])
    text = policy.tokenizer.decode(probe)
    if tokenizer.encode(text) != policy.tokenizer.encode(text):
        raise InputError("its tokenizer gives other ids than that of the model", file=checkpoint.tokenizer, field="reference",
                         hint="give the model that this one was trained from")
    return read_language_model(open_weights(checkpoint.weights), config, dtype, mesh)


_Own = TypeVar("_Own", RewardModel, LanguageModel)


def _cast(model: _Own, dtype: str, mesh: jax.sharding.Mesh | None) -> _Own:
    """A model of our own in another type: activations and backbone weights, the head stays float32."""
    config = dataclasses.replace(model.config, dtype=dtype) if dtype != "float32" else model.config
    head = (model.head.config,) if isinstance(model, RewardModel) else ()
    empty = jax.eval_shape(lambda: type(model)(config, *head, rngs=nnx.Rngs(0)))
    values = {name: value.astype(dtype) if name.startswith("backbone.") else value
              for name, value in parameters(model).items()}
    if mesh is not None:
        values = jax.device_put(values, parameter_shardings(values, mesh))
    return with_parameters(empty, values)

