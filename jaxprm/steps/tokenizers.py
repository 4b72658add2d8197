"""Text <-> token ids: sentencepiece models and Hugging Face ``tokenizer.json`` files behind one small interface."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxprm.errors import InputError


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the project asks of a tokenizer. Ids are ints; ``encode`` adds no special tokens."""

    @property
    def vocab_size(self) -> int:
        """The greatest id + 1: rows that an embedding needs (ids may have gaps)."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the tokenizer file: two tokenizers with one fingerprint give the same ids."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_id(self, piece: str) -> int | None:
        """Id of an exact vocabulary entry, ``None`` if there is none."""

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the tokenizer file so that `load_tokenizer(directory)` gives it back."""


class SentencePieceTokenizer:
    """A ``tokenizer.model`` file."""

    file_name = "tokenizer.model"

    def __init__(self, model: bytes):
        import sentencepiece

        self._bytes = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.fingerprint = hashlib.sha256(model).hexdigest()

    @property
    def vocab_size(self) -> int:
        return self._processor.vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def token_id(self, piece: str) -> int | None:
        found = self._processor.piece_to_id(piece)
        return found if self._processor.id_to_piece(found) == piece else None

    def save(self, directory: str | os.PathLike) -> None:
        Path(directory, self.file_name).write_bytes(self._bytes)


class JsonTokenizer:
    """A ``tokenizer.json`` file (the `tokenizers` library)."""

    file_name = "tokenizer.json"

    def __init__(self, text: str):
        import tokenizers

        self._text = text
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    @functools.cached_property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_id(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)

    def save(self, directory: str | os.PathLike) -> None:
        Path(directory, self.file_name).write_text(self._text, encoding="utf-8")


def train_sentencepiece(texts: Iterable[str], vocab_size: int, *, symbols: Sequence[str] = (),
                        model_type: str = "bpe", byte_fallback: bool = True) -> SentencePieceTokenizer:
    """Trains a sentencepiece model on texts.

    Args:
      texts: training texts, one string each; white space is kept as it is (no normalisation).
      vocab_size: upper bound of the vocabulary; a small corpus ends with fewer pieces.
      symbols: strings that are always one token of their own, never merged or split (step separators).
      model_type: "bpe" or "unigram".
      byte_fallback: characters that the training texts lack become bytes (256 more pieces), else the unknown token.

    Ids 0, 1, 2, 3 are padding, unknown, begin and end of text.
    """
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=vocab_size, model_type=model_type,
        user_defined_symbols=list(symbols), pad_id=0, unk_id=1, bos_id=2, eos_id=3, pad_piece="<pad>", unk_piece="<unk>",
        bos_piece="<s>", eos_piece="</s>", byte_fallback=byte_fallback, hard_vocab_limit=False, character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1, minloglevel=2,
        max_sentence_length=1 << 16)
    return SentencePieceTokenizer(written.getvalue())


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads ``tokenizer.json`` or ``tokenizer.model`` from a directory (the first where both exist) or from a file.

    Raises:
      InputError: neither is there, or the file is not a tokenizer.
    """
    path = Path(path)
    kinds = (JsonTokenizer, SentencePieceTokenizer)
    inside = (path / kind.file_name for kind in kinds if (path / kind.file_name).is_file())
    found = path if path.is_file() else next(inside, None)
    if found is None:
        raise InputError("no tokenizer.json or tokenizer.model here", file=path,
                         hint="give a checkpoint or tokenizer directory")
    try:
        if found.suffix == ".json":
            return JsonTokenizer(found.read_text(encoding="utf-8"))
        return SentencePieceTokenizer(found.read_bytes())
    except Exception as error:  # both libraries raise bare Exception / RuntimeError for a broken file
        raise InputError(f"is not a tokenizer file ({str(error).splitlines()[0]})", file=found) from error
