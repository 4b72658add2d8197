"""Where the parts of a published checkpoint lie: weights, config, tokenizer, an adapter and what it adapts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from jaxprm.errors import InputError
from jaxprm.hub.hf_config import CONFIG
from jaxprm.hub.lora import ADAPTER_CONFIG, is_adapter, read_adapter_config

HUB = "hf:"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
_DOWNLOADED = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.model", "*.txt", "*.jinja")
# Published repositories that keep the model in a folder: PQM (one per margin), and adapters beside what they adapt.
_INNER = ("zeta-2", "adapter", "prm")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint; each is a directory.

    Attributes:
      weights: holds the tensors; for an adapter, of the model that it adapts.
      config: holds config.json.
      tokenizer: holds the tokenizer.
      adapter: holds a LoRA adapter, or ``None``.
    """

    weights: Path
    config: Path
    tokenizer: Path
    adapter: Path | None = None


def find_checkpoint(directory: str | os.PathLike, *, base: str | os.PathLike | None = None, inner: str = "") -> Checkpoint:
    """Finds the parts of a checkpoint.

    Args:
      directory: with the weights (or the adapter), or a repository that holds such a directory.
      base: where to find what is missing there: config and tokenizer of bare weights, the model of an adapter. Without it
        the directories beside it are searched, and an adapter is asked for its base.
      inner: preferred folder inside ``directory``, if that holds no model itself.

    Raises:
      InputError: there is no checkpoint, or a part of it cannot be found.
    """
    directory = _inner(Path(directory), inner)
    base = None if base is None else Path(base)
    if is_adapter(directory):
        model = base or _adapted(directory)
        return Checkpoint(model, model, directory if _has_tokenizer(directory) else model, directory)
    places = [directory, base] if base else [directory, *_around(directory)]
    config = _first(places, lambda place: (place / CONFIG).is_file(), directory, CONFIG)
    tokenizer = _first([directory, config, *places], _has_tokenizer, directory, "tokenizer")
    return Checkpoint(directory, config, tokenizer)


def local_directory(name: str | os.PathLike) -> Path:
    """A directory on this machine; ``hf:ORG/NAME`` is downloaded from the Hugging Face Hub first.

    Raises:
      InputError: there is no such directory; huggingface_hub is not installed, or the download failed.
    """
    text = os.fspath(name)
    if not text.startswith(HUB):
        path = Path(text)
        if not path.is_dir():
            hint = f"for a model on the Hub write {HUB}ORG/NAME" if text.count("/") == 1 else "give a model or run directory"
            raise InputError("no such directory", file=path, hint=hint)
        return path
    repository = text.removeprefix(HUB)
    try:
        import huggingface_hub
    except ImportError:
        raise InputError("downloading needs the package huggingface_hub", field="model", value=text,
                         hint="pip install huggingface_hub, or give a local directory") from None
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(_DOWNLOADED)))
    except Exception as error:  # no network, no such repository, no access, a full disk: the library has a class for each
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot be downloaded ({said})", field="model", value=text,
                         hint="check the name and the network, or give a local directory") from error


def _inner(directory: Path, preferred: str) -> Path:
    if not directory.is_dir():
        raise InputError("no such directory", file=directory, hint="give a model or run directory")
    if _holds_model(directory):
        return directory
    folders = {folder.name: folder for folder in sorted(directory.iterdir()) if folder.is_dir() and _holds_model(folder)}
    chosen = next((name for name in (preferred, *_INNER) if name in folders), None)
    if chosen is None:
        found = f"; its folders {', '.join(folders)} do" if folders else ""
        raise InputError(f"holds no weights{found}", file=directory, hint="give a model or run directory")
    return folders[chosen]


def _holds_model(directory: Path) -> bool:
    return is_adapter(directory) or any(any(directory.glob(pattern)) for pattern in _WEIGHTS)


def _has_tokenizer(directory: Path) -> bool:
    return any((directory / name).is_file() for name in _TOKENIZERS)


def _around(directory: Path) -> list[Path]:
    """The parent and the directories beside it, if they are a model's parts."""
    parent = directory.resolve().parent
    return [parent, *(folder for folder in sorted(parent.iterdir()) if folder.is_dir() and folder != directory.resolve()
                      and _has_tokenizer(folder) and not _holds_model(folder))]


def _first(places: list[Path], fits: Callable[[Path], bool], directory: Path, what: str) -> Path:
    if fits(directory):
        return directory
    found = list(dict.fromkeys(place for place in places if fits(place)))
    if len(found) != 1:
        problem = f"holds no {what}" + (f"; several directories beside it do: {', '.join(map(str, found))}" if found else "")
        raise InputError(problem, file=directory, hint="name the model it was made from with --base")
    return found[0]


def _adapted(adapter: Path) -> Path:
    named = read_adapter_config(adapter).get("base_model_name_or_path")
    if isinstance(named, str) and named:
        for place in (adapter / named, Path(named)):
            if (place / CONFIG).is_file():
                return place
    raise InputError("the model that it adapts is not on this machine", file=adapter / ADAPTER_CONFIG,
                     field="base_model_name_or_path", value=named, hint="name it with --base (hf:ORG/NAME downloads it)")
