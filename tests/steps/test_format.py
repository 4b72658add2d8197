"""Text to ids and step ends: read-out rules, errors, and the alignment of prefixes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.steps import JsonTokenizer, StepEncoder, StepFormat, pad_solutions, train_sentencepiece
from jaxprm.testing import character_tokenizer, word_tokenizer

LETTERS = "abc 123+=?"
CHARACTERS = character_tokenizer(LETTERS)
WORDS = word_tokenizer(["Q?", "a", "b", "c"])
steps_of_text = st.lists(st.text(LETTERS, min_size=1, max_size=8).filter(str.strip), max_size=5)


@pytest.fixture(scope="module")
def encoder():
    return StepEncoder(StepFormat(), CHARACTERS)


@pytest.mark.parametrize("readout, ends", [("at", [5, 7]), ("before", [4, 6])])
def test_worked_example(readout, ends):
    """<s> Q? newline | a b newline | c newline"""
    encoder = StepEncoder(StepFormat(readout=readout), WORDS)
    q, a, b, c = (WORDS.token_id(word) for word in ("Q?", "a", "b", "c"))
    assert encoder.encode("Q?", ("a b", "c")) == ([1, q, 3, a, b, 3, c, 3], ends)
    assert encoder.read_back == (readout == "before")
    assert encoder.encode_prompt("Q?") == [1, q, 3]


def test_readout_last_has_no_separator():
    encoder = StepEncoder(StepFormat(readout="last", separator="", begin=False), WORDS)
    q, a, b, c = (WORDS.token_id(word) for word in ("Q?", "a", "b", "c"))
    assert encoder.encode("Q?", ("a b", "c")) == ([q, 3, a, b, c], [3, 4])
    assert encoder.separator_id is None and encoder.begin_id is None


@given(prompt=st.text(LETTERS, max_size=6), steps=steps_of_text, readout=st.sampled_from(["at", "before"]))
def test_a_prefix_of_steps_encodes_to_a_prefix_of_ids(prompt, steps, readout):
    encoder = StepEncoder(StepFormat(readout=readout), CHARACTERS)
    ids, ends = encoder.encode(prompt, steps)
    assert len(ends) == len(steps)
    for count in range(len(steps) + 1):
        part, part_ends = encoder.encode(prompt, steps[:count])
        assert ids[: len(part)] == part and ends[:count] == part_ends
    whole = encoder.encode_prompt(prompt)
    for step in steps:
        whole += encoder.encode_step(step)
    assert ids == whole


@given(steps=steps_of_text, finished=st.booleans(), tail=st.text(LETTERS, max_size=4))
def test_decode_steps_inverts_encoding(steps, finished, tail):
    encoder = StepEncoder(StepFormat(), CHARACTERS)
    ids = [token for step in steps for token in encoder.encode_step(step)] + CHARACTERS.encode(tail)
    expected = (*steps, tail) if tail else tuple(steps)
    assert encoder.decode_steps(ids + [encoder.end_id, 7] * finished) == (expected, finished)


def test_decode_steps_keeps_empty_steps(encoder):
    a = CHARACTERS.token_id("a")
    assert encoder.decode_steps([3, a, 3, 3, encoder.end_id]) == (("", "a", ""), True)
    assert encoder.decode_steps([]) == ((), False)


@pytest.mark.parametrize("step, message", [
    ("", "field 'step' = '': is an empty step; drop empty steps"),
    ("  ", "field 'step' = '  ': is an empty step; drop empty steps"),
    ("a\nb", r"field 'step' = 'a\nb': contains the separator '\n'; split it there, or replace the separator inside the step"),
])
def test_steps_that_cannot_be_aligned_are_refused(encoder, step, message):
    with pytest.raises(InputError) as error:
        encoder.encode("a", ["b", step])
    assert str(error.value).replace("\\\\n", "\\n") == message


def test_a_step_without_a_token_is_refused():
    """A tokenizer may drop what it does not know; such a step would be scored at somebody else's token."""
    import tokenizers

    silent = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "\n": 2, "a": 3}, unk_token="<unk>"))
    silent.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("[^a]+"), "removed")
    encoder = StepEncoder(StepFormat(), JsonTokenizer(silent.to_str()))
    with pytest.raises(InputError, match="field 'step' = '!!': has no token"):
        encoder.encode_step("!!")


def test_a_separator_that_the_tokenizer_splits_is_refused():
    with pytest.raises(InputError) as error:
        StepEncoder(StepFormat(separator="+="), CHARACTERS)
    ids = CHARACTERS.encode("+=")
    assert str(error.value) == (f"field 'separator' = '+=': the tokenizer splits it into 2 tokens {ids}; train the tokenizer "
                                "with the separator as a symbol, or choose another separator")


