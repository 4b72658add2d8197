"""Tokenizers that a test can read: a word or a character is a token."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprm.steps import JsonTokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "\n")


def _vocabulary(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(dict.fromkeys((*SPECIAL, "<unk>", *pieces)))}


def word_tokenizer(words: Sequence[str]) -> JsonTokenizer:
    """Ids 0-3 are <pad>, <s>, </s> and a newline, 4 is <unk>, then the words in order; words are split at spaces."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(_vocabulary(words), unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split("\n", "isolated"), tokenizers.pre_tokenizers.Split(" ", "removed")])
    return JsonTokenizer(tokenizer.to_str())


def character_tokenizer(characters: str) -> JsonTokenizer:
    """Ids 0-3 are <pad>, <s>, </s> and a newline, 4 is <unk>, then the characters in order; text round-trips."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(_vocabulary(tuple(characters)), unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    return JsonTokenizer(tokenizer.to_str())
