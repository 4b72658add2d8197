"""Tokenizers of published directories: exact ids, begin-token rules, special tokens, older files, export."""

import hashlib
import json
import shutil

import pytest
import tokenizers
from tokenizers import processors

from jaxprm.errors import InputError
from jaxprm.steps import Tokenizer, load_hf_tokenizer, load_tokenizer, train_sentencepiece
from jaxprm.testing import character_tokenizer

NAMES = ["deepseek", "gemma", "llama3", "mistral", "qwen", "qwen_base", "qwen_vocab_merges", "sentencepiece_bpe"]
TEXTS = [f"{i}) {i % 10} + {i % 7} = {(i % 10 + i % 7) % 10}\nAnswer: {i % 10}" for i in range(40)]


def check(tokenizer, rows):
    for row in rows:
        assert tokenizer.encode(row["text"]) == row["ids"], row["text"]
        assert tokenizer.encode(row["text"], special=True) == row["ids_with_special"], row["text"]
        assert tokenizer.decode(row["ids"]) == row["decoded"], row["text"]


def write(directory, config=None, model=None, tokenizer=None, **more):
    """A tokenizer directory around a character tokenizer with `<s>` and `</s>` (ids 1 and 2)."""
    tokenizer = tokenizer or tokenizers.Tokenizer.from_str(character_tokenizer("abc")._text)
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, value in {"tokenizer_config": config, "config": model, **more}.items():
        if value is not None:
            (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_string(name, shared, tmp_path):
    folder = shared / "fixtures" / "hf" / "tokenizers" / name
    expected = json.loads((folder / "expected.json").read_text())
    tokenizer = load_hf_tokenizer(folder)
    check(tokenizer, expected["rows"])
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.vocab_size == expected["vocab_size"] and tokenizer.add_bos == expected["adds_bos"]
    assert {key: [text, tokenizer.token_id(text)] for key, text in tokenizer.special_tokens.items()} == expected["special"]
    assert len(expected["rows"]) >= 44

    tokenizer.save(tmp_path)
    again, plain = load_hf_tokenizer(tmp_path), load_tokenizer(tmp_path)
    check(again, expected["rows"])
    assert again.fingerprint == plain.fingerprint == tokenizer.fingerprint
    assert again.special_tokens == tokenizer.special_tokens and plain.vocab_size == tokenizer.vocab_size
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["clean_up_tokenization_spaces"] is False
    assert [config[f"{kind}_token"] for kind in ("bos", "eos", "unk", "pad")] == [
        expected["special"].get(f"{kind}_token", [None])[0] for kind in ("bos", "eos", "unk", "pad")]


def test_an_unchanged_file_is_exported_byte_for_byte(shared):
    folder = shared / "fixtures" / "hf" / "tokenizers" / "llama3"
    tokenizer = load_hf_tokenizer(folder)
    assert tokenizer.files()["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert tokenizer.fingerprint == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("config, model, before, behind", [
    (None, None, [], []),
    ({"tokenizer_class": "LlamaTokenizerFast"}, None, [1], []),
    ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True}, None, [], [2]),
    ({"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "bos_token": "<s>"}, None, [], []),
    ({"tokenizer_class": "GemmaTokenizer", "bos_token": {"content": "</s>", "special": True}}, None, [2], []),
    (None, {"model_type": "mistral"}, [1], []),
    ({"bos_token": "<s>"}, {"model_type": "llama"}, [1], []),
    ({"tokenizer_class": "TokenizersBackend"}, {"model_type": "llama"}, [], []),
    (None, {"model_type": "qwen3"}, [], []),
], ids=["nothing", "llama", "llama-eos", "plain", "gemma-entry", "mistral-model", "llama-model", "v5-class", "qwen-model"])
def test_begin_rule_of_the_class(config, model, before, behind, tmp_path):
    tokenizer = load_hf_tokenizer(write(tmp_path, config, model))
    assert tokenizer.encode("ab") == [5, 6]
    assert tokenizer.encode("ab", special=True) == [*before, 5, 6, *behind]
    assert tokenizer.add_bos == bool(before)


def test_the_begin_rule_can_be_overridden(tmp_path):
    write(tmp_path, {"tokenizer_class": "LlamaTokenizerFast", "eos_token": "</s>", "add_eos_token": True})
    without = load_hf_tokenizer(tmp_path, add_bos=False)
    assert without.encode("ab", special=True) == [5, 6, 2] and without.rule == "asked for: no begin token"
    assert load_hf_tokenizer(tmp_path).rule == "LlamaTokenizerFast: add_bos_token true, add_eos_token true"
    write(tmp_path, {"bos_token": "<s>"})
    assert load_hf_tokenizer(tmp_path, add_bos=True).encode("ab", special=True) == [1, 5, 6]
    write(tmp_path, {})
    with pytest.raises(InputError, match="a bos_token is to be added, but none is defined; name one, or set add_bos_token"):
        load_hf_tokenizer(tmp_path, add_bos=True)


def test_the_files_own_post_processor_is_kept_for_plain_classes(tmp_path):
    inner = tokenizers.Tokenizer.from_str(character_tokenizer("abc")._text)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    write(tmp_path, {"bos_token": "<s>"}, tokenizer=inner)
    assert load_hf_tokenizer(tmp_path).encode("a", special=True) == [1, 5, 2]
    assert load_hf_tokenizer(tmp_path, add_bos=False).encode("a", special=True) == [5, 2]
    write(tmp_path, {"tokenizer_class": "LlamaTokenizer"}, tokenizer=inner)
    assert load_hf_tokenizer(tmp_path).encode("a", special=True) == [1, 5]