@pytest.mark.parametrize("field", ["begin_token", "end_token"])
def test_special_tokens_must_exist(field):
    with pytest.raises(InputError, match=f"field '{field}' = '<other>': is not in the tokenizer's vocabulary"):
        StepEncoder(StepFormat(**{field: "<other>"}), CHARACTERS)
    if field == "begin_token":
        StepEncoder(StepFormat(begin=False, begin_token="<other>"), CHARACTERS)  # not used, not looked for


@pytest.mark.parametrize("changes, field", [(dict(readout="after"), "readout"), (dict(readout="last"), "separator"),
                                            (dict(separator=""), "separator"), (dict(neutral="maybe"), "neutral")])
def test_bad_formats_are_refused(changes, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        StepFormat(**changes)


def test_every_text_field_changes_the_ids():
    plain = StepEncoder(StepFormat(), CHARACTERS).encode("a", ["b"])
    for changes in (dict(prompt_prefix="c"), dict(prompt_suffix="c"), dict(begin=False), dict(begin_token="c"),
                    dict(separator="c"), dict(readout="before")):
        assert StepEncoder(StepFormat(**changes), CHARACTERS).encode("a", ["b"]) != plain, changes


def test_ids_equal_trl(shared):
    """TRL's PRMTrainer.tokenize_row: the same ids, its labels at our step ends (begin of text, prompt as it is)."""
    folder = shared / "fixtures" / "golden"
    golden = json.loads((folder / "trl_prm_tokenize_row.json").read_text())
    compared = refused = 0
    for case in golden["cases"]:
        grid, name = golden["grid"][case["inputs"]["grid"]], case["inputs"]["tokenizer"]
        if grid["max_length"] is not None and grid["max_length"] < 1000 or grid["max_completion_length"] is not None:
            continue
        if grid["train_on_last_step_only"] and not grid["is_eval"]:
            continue
        tokenizer = JsonTokenizer((folder / "trl_tokenizers" / name / "tokenizer.json").read_text())
        separator = grid["step_separator"]
        if tokenizer.token_id(separator) is None or tokenizer.encode(separator) != [tokenizer.token_id(separator)]:
            continue
        special = golden["tokenizers"][name]
        begin, end = (tokenizer.decode([special[kind]]) if special.get(kind) is not None else None
                      for kind in ("bos_token_id", "eos_token_id"))
        encoder = StepEncoder(StepFormat(prompt_suffix="", separator=separator, begin=begin is not None,
                                         begin_token=begin or "", end_token=end), tokenizer)
        example = golden["examples"][case["inputs"]["example"]]
        if any(not step.strip() or separator in step for step in example["completions"]):
            with pytest.raises(InputError):
                encoder.encode(example["prompt"], example["completions"])
            refused += 1
            continue
        ids, ends = encoder.encode(example["prompt"], example["completions"])
        assert ids == case["outputs"]["input_ids"]
        assert ends == [position for position, _ in case["outputs"]["labelled_positions"]]
        compared += 1
    assert compared >= 10 and refused >= 1


def test_pad_solutions():
    batch = pad_solutions([([5, 6, 7], [1, 2]), ([8], [])], tokens=4, steps=3, rows=3)
    assert batch.tokens.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0], [0] * 4]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0] * 4]
    assert batch.positions.tolist() == [[0, 1, 2, 3]] * 3
    assert batch.step_ends.tolist() == [[1, 2, 0], [0] * 3, [0] * 3]
    assert batch.step_mask.tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert not batch.label_mask.any() and not batch.labels.any() and (batch.weights == 1).all()
    for encoded in [([1] * 5, [0]), ([1], [0, 0, 0, 0])]:
        with pytest.raises(InputError, match="row 2: has .* tokens and .* steps; room is for 4 and 3"):
            pad_solutions([([1], [0]), encoded], tokens=4, steps=3)


def test_sentencepiece_formats_round_trip():
    texts = ["1) 7 + 5 = 2\n2) 2 * 3 = 6\nAnswer: 6"] * 4
    tokenizer = train_sentencepiece(texts, 300, symbols=["\n"])
    encoder = StepEncoder(StepFormat(), tokenizer)
    steps = ("1) 7 + 5 = 2", "  indented", "Answer: é")  # é is not in the training text: bytes
    ids, ends = encoder.encode("Start 7", steps)
    prompt = encoder.encode_prompt("Start 7")
    assert encoder.decode_steps(ids[len(prompt):] + [encoder.end_id]) == (steps, True)
    assert [ids[end] for end in ends] == [encoder.separator_id] * 3
