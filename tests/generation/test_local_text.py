"""Published language models as policies: where steps end in text, what is asked, and the same steps as a plain loop."""

import json

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.generation.sampler import SamplingConfig
from jaxprm.generation.stops import stop_at_text
from jaxprm.generation.text import Part
from jaxprm.generation.text_encoder import TextEncoder
from jaxprm.hub import save_model
from jaxprm.hub.families.exported import own_section
from jaxprm.hub.load import load_causal_model
from jaxprm.models import HeadConfig, parameters
from jaxprm.records import Problem
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import tiny_config, tiny_language_model, word_tokenizer
from jaxprm.testing.oracles import next_token_logits
from jaxprm.testing.published import PIECES, published_model

PROBLEMS = [Problem("1", "ab"), Problem("2", "c a\nb")]


def test_where_a_step_ends():
    table = stop_at_text("\n\n", ["a", "\n", ".\n", "?\n\n", "", "\n\na"], [6, 99], 8).table
    assert table.tolist() == [[0, 1, 1, 2, 0, 2, 3, 0], [0, 2, 1, 2, 1, 2, 3, 1]]  # the last row has no token: nothing is added
    text = "xabab.aabaabacabaab"
    stops = stop_at_text("aabaab", list(text), [], len(text))  # a separator that holds beginnings of itself
    states = [0]
    for token in range(len(text)):
        states.append(int(stops.table[min(states[-1], stops.step - 1), token]))
    assert states[: states.index(6) + 1] == [0, 0, 1, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6]


def plain_steps(model, prompt, decode, ends, separator, levels, limit):
    """[(text, tokens, ending)] of a greedy loop that reads everything anew and looks at the text."""
    values = {name: np.asarray(value) for name, value in parameters(model).items()}
    found, ids = [], list(prompt)
    for _ in range(levels):
        new, text, ending = [], "", "cut"
        while len(new) < limit and ending == "cut":
            new.append(int(np.argmax(next_token_logits(model.config, values, ids + new)[-1])))
            if new[-1] in ends:
                ending = "solution"
            else:
                text = decode(new)
                ending = "step" if separator in text else "cut"
        ids += new
        found.append((text.partition(separator)[0], len(new), ending))
        if ending != "step":
            break
    return found


def drawn_steps(policy, problems, levels):
    session = policy.begin(problems, 1, 0)
    active, found = np.ones((len(problems), 1), bool), [[] for _ in problems]
    for level in range(levels):
        for row, [sample] in enumerate(session.sample(level, active)):
            if sample is not None:
                found[row].append((sample.text, sample.tokens, sample.ending))
                active[row] = sample.ending == "step"
    return found


def test_a_published_model_writes_what_a_plain_loop_writes(tmp_path):
    endings = set()
    step_format = StepFormat(prompt_prefix="a", prompt_suffix=" ", separator="\n\n")
    for seed in range(2):
        loaded = load_causal_model(published_model(tmp_path / str(seed), seed))
        assert loaded.encoder is None and loaded.end_ids == (9, 10)  # those of generation_config.json, and the tokenizer's
        encoder = TextEncoder(loaded.tokenizer, loaded.end_ids, step_format)
        policy = LocalTextPolicy(loaded.model, encoder, max_steps=4, max_step_tokens=6, sampling=SamplingConfig(0.0))
        for problem, steps in zip(PROBLEMS, drawn_steps(policy, PROBLEMS, 4), strict=True):
            prompt = encoder.encode_prompt(problem.prompt)
            assert steps == plain_steps(loaded.model, prompt, encoder.tokenizer.decode, (9, 10), "\n\n", 4, 6)
            endings |= {ending for *_, ending in steps}
    assert len(endings) >= 2


def test_a_step_drawn_in_two_parts_is_the_step_drawn_at_once(tmp_path):
    """Also where a part ends inside the separator."""
    loaded = load_causal_model(published_model(tmp_path))
    encoder = TextEncoder(loaded.tokenizer, loaded.end_ids, StepFormat(prompt_suffix=" ", separator="\n\n"))
    policy = LocalTextPolicy(loaded.model, encoder, max_steps=2, max_step_tokens=6, entropies=True)
    at_once, in_parts = (policy.begin(PROBLEMS, 64, 0) for _ in range(2))
    active, across = np.ones((2, 64), bool), 0
    for level in range(2):
        expected = at_once.sample(level, active)
        begun = in_parts.sample(level, active, part=Part(2))
        going = np.array([[step is not None and step.ending == "begun" for step in row] for row in begun])
        rest = in_parts.sample(level, going, part=Part(2, rest=True))
        for step, first, second in zip(*(sum(rows, []) for rows in (expected, begun, rest))):
            found = second or first
            if step is None:
                assert found is None
                continue
            assert (found.text, found.tokens, found.ending) == (step.text, step.tokens, step.ending)
            for name in ("log_prob", "entropy", "next_entropy"):
                np.testing.assert_allclose(getattr(found, name), getattr(step, name), atol=1e-5)
            if second is not None:
                assert first.tokens == 2 and (step.text + "\n\n").startswith(first.text)
                across += len(first.text) > len(step.text)
        active = np.array([[step is not None and step.ending == "step" for step in row] for row in expected])
        assert 0 < active.sum() < going.size and 0 < going.sum() < going.size
    assert across
    np.testing.assert_array_equal(in_parts.positions, at_once.positions)


