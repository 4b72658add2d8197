"""Model directories of our own: one trained model with all that is needed to read text with it.

    config.json          format, kind, architecture, head, step format, tokenizer fingerprint, where it comes from
    model.safetensors    dotted parameter name -> array, see `jaxprm.models.parameters`; those of an implicit model begin with
                         "policy." or "reference."
    tokenizer.model      or tokenizer.json

A directory is written whole or not at all, and read strictly: what does not fit together is refused with one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

import jaxprm
from jaxprm.errors import InputError
from jaxprm.hub.json_dataclass import from_json
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.models.reward_model import HeadConfig, PolicyRewardModel, RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.scoring.aggregation import AGGREGATIONS
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.steps.format import StepEncoder, StepFormat
from jaxprm.steps.tokenizers import Tokenizer, load_tokenizer

FORMAT = "jaxprm-model-1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Fields that came after the format: a model without them was made by code that computed what their defaults say.
_ADDED = frozenset(("activation", "mlp_bias", "norm_plus_one", "post_norms", "embed_scale", "query_scale", "attention_softcap",
                    "logit_softcap", "windows", "rope_scaling", "local_rope_theta", "attention", "hidden", "members", "levels",
                    "beta", "rows", "direction"))

_KINDS: dict[str, type] = {"reward_model": RewardModel, "policy_reward_model": PolicyRewardModel,
                           "language_model": LanguageModel, "implicit_model": ImplicitModel}

Model = TypeVar("Model", RewardModel, LanguageModel, ImplicitModel)


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel(Generic[Model]):
    """A model, the encoder that turns text into its tokens (a `StepEncoder`, or that of a published family), and ``info``:
    where it comes from."""

    model: Model
    encoder: Any
    info: dict[str, Any]


def save_model(directory: str | os.PathLike, model: RewardModel | LanguageModel | ImplicitModel, encoder: StepEncoder,
               info: Mapping[str, Any]) -> Path:
    """Writes a model directory, all or nothing; one that is there already is replaced.

    Args:
      directory: where; its parent is created.
      model: the trained model.
      encoder: step format and tokenizer it was trained with.
      info: where it comes from, as JSON values (config hash, training files, threshold, ...).

    Raises:
      InputError: there are other files in the directory, the tokenizer has more entries than the model, or the two models of
        an implicit one differ in architecture.
    """
    directory = Path(directory)
    kind = next(name for name, cls in _KINDS.items() if type(model) is cls)
    _check_vocabulary(model.config, encoder.tokenizer, directory)
    architecture = dataclasses.asdict(model.config)
    del architecture["attention"]  # how this machine computed, not what the model is
    config = {"format": FORMAT, "kind": kind, "jaxprm": jaxprm.__version__, "transformer": architecture}
    if isinstance(model, RewardModel):
        config["head"] = dataclasses.asdict(model.head.config)
    if isinstance(model, ImplicitModel):
        if model.policy.config != model.reference.config:
            raise InputError("has another architecture than the policy", field="reference", value=str(model.reference.config))
        config["coefficient"] = model.coefficient
    config |= {"step_format": dataclasses.asdict(encoder.format),
               "tokenizer": {"sha256": encoder.tokenizer.fingerprint}, "info": dict(info)}
    with new_directory(directory) as folder:
        encoder.tokenizer.save(folder)
        arrays = {name: np.asarray(value, np.float32) for name, value in _arrays(model).items()}
        safetensors.numpy.save_file(arrays, folder / WEIGHTS)
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    return directory


def _arrays(model: RewardModel | LanguageModel | ImplicitModel) -> dict[str, jax.Array]:
    if not isinstance(model, ImplicitModel):
        return parameters(model)
    return {f"{part}.{name}": value for part in ("policy", "reference")
            for name, value in parameters(getattr(model, part)).items()}


def load_reward_model(directory: str | os.PathLike) -> LoadedModel[RewardModel]:
    """Reads a reward model from its directory, or from the directory of the run that trained it.

    A policy that is its own reward model comes as `PolicyRewardModel`, an implicit one as `ImplicitModel`.

    Raises:
      InputError: no such directory, another format or kind, a value of the config that is missing, unknown or wrong,
        tensors that are missing, unknown or of another shape (all of them in one line), a tokenizer that is not the one
        the model was trained with, or one that lacks the step format's special tokens.
    """
    return _load(directory, ("reward_model", "policy_reward_model", "implicit_model"))


def load_language_model(directory: str | os.PathLike) -> LoadedModel[LanguageModel]:
    """As `load_reward_model`, for a language model; of a policy that is its own reward model it is the policy."""
    loaded = _load(directory, ("language_model", "policy_reward_model"))
    model = loaded.model.policy() if isinstance(loaded.model, PolicyRewardModel) else loaded.model
    return dataclasses.replace(loaded, model=model)


def find_model(directory: str | os.PathLike) -> Path:
    """``directory`` itself if it is a model directory, or the reward model in it if it is that of a run.

    Raises:
      InputError: neither holds a model.
    """
    directory = Path(directory)
    for name in ("model", "reward_model"):
        if (directory / name / CONFIG).is_file():
            return directory / name
    if not directory.is_dir():
        raise InputError("no such directory", file=directory, hint="give a model or run directory")
    if (directory / "status.json").is_file():
        raise InputError("is a run without a model", file=directory,
                         hint="finish the run with the command that began it")
    if not (directory / CONFIG).is_file():
        raise InputError(f"holds no {CONFIG}", file=directory, hint="give a model or run directory")
    return directory


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
    """The content of a model directory's ``config.json``.

    Raises:
      InputError: it cannot be read, or is of another format.
    """
    path = find_model(directory) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", file=path, hint="the model directory is damaged") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise InputError(f"is not '{FORMAT}'", file=path, field="format", value=found,
                         hint="this is not a model that jaxprm has saved")
    return config


def read_architecture(directory: str | os.PathLike) -> TransformerConfig:
    """The architecture of a saved model, from its ``config.json`` alone.

    Raises:
      InputError: as `read_config`, or a value of the architecture is missing, unknown or wrong.
    """
    file = find_model(directory) / CONFIG
    return from_json(TransformerConfig, read_config(directory).get("transformer"), file, "transformer", _ADDED)


def _load(directory: str | os.PathLike, kinds: tuple[str, ...]) -> LoadedModel:
    config = read_config(directory)
    folder = find_model(directory)
    path = folder / CONFIG
    kind = config.get("kind")
    if kind not in kinds:
        raise InputError(f"is not a {kinds[0]}", file=path, field="kind", value=kind, hint=f"give one of {', '.join(kinds)}")
    architecture = [read_architecture(directory)]
    if kind in ("reward_model", "policy_reward_model"):
        architecture.append(from_json(HeadConfig, config.get("head"), path, "head", _ADDED))
    step_format = from_json(StepFormat, config.get("step_format"), path, "step_format")
    if step_format.aggregation not in AGGREGATIONS:
        raise InputError(f"must be one of {', '.join(AGGREGATIONS)}", file=path, field="step_format.aggregation",
                         value=step_format.aggregation)
    info = config.get("info", {})
    if not isinstance(info, dict):
        raise InputError("must be a JSON object", file=path, field="info", value=info)

    tokenizer = load_tokenizer(folder)
    recorded = config["tokenizer"].get("sha256") if isinstance(config.get("tokenizer"), dict) else None
    if tokenizer.fingerprint != recorded:
        raise InputError(f"the tokenizer beside it has {tokenizer.fingerprint[:12]}...", file=path,
                         field="tokenizer.sha256", value=recorded,
                         hint="this model was trained with another tokenizer; put that one back")
    _check_vocabulary(architecture[0], tokenizer, path)
    try:
        encoder = StepEncoder(step_format, tokenizer)
    except InputError as error:
        raise InputError(f"the tokenizer does not fit: {error}", file=path, field="step_format") from None

    tensors = _read_tensors(folder / WEIGHTS)
    if kind == "implicit_model":
        return LoadedModel(_implicit(architecture[0], config.get("coefficient"), tensors, folder), encoder, info)
    try:
        empty = jax.eval_shape(lambda: _KINDS[kind](*architecture, rngs=nnx.Rngs(0)))
    except InputError as error:
        raise InputError(error.message, file=path, field=f"head.{error.field}", value=error.value) from None
    return LoadedModel(with_parameters(empty, tensors, source=folder / WEIGHTS), encoder, info)


def _implicit(architecture: TransformerConfig, coefficient: Any, tensors: dict[str, jax.Array], folder: Path) -> ImplicitModel:
    if not isinstance(coefficient, float) or not 0 < coefficient < float("inf"):
        raise InputError("must be a positive number", file=folder / CONFIG, field="coefficient", value=coefficient)
    empty = jax.eval_shape(lambda: LanguageModel(architecture, rngs=nnx.Rngs(0)))
    unknown = [name for name in tensors if not name.startswith(("policy.", "reference."))]
    if unknown:
        raise InputError(f"parameters do not fit the architecture: unknown {', unknown '.join(unknown)}", file=folder / WEIGHTS)
    policy, reference = ({name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
                         for part in ("policy.", "reference."))
    return ImplicitModel(with_parameters(empty, policy, source=folder / WEIGHTS),
                         with_parameters(empty, reference, source=folder / WEIGHTS), coefficient)


def _read_tensors(path: Path) -> dict[str, jax.Array]:
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot be read ({error})", file=path, hint="the model directory is damaged") from None
    for name, value in tensors.items():
        if value.dtype != np.float32:
            raise InputError(f"has type {value.dtype}, expected float32", file=path, field=name)
        if not np.isfinite(value).all():
            raise InputError("holds numbers that are not finite", file=path, field=name)
    return {name: jnp.asarray(value) for name, value in tensors.items()}


def _check_vocabulary(config: TransformerConfig, tokenizer: Tokenizer, file: Path) -> None:
    # More rows than entries are fine: tables are padded so that they can be split.
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(f"the tokenizer has {tokenizer.vocab_size} entries", file=file, field="transformer.vocab_size",
                         value=config.vocab_size)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place if the block succeeds."""
    if path.exists() and not (path / CONFIG).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise InputError("exists and is not a model directory", file=path, hint="choose another directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{suffix}") for suffix in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
