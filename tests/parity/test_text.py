"""Ids, labels and prompts that transformers and TRL make, against ours, for random texts."""

import json
import random

import pytest

from jaxprm.steps import load_hf_tokenizer, tokenize_trl_row, train_sentencepiece

pytest.importorskip("torch")
pytest.importorskip("transformers")

WORDS = ["Step", " 1", ":", "ки", "\n", "\n\n", "  ", " ", "9.11", "$\\frac{1}{2}$", "é", "数学", ".", "<s>", "<|im_end|>",
         "<extra_0>", "answer", "=", "x", "+ -", "'s", "\t", "\u00a0", "𝔸", "007", "</think>"]
NAMES = ["deepseek", "gemma", "llama3", "mistral", "qwen", "qwen_base", "qwen_vocab_merges", "sentencepiece_bpe"]
ROLES = """{%- for m in messages %}
    {%- if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}
    {{- '<|' + m['role'] + '|>' + (m.content | trim if m.role == 'user' else m.content) + eos_token }}
{%- endfor %}
{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
BLOCKS = """{{ bos_token }}
{% set ns = namespace(n=0) %}
{% for m in messages %}
    {% if loop.index0 > 3 %}
        {% break %}
    {% endif %}
    {% set ns.n = ns.n + m.content | length %}
    {% if m.role == 'assistant' %}
{% generation %}{{ m | tojson }}{% endgeneration %}

    {% else %}
{{ m.role }}: {{ m.content }}
    {% endif %}
{% endfor %}
{{ ns.n }} {{ date_string if date_string is defined else 'no date' }}"""


def texts(seed: int, count: int = 200) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(WORDS, k=rng.randrange(12))) for _ in range(count)]


@pytest.fixture
def version(transformers) -> int:
    return int(transformers.__version__.split(".")[0])


@pytest.mark.parametrize("name", NAMES)
def test_exported_tokenizers_mean_the_same(name, transformers, shared, tmp_path):
    """transformers of either version reads our files to our ids, whatever the model type.

    Only for qwen2 version 5 takes its own class, and with it Qwen2's way to split text, whatever the files say.
    """
    ours = load_hf_tokenizer(shared / "fixtures" / "hf" / "tokenizers" / name)
    ours.save(tmp_path)
    for model_type in ("qwen3", "llama", "mistral", "gemma2", "gemma3_text", *(["qwen2"] if name.startswith("qwen") else [])):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert {key: str(value) for key, value in theirs.special_tokens_map.items()} == ours.special_tokens
        for text in texts(1):
            assert theirs.encode(text, add_special_tokens=False) == ours.encode(text), text
            assert theirs.encode(text) == ours.encode(text, special=True), text
            assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text)), text
        assert max(theirs.get_vocab().values()) + 1 == ours.vocab_size
        assert set(theirs("a")) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("name", NAMES)
def test_a_qwen2_model_takes_qwen2_tokenizers_only(name, transformers, version, shared, tmp_path):
    """`HFTokenizer.is_qwen2`, on which a warning of the export rests, says whether version 5 gives our ids there."""
    ours = load_hf_tokenizer(shared / "fixtures" / "hf" / "tokenizers" / name)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert ours.is_qwen2 == load_hf_tokenizer(tmp_path).is_qwen2 == name.startswith("qwen")
    loaders = {"auto": transformers.AutoTokenizer, "plain": transformers.PreTrainedTokenizerFast}
    same = {how: all(loader.from_pretrained(tmp_path).encode(text) == ours.encode(text, special=True) for text in texts(8))
            for how, loader in loaders.items()}
    assert same == {"auto": version < 5 or ours.is_qwen2, "plain": True}


@pytest.mark.parametrize("name", NAMES)
def test_published_tokenizers_are_read_as_version_4_does(name, transformers, version, shared):
    if version != 4:
        pytest.skip("transformers 5 differs from 4 on purpose")
    folder = shared / "fixtures" / "hf" / "tokenizers" / name
    kind = json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
    theirs = getattr(transformers, kind.removesuffix("Fast") + "Fast").from_pretrained(folder)
    ours = load_hf_tokenizer(folder)
    for text in texts(2):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text), text
        assert theirs.encode(text) == ours.encode(text, special=True), text


def test_a_tokenizer_trained_here_reads_the_same_there(transformers, tmp_path):
    reference = train_sentencepiece(texts(3), 400, symbols=["\n"])
    (tmp_path / "trained").mkdir()
    reference.save(tmp_path / "trained")
    ours = load_hf_tokenizer(tmp_path / "trained")
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts(4):
        plain = text.replace("<s>", "")
        assert theirs.encode(plain) == ours.encode(plain) == reference.encode(plain), plain


@pytest.mark.parametrize("source", [ROLES, BLOCKS], ids=["roles", "blocks"])
def test_chat_templates(source, transformers, shared, tmp_path):
    ours = load_hf_tokenizer(shared / "fixtures" / "hf" / "tokenizers" / "llama3")
    ours.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source)
    ours, theirs = load_hf_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(5)
    contents = iter(texts(6, 400))
    tool = {"type": "function", "function": {"name": "f", "description": "<b> & \"é\"", "parameters": {}}}
    for _ in range(50):
        messages = [{"role": "system", "content": next(contents)}] if rng.random() < 0.3 else []
        messages += [{"role": role, "content": next(contents)} for role in ("user", "assistant") * rng.randint(1, 3)]
        options = {"add_generation_prompt": rng.random() < 0.5, "tools": [tool] if rng.random() < 0.3 else None}
        options |= {"date_string": "1 Jan"} if rng.random() < 0.5 else {}
        expected = theirs.apply_chat_template(messages, tokenize=False, **options)
        assert ours.chat.render(messages, **options) == expected
        ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        assert ours.encode(expected) == ids


def test_trl_rows(transformers, shared):
    """`tokenize_row` of the trainer itself, over separators, lengths and both kinds of begin rule."""
    prm = pytest.importorskip("trl.experimental.prm")
    rng, pool, rows = random.Random(7), texts(8, 400), 0
    for name in ("qwen", "llama3", "gemma", "mistral"):
        folder = shared / "fixtures" / "hf" / "tokenizers" / name
        ours = load_hf_tokenizer(folder)
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **ours.special_tokens)
        for separator in ("\n", "\n\n", " ки", "<extra_0>", "ки\n##"):
            for _ in range(12):
                steps = rng.choices(pool, k=rng.randint(1, 5))
                row = {"prompt": rng.choice(pool), "completions": steps,
                       "labels": [rng.choice([True, False, 0.9, 1.0]) for _ in steps]}
                cuts = rng.choice([(1024, None), (None, None), (12, None), (None, 5), (16, 9)])
                last, is_eval = rng.random() < 0.3, rng.random() < 0.3
                expected = prm.PRMTrainer.tokenize_row(row, theirs, separator, *cuts, last, is_eval)
                found = tokenize_trl_row(row["prompt"], steps, row["labels"], ours, bos_id=ours.bos_id, separator=separator,
                                         max_length=cuts[0], max_completion_length=cuts[1],
                                         last_step_only=last and not is_eval)
                assert found == (expected["input_ids"], expected["labels"]), (name, separator, row, cuts)
                rows += 1
    assert rows == 240
