"""The tokenizer of a Hugging Face model directory: its ids, special tokens, begin-of-text rule, chat template, and its export.

Reading goes through the `tokenizers` library alone. What transformers adds to that (tokens from ``tokenizer_config.json``, the
class that decides whether a begin token stands first) is resolved here as transformers v4 does, because published checkpoints
were trained and scored that way; transformers v5 differs silently in several cases. The result is one ``tokenizer.json`` that
says everything by itself, and that is what an export writes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from jaxprm.errors import InputError
from jaxprm.steps.chat import ChatTemplate, chat_template_sources
from jaxprm.steps.tokenizer_files import bpe_from_sentencepiece, is_qwen2, qwen2_from_files

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The class that transformers v4 takes where tokenizer_config.json names none, by the model_type of config.json.
_CLASS_OF_MODEL = {"llama": "Llama", "mistral": "Llama", "gemma": "Gemma", "gemma2": "Gemma", "gemma3": "Gemma",
                   "gemma3_text": "Gemma", "qwen2": "Qwen2", "qwen3": "Qwen2"}
# Special tokens of classes that have some of their own, used where the key is absent; an explicit null means none.
_CLASS_TOKENS = {
    "Llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "Qwen2": {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}}
# Classes that replace the post-processor of tokenizer.json by add_bos_token (default true) and add_eos_token (default false).
_OWN_RULE = ("Llama", "Gemma")


class HFTokenizer:
    """Text <-> ids of a published checkpoint. `load_hf_tokenizer` makes one.

    Attributes:
      special_tokens: text of each special token that is set, by its transformers name (``bos_token`` ...), and
        ``additional_special_tokens`` (a list) where there are any: the variables that a chat template sees.
      chat_templates: by name; ``default`` is the usual one.
      rule: one line, why a begin token is or is not added; for reports.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, special_tokens: Mapping[str, Any],
                 chat_templates: Mapping[str, ChatTemplate], rule: str, text: str | None = None,
                 settings: Mapping[str, Any] | None = None):
        self._tokenizer, self._file_text, self._settings = tokenizer, text, dict(settings or {})
        self.special_tokens, self.chat_templates, self.rule = dict(special_tokens), dict(chat_templates), rule

    @functools.cached_property
    def vocab_size(self) -> int:
        """The greatest id + 1: rows that an embedding needs. Ids may have gaps, so this is no count."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @functools.cached_property
    def _text(self) -> str:
        return self._tokenizer.to_str() if self._file_text is None else self._file_text

    @property
    def fingerprint(self) -> str:
        """sha256 of the ``tokenizer.json`` that `files` gives."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text; ``special`` adds what the model expects around a whole text (a begin token, if any)."""
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def encode_spans(self, text: str, special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """As `encode`, and the characters ``[start, end)`` of the text that each id stands for; (0, 0) for added tokens."""
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def piece_texts(self) -> list[str]:
        """What each id adds to a text that is there; "" for ids that stand for nothing, "\ufffd" for parts of a character."""
        anchor = self.encode("a")
        text = self.decode(anchor)
        longer = self._tokenizer.decode_batch([[*anchor, i] for i in range(self.vocab_size)], skip_special_tokens=False)
        return [whole.removeprefix(text) for whole in longer]

    def token_id(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)

    def _special_id(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self.token_id(text)

    bos_token = property(lambda self: self.special_tokens.get("bos_token"))
    eos_token = property(lambda self: self.special_tokens.get("eos_token"))
    pad_token = property(lambda self: self.special_tokens.get("pad_token"))
    unk_token = property(lambda self: self.special_tokens.get("unk_token"))
    bos_id = property(lambda self: self._special_id("bos_token"))
    eos_id = property(lambda self: self._special_id("eos_token"))
    pad_id = property(lambda self: self._special_id("pad_token"))
    unk_id = property(lambda self: self._special_id("unk_token"))

    @property
    def add_bos(self) -> bool:
        """Whether ``encode(text, special=True)`` starts with the begin token."""
        return self.bos_id is not None and _surroundings(self._tokenizer)[0][:1] == [self.bos_id]

    @property
    def is_qwen2(self) -> bool:
        """Whether it splits text as Qwen2's tokenizer does, which transformers 5 does for every model of type qwen2."""
        return is_qwen2(json.loads(self._text))

    @property
    def chat(self) -> ChatTemplate | None:
        return self.chat_templates.get("default")

    def add_token(self, text: str) -> int:
        """Makes a text one special token of its own, as the last id if the vocabulary lacks it; returns the id.

        It changes this tokenizer (and its fingerprint). A model needs an embedding row for the new id.
        """
        before = self.token_id(text)
        if self._tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False)]) or before is None:
            self._file_text = None
            self.__dict__.pop("_text", None)
            self.__dict__.pop("vocab_size", None)
        return self.token_id(text)

    def files(self) -> dict[str, bytes]:
        """What a model directory needs so that transformers v4 and v5, vLLM and this package read the same ids.

        The class is the plain one, which takes ``tokenizer.json`` as it is; begin and end tokens are in its post-processor.
        One exception: transformers 5 splits text as Qwen2 does wherever config.json says ``"model_type": "qwen2"``, so a
        tokenizer of another kind beside such a model (`is_qwen2`) must be loaded there by
        ``PreTrainedTokenizerFast.from_pretrained``.
        """
        # A null is written where there is no such token: some classes of transformers 5 fill in their own for an absent key.
        absent = {name: None for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        templates = {name: template.source for name, template in self.chat_templates.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **absent, **self.special_tokens,
                  "model_max_length": self._settings.get("model_max_length", int(1e30)),
                  "padding_side": self._settings.get("padding_side", "right"),
                  "model_input_names": ["input_ids", "attention_mask"], "clean_up_tokenization_spaces": False}
        if templates:
            config["chat_template"] = (templates["default"] if list(templates) == ["default"] else
                                       [{"name": name, "template": source} for name, source in templates.items()])
        written = {"tokenizer.json": self._text, "tokenizer_config.json": _json(config),
                   "special_tokens_map.json": _json(self.special_tokens)}
        if "default" in templates and len(templates) == 1:
            written["chat_template.jinja"] = templates["default"]
        return {name: text.encode() for name, text in written.items()}

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `files`; both `load_hf_tokenizer` and `load_tokenizer` read them back to the same ids."""
        for name, data in self.files().items():
            Path(directory, name).write_bytes(data)


def load_hf_tokenizer(directory: str | os.PathLike, add_bos: bool | None = None) -> HFTokenizer:
    """Reads ``tokenizer.json``, else ``vocab.json`` with ``merges.txt``, else ``tokenizer.model``, with their settings.

    Args:
      directory: a model or tokenizer directory.
      add_bos: whether the begin token is added, against what the directory says; ``None`` follows it.

    Raises:
      InputError: no tokenizer here, a broken file, or a begin token that is asked for but not defined.
    """
    directory = Path(directory)
    config = _read_json(directory / "tokenizer_config.json")
    kind, named = _tokenizer_class(directory, config)
    tokenizer, file = _read_tokenizer(directory, config, kind)
    text = file.read_text(encoding="utf-8") if file.suffix == ".json" and file.name == "tokenizer.json" else None
    try:
        special, listed = _special_tokens(directory, config, kind)
        sources = chat_template_sources(directory, config)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError("special tokens or chat templates are not in the form of transformers "
                         f"({type(error).__name__}: {error})", file=directory / "tokenizer_config.json") from error
    vocabulary = tokenizer.get_vocab_size()
    _add_tokens(tokenizer, listed, special)
    if text is None:
        for index, token in listed.items():
            if tokenizer.token_to_id(token.content) != index:
                raise InputError(f"gives token {token.content!r} id {index}, the vocabulary leads to "
                                 f"{tokenizer.token_to_id(token.content)}", file=directory / "tokenizer_config.json",
                                 field="added_tokens_decoder", hint="add the tokenizer.json of this checkpoint")
    changed = tokenizer.get_vocab_size() != vocabulary

    rule = f"post-processor of {file.name}"
    wanted = _surroundings(tokenizer)
    if kind in _OWN_RULE:
        begin, end = config.get("add_bos_token", True), config.get("add_eos_token", False)
        rule = f"{named}: add_bos_token {str(begin).lower()}, add_eos_token {str(end).lower()}"
        wanted = _ids(tokenizer, special, "bos_token", begin, directory), _ids(tokenizer, special, "eos_token", end, directory)
    if add_bos is not None:
        rule = f"asked for: {'a' if add_bos else 'no'} begin token"
        wanted = _ids(tokenizer, special, "bos_token", add_bos, directory), wanted[1]
    if wanted != _surroundings(tokenizer):
        tokenizer.post_processor = _post_processor(tokenizer, *wanted)
        changed = True
    templates = {name: ChatTemplate(source, special, directory) for name, source in sources.items()}
    settings = {key: config[key] for key in ("model_max_length", "padding_side") if key in config}
    return HFTokenizer(tokenizer, special, templates, rule, None if changed else text, settings)


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", file=file) from error
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", file=file)
    return value


def _tokenizer_class(directory: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """(family name without "TokenizerFast", what named it)."""
    model = _read_json(directory / "config.json")
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    if name:
        return name.removesuffix("Fast").removesuffix("Tokenizer"), name
    kind = _CLASS_OF_MODEL.get(model.get("model_type"), "PreTrained")
    return kind, f"model_type {model.get('model_type')}"


def _read_tokenizer(directory: Path, config: Mapping[str, Any], kind: str) -> tuple[tokenizers.Tokenizer, Path]:
    """The bare tokenizer and the file it comes from."""
    file = directory / "tokenizer.json"
    if file.is_file():
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"is not a tokenizer file ({str(error).splitlines()[0]})", file=file) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer, file
    file, merges = directory / "vocab.json", directory / "merges.txt"
    if file.is_file() and merges.is_file():
        if kind not in ("Qwen2", "PreTrained"):
            raise InputError(f"a {kind} tokenizer in vocab.json and merges.txt is not supported", file=file,
                             hint="add the tokenizer.json of this checkpoint")
        return qwen2_from_files(file, merges), file
    file = directory / "tokenizer.model"
    if file.is_file():
        return bpe_from_sentencepiece(file, legacy=config.get("legacy") is not False or kind == "Gemma"), file
    raise InputError("no tokenizer.json, vocab.json with merges.txt, or tokenizer.model here", file=directory,
                     hint="give a checkpoint or tokenizer directory")


def _content(token) -> str:
    return token["content"] if isinstance(token, Mapping) else token


def _special_tokens(directory: Path, config: Mapping[str, Any],
                    kind: str) -> tuple[dict[str, Any], dict[int, tokenizers.AddedToken]]:
    """(special tokens by name, tokens with the id that they are declared to have).

    ``added_tokens_decoder`` marks files of transformers 4.34 and later; only with older ones is ``added_tokens.json`` read, and
    does ``special_tokens_map.json`` win.
    """
    found = {**_CLASS_TOKENS.get(kind, {}), **config}
    listed = {}
    if "added_tokens_decoder" in config:
        for index, token in config["added_tokens_decoder"].items():
            options = {key: token[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in token}
            listed[int(index)] = tokenizers.AddedToken(token["content"], **options)
    else:
        found.update(_read_json(directory / "special_tokens_map.json"))
    special: dict[str, Any] = {name: _content(found[name]) for name in _SPECIAL if found.get(name) is not None}
    if found.get("additional_special_tokens"):
        special["additional_special_tokens"] = [_content(token) for token in found["additional_special_tokens"]]
    if "added_tokens_decoder" not in config:
        for token, index in _read_json(directory / "added_tokens.json").items():
            known = token in special.values() or token in special.get("additional_special_tokens", ())
            listed[index] = tokenizers.AddedToken(token, special=known, normalized=not known)
    return special, listed


def _add_tokens(tokenizer: tokenizers.Tokenizer, listed: Mapping[int, tokenizers.AddedToken],
                special: Mapping[str, Any]) -> None:
    """Adds the declared tokens in the order of their ids, then the special tokens that are still missing."""
    names = [text for text in special.values() if isinstance(text, str)] + special.get("additional_special_tokens", [])
    for token in [token for _, token in sorted(listed.items())]:
        token.special = token.special or token.content in names
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for text in names:
        if text not in known:
            tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False)])


def _surroundings(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the post-processor puts before and behind a text."""
    encoding = tokenizer.encode("a", add_special_tokens=True)
    own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    first, last = (own[0], own[-1] + 1) if own else (len(encoding.ids), len(encoding.ids))
    return encoding.ids[:first], encoding.ids[last:]


def _ids(tokenizer: tokenizers.Tokenizer, special: Mapping[str, Any], name: str, wanted: bool, directory: Path) -> list[int]:
    if not wanted:
        return []
    if name not in special:
        raise InputError(f"a {name} is to be added, but none is defined", file=directory / "tokenizer_config.json", field=name,
                         hint=f"name one, or set add_{name} to false")
    return [tokenizer.token_to_id(special[name])]


def _post_processor(tokenizer: tokenizers.Tokenizer, before: list[int], behind: list[int]) -> processors.TemplateProcessing:
    piece = {index: tokenizer.id_to_token(index) for index in (*before, *behind)}
    single = [*(f"{piece[i]}:0" for i in before), "$A:0", *(f"{piece[i]}:0" for i in behind)]
    pair = [*single, *(f"{piece[i]}:1" for i in before), "$B:1", *(f"{piece[i]}:1" for i in behind)]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(piece[i], i) for i in piece])
