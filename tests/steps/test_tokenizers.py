"""Tokenizers: exact vocabulary entries, round trips, files, determinism."""

import hashlib

import pytest

from jaxprm.errors import InputError
from jaxprm.steps import JsonTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer, train_sentencepiece
from jaxprm.testing import character_tokenizer, word_tokenizer

TEXTS = [f"{i}) {i % 10} + {i % 7} = {(i % 10 + i % 7) % 10}\nAnswer: {i % 10}" for i in range(40)]


@pytest.fixture(scope="module")
def sentencepiece():
    return train_sentencepiece(TEXTS, 320, symbols=["\n"])


def test_sentencepiece_training_is_deterministic(sentencepiece):
    again = train_sentencepiece(TEXTS, 320, symbols=["\n"])
    assert again.fingerprint == sentencepiece.fingerprint
    assert train_sentencepiece(TEXTS[1:], 320, symbols=["\n"]).fingerprint != sentencepiece.fingerprint


def test_sentencepiece_ids(sentencepiece):
    assert [sentencepiece.token_id(piece) for piece in ("<pad>", "<unk>", "<s>", "</s>")] == [0, 1, 2, 3]
    newline = sentencepiece.token_id("\n")
    assert newline is not None and sentencepiece.encode("a\nb").count(newline) == 1
    assert sentencepiece.token_id("no such piece") is None and sentencepiece.token_id("<unk>") == 1
    for text in ("1) 7 + 5 = 2", "  two  spaces ", "naïve 数学", ""):
        assert sentencepiece.decode(sentencepiece.encode(text)) == text
    assert sentencepiece.vocab_size <= 320


def test_sentencepiece_without_bytes_has_the_unknown_token():
    tokenizer = train_sentencepiece(TEXTS, 60, byte_fallback=False, model_type="unigram")
    assert tokenizer.token_id("<unk>") in tokenizer.encode("数")


@pytest.mark.parametrize("make", [lambda: train_sentencepiece(TEXTS, 300, symbols=["\n"]), lambda: word_tokenizer(["a", "b"])],
                         ids=["model", "json"])
def test_files_round_trip(make, tmp_path):
    tokenizer = make()
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer) and isinstance(again, Tokenizer)
    written = (tmp_path / tokenizer.file_name).read_bytes()
    assert again.fingerprint == tokenizer.fingerprint == hashlib.sha256(written).hexdigest()
    assert again.encode("a b\nb") == tokenizer.encode("a b\nb") and again.vocab_size == tokenizer.vocab_size
    assert load_tokenizer(tmp_path / tokenizer.file_name).fingerprint == tokenizer.fingerprint


def test_a_directory_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tokenizer.json or tokenizer.model here; give a checkpoint or tokenizer directory"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", [JsonTokenizer, SentencePieceTokenizer])
def test_a_broken_file_is_one_line(kind, tmp_path):
    path = tmp_path / kind.file_name
    path.write_text('{"version": "1.0"')
    with pytest.raises(InputError, match="is not a tokenizer file") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_json_tokenizers_ignore_padding_and_truncation_and_special_tokens(tmp_path):
    """A tokenizer.json may ask for padding, truncation and a begin token on its own; a format decides that here."""
    import tokenizers

    plain = character_tokenizer("abc")
    inner = tokenizers.Tokenizer.from_str(plain._text)
    inner.enable_padding(length=8)
    inner.enable_truncation(2)
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = JsonTokenizer(inner.to_str())
    assert tokenizer.encode("abc") == plain.encode("abc") == [5, 6, 7]
    assert tokenizer.decode([1, 5, 2]) == "<s>a</s>"
    assert plain.vocab_size == 8 and plain.token_id("\n") == 3


def test_word_tokenizer_reads_back():
    tokenizer = word_tokenizer(["Q?", "a", "b"])
    assert tokenizer.encode("a b\nzzz") == [6, 7, 3, 4]
    assert tokenizer.decode([6, 7]) == "a b"