@pytest.mark.parametrize("name", ["mistral"])
def test_fixtures(name, shared):
    folder = shared / "fixtures" / "hf" / "base" / name
    if not folder.is_dir():
        pytest.skip("no Hugging Face fixtures in ../shared")
    loaded = load_causal_model(folder)
    encoder = TextEncoder(loaded.tokenizer, loaded.end_ids, StepFormat(prompt_suffix=" ", separator="e"))  # ends often
    prompt = encoder.encode_prompt("1 + 2")
    assert prompt == loaded.tokenizer.encode("1 + 2 ", special=True)
    policy = LocalTextPolicy(loaded.model, encoder, max_steps=2, max_step_tokens=8, sampling=SamplingConfig(0.0))
    [steps] = drawn_steps(policy, [Problem("1", "1 + 2")], 2)
    assert steps == plain_steps(loaded.model, prompt, encoder.tokenizer.decode, loaded.end_ids, "e", 2, 8)


def test_how_a_published_model_is_asked(tmp_path):
    template = "{{ bos_token }}{% for m in messages %}{{ m.role[0] }} {{ m.content }}\n{% endfor %}b"
    plain = load_causal_model(published_model(tmp_path / "plain"))
    chat = load_causal_model(published_model(tmp_path / "chat", chat_template=template))
    ids = lambda encoder: "".join(PIECES[i] for i in encoder.encode_prompt("ab"))  # noqa: E731
    assert ids(TextEncoder(plain.tokenizer, (9,), StepFormat(prompt_prefix="c "))) == "c ab\n"
    assert ids(TextEncoder(chat.tokenizer, (9,))) == "<s>c ab\nb"  # "u" is unknown
    assert ids(TextEncoder(chat.tokenizer, (9,), system="b")) == "<s>c b\nc ab\nb"
    for tokenizer, options, message in (
            (plain.tokenizer, {}, "field 'step_format': must be given: this model has no chat template; give the text"),
            (chat.tokenizer, {"step_format": StepFormat(), "system": "b"}, "field 'system' = 'b': is a message of a chat"),
            (chat.tokenizer, {"step_format": StepFormat(separator="ы")}, "field 'separator' = 'ы': must be ASCII text"),
            (chat.tokenizer, {"step_format": StepFormat(separator="", readout="last")}, "field 'separator' = '': must be")):
        with pytest.raises(InputError) as error:
            TextEncoder(tokenizer, (9,), **options)
        assert message in str(error.value)


def test_our_own_models_say_how_they_are_read(tmp_path):
    words = word_tokenizer(["w1"])
    encoder, config = StepEncoder(StepFormat(), words), tiny_config(vocab_size=words.vocab_size, layers=1)
    save_model(tmp_path / "own", tiny_language_model(0, config), encoder, {})
    own = load_causal_model(tmp_path / "own", dtype="bfloat16")
    assert own.encoder.format == encoder.format and own.end_ids == (encoder.end_id,)
    assert own.model.config.compute_dtype == "bfloat16"
    step_format = StepFormat(separator="\n", end_token="<end>")
    exported = load_causal_model(published_model(tmp_path / "out", section=own_section(
        StepEncoder(step_format, load_causal_model(published_model(tmp_path / "in")).tokenizer), None, {})))
    assert exported.encoder.format == step_format and exported.end_ids == (9,)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
    (lambda folder: change(folder / "config.json", architectures=["LlamaForTokenClassification"]),
     "config.json: field 'architectures' = 'LlamaForTokenClassification': is not a language model; a policy writes text"),
    (lambda folder: change(folder / "config.json", eos_token_id=11), "the tokenizer has only 11 entries"),
    (lambda folder: [change(folder / name, eos_token_id=None, eos_token=None) for name in
                     ("config.json", "generation_config.json", "tokenizer_config.json")],
     "config.json: field 'eos_token_id': is missing: no token ends a text; name the end token in generation_config.json"),
])
def test_what_is_no_language_model(tmp_path, damage, message):
    folder = published_model(tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError) as error:
        load_causal_model(folder)
    assert message in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def test_a_reward_model_is_no_policy(tmp_path):
    with pytest.raises(InputError, match="'LlamaForTokenClassification': is not a language model"):
        load_causal_model(published_model(tmp_path / "prm", head=HeadConfig("scalar")))


def change(file, **fields):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (content | fields).items() if value is not None}))