def test_declared_tokens_are_added_and_old_files_are_read_only_where_new_ones_lack(tmp_path):
    new = {"added_tokens_decoder": {"9": {"content": "[B]", "special": False}, "8": {"content": "[A]", "special": True}},
           "eos_token": "[C]"}
    old = {"bos_token": {"content": "[D]"}, "eos_token": "[E]", "additional_special_tokens": ["[F]"]}
    tokenizer = load_hf_tokenizer(write(tmp_path, new, special_tokens_map=old, added_tokens={"[G]": 8}))
    assert [tokenizer.token_id(f"[{c}]") for c in "ABCDEFG"] == [8, 9, 10, None, None, None, None]
    assert tokenizer.encode("a[A]b[B]") == [5, 8, 6, 9] and tokenizer.vocab_size == 11
    assert tokenizer.special_tokens == {"eos_token": "[C]"} and (tokenizer.eos_id, tokenizer.bos_id) == (10, None)

    tokenizer = load_hf_tokenizer(write(tmp_path, {"eos_token": "[C]"}))
    assert [tokenizer.token_id(f"[{c}]") for c in "ABCDEFG"] == [None, None, None, 9, 10, 11, 8]
    assert tokenizer.special_tokens == {"bos_token": "[D]", "eos_token": "[E]", "additional_special_tokens": ["[F]"]}


def test_adding_a_token(tmp_path):
    tokenizer = load_hf_tokenizer(write(tmp_path))
    before = tokenizer.fingerprint
    assert tokenizer.vocab_size == 8 and tokenizer.add_token("a") == 5
    assert tokenizer.add_token("[PRM]") == 8 == tokenizer.add_token("[PRM]")
    assert tokenizer.encode("a[PRM]b") == [5, 8, 6] and tokenizer.vocab_size == 9 and tokenizer.fingerprint != before
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).encode("a[PRM]b") == [5, 8, 6]


def test_vocab_size_is_the_greatest_id_and_one(tmp_path):
    """Ids with gaps: a count would leave an embedding too small."""
    model = tokenizers.models.WordLevel({"a": 0, "b": 7}, unk_token="a")
    write(tmp_path, tokenizer=tokenizers.Tokenizer(model))
    assert load_hf_tokenizer(tmp_path).vocab_size == load_tokenizer(tmp_path).vocab_size == 8


def test_chat_templates(tmp_path):
    named = [{"name": "default", "template": "{{ eos_token }}D"}, {"name": "tool_use", "template": "T"}]
    tokenizer = load_hf_tokenizer(write(tmp_path, {"chat_template": named, "eos_token": "</s>"}))
    assert tokenizer.chat.render([]) == "</s>D" and tokenizer.chat_templates["tool_use"].render([]) == "T"
    assert json.loads(tokenizer.files()["tokenizer_config.json"])["chat_template"] == named

    (tmp_path / "chat_template.jinja").write_text("J")  # wins over what is inside the configuration
    tokenizer = load_hf_tokenizer(tmp_path)
    assert tokenizer.chat.render([]) == "J" and list(tokenizer.chat_templates) == ["default"]
    files = tokenizer.files()
    assert files["chat_template.jinja"] == b"J" and json.loads(files["tokenizer_config.json"])["chat_template"] == "J"
    assert load_hf_tokenizer(write(tmp_path, {})).chat.source == "J"
    (tmp_path / "chat_template.jinja").unlink()
    assert load_hf_tokenizer(tmp_path).chat is None


@pytest.mark.parametrize("legacy", [True, False])
def test_sentencepiece_models_become_tokenizer_json(legacy, tmp_path):
    """Ids of the rebuilt BPE are those of the sentencepiece library, bytes and one-letter symbols included; a blank in front is
    one where "legacy" is off, as in transformers v4."""
    reference = train_sentencepiece(TEXTS, 330, symbols=["\n"])
    reference.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy, "bos_token": "<s>"}))
    tokenizer = load_hf_tokenizer(tmp_path)
    assert tokenizer.vocab_size == reference.vocab_size and tokenizer.bos_id == 2
    texts = [" two  spaces "] if legacy else []
    for text in [*TEXTS, *texts, "\nAnswer", "two  spaces ", "a\n\n b", "naïve 数学", "", "Answer: 7 + 7 + 3Answer"]:
        assert tokenizer.encode(text) == reference.encode(text), text
        assert tokenizer.decode(tokenizer.encode(text)) == reference.decode(reference.encode(text)), text


def test_sentencepiece_models_that_bpe_cannot_state_are_refused(tmp_path):
    train_sentencepiece(TEXTS, 60, model_type="unigram", byte_fallback=False).save(tmp_path)
    with pytest.raises(InputError, match="of a kind other than BPE; convert it to tokenizer.json"):
        load_hf_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"tokenizer.model: is not a tokenizer file"):
        load_hf_tokenizer(tmp_path)


def test_vocabulary_and_merges_of_other_classes_are_refused(shared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shared / "fixtures" / "hf" / "tokenizers" / "qwen_vocab_merges", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(InputError, match="a GPT2 tokenizer in vocab.json and merges.txt is not supported"):
        load_hf_tokenizer(folder)
    config["added_tokens_decoder"]["500"] = {"content": "<far>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="gives token '<far>' id 500, the vocabulary leads to 424; add the tokenizer.json"):
        load_hf_tokenizer(folder)


def test_broken_directories_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no tokenizer.json, vocab.json with merges.txt, or tokenizer.model here"):
        load_hf_tokenizer(tmp_path)
    write(tmp_path, {"added_tokens_decoder": ["x"]})
    with pytest.raises(InputError, match="not in the form of transformers"):
        load_hf_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(InputError, match="tokenizer_config.json: is not a JSON object"):
        load_hf_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="tokenizer.json: is not a tokenizer file") as error:
        load_hf_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
