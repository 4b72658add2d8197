"""Older tokenizer files as `tokenizers` objects: ``vocab.json`` with ``merges.txt``, sentencepiece ``tokenizer.model``.

The ids are those that published checkpoints were trained with: what transformers v4 and sentencepiece themselves give.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from jaxprm.errors import InputError

# How Qwen2 splits text before merging: one digit at a time, punctuation together with the newlines behind it.
_QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
                r"|\s+")
_SPACE = "▁"  # what sentencepiece writes for a blank
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # kinds of sentencepiece pieces
_BPE = 2  # sentencepiece's TrainerSpec.ModelType


def qwen2_from_files(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """The Qwen2 byte-level BPE of ``vocab.json`` and ``merges.txt``, without added tokens.

    Raises:
      InputError: a file that is not what its name says.
    """
    try:
        entries = json.loads(vocabulary.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").split("\n")
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        model = models.BPE(entries, pairs, continuing_subword_prefix="", end_of_word_suffix="")
    except Exception as error:  # json, decoding, and bare exceptions from the library
        raise InputError(f"is not a byte-level vocabulary with its merges ({error})", file=vocabulary) from error
    return _qwen2(model)


def _qwen2(model: models.BPE) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(_QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def is_qwen2(written: Mapping[str, Any]) -> bool:
    """Whether the content of a ``tokenizer.json`` prepares, splits and merges text as Qwen2 does, whatever its vocabulary."""
    reference = json.loads(_qwen2(models.BPE()).to_str())
    same = all(_without_offsets(written.get(part)) == _without_offsets(reference[part])
               for part in ("normalizer", "pre_tokenizer"))
    model = written["model"]
    others = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    return same and model.get("type", "BPE") == "BPE" and not any(model.get(name) for name in others)


def _without_offsets(part: Any) -> Any:
    """Without the setting that only moves the character offsets of a token, not its id."""
    if isinstance(part, list):
        return [_without_offsets(item) for item in part]
    if isinstance(part, Mapping):
        return {name: _without_offsets(value) for name, value in part.items() if name != "trim_offsets"}
    return part


def bpe_from_sentencepiece(file: Path, legacy: bool = True) -> tokenizers.Tokenizer:
    """A sentencepiece BPE model with its control and user-defined pieces as added tokens; it adds no begin token by itself.

    Args:
      file: ``tokenizer.model``.
      legacy: whether text behind an added token starts with a blank again, as Llama tokenizers do unless told otherwise.
        Without it, a text that starts with a blank gets no second one, unlike in sentencepiece (transformers v4 does that).

    Raises:
      InputError: no sentencepiece model, or one that is not BPE or rewrites its text.
    """
    try:
        pieces, trainer, normalizer = _read_model(file.read_bytes())
    except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise InputError("is not a tokenizer file (no sentencepiece model)", file=file) from error
    if trainer.get(3, 1) != _BPE:
        raise InputError("is a sentencepiece model of a kind other than BPE", file=file,
                         hint="convert it to tokenizer.json with the `tokenizers` library")
    if normalizer.get(2) or normalizer.get(4, 1):
        raise InputError("rewrites its text (character map, or removal of blanks), which is not supported", file=file,
                         hint="convert it to tokenizer.json with the `tokenizers` library")
    vocabulary = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    unknown = next((piece for piece, _, kind in pieces if kind == _UNKNOWN), None)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, _merges(pieces), unk_token=unknown, fuse_unk=True,
                                                byte_fallback=bool(trainer.get(35, 0))))
    prefix = bool(normalizer.get(3, 1))
    if legacy:
        steps = [normalizers.Prepend(_SPACE)] if prefix else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first" if prefix else "never", split=False)
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    # A symbol of one character is never merged, so it needs no added token, which would cut the text around it.
    tokenizer.add_tokens([tokenizers.AddedToken(piece, normalized=False, special=kind == _CONTROL)
                          for piece, _, kind in pieces if kind == _CONTROL or (kind == _USER_DEFINED and len(piece) > 1)])
    return tokenizer


def _merges(pieces: list[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others; the best score first, then the halves with the smaller ids."""
    ids = {piece: index for index, (piece, _, kind) in enumerate(pieces) if kind == _NORMAL}
    found = []
    for piece, score, kind in pieces:
        if kind == _NORMAL:
            halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
            known = [(left, right) for left, right in halves if left in ids and right in ids]
            found += [(score, pair) for pair in sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return [pair for _, pair in sorted(found, key=lambda entry: -entry[0])]


def _read_model(data: bytes) -> tuple[list[tuple[str, float, int]], dict, dict]:
    """(pieces as (text, score, kind), trainer settings, normaliser settings) of a sentencepiece ``ModelProto``."""
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(data):
        if number == 1:
            entry = dict(_fields(value))
            pieces.append((entry[1].decode(), struct.unpack("<f", entry.get(2, bytes(4)))[0], entry.get(3, _NORMAL)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("no pieces")
    return pieces, trainer, normalizer


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer message: integers as they are, everything else as bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        length = {1: 8, 2: None, 5: 4}.get(wire, -1)
        length = varint() if length is None else length
        if length < 0 or at + length > len(data):
            raise ValueError("not a protocol buffer message")
        yield number, data[at : at + length]
        at += length
