"""`LocalPolicy`: texts in, solutions out, in order."""

import jax
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.generation import LocalPolicy, SamplingConfig, pad_prompts
from jaxprm.generation.policy import _sample
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import tiny_config, tiny_language_model, word_tokenizer

WORDS = word_tokenizer([f"w{i}" for i in range(12)])
TEXTS = ["w1", "w2 w3 w4 w5 w6", "w7 w8", "w9 w1 w2", "w3", "w4 w4 w4 w4"]
GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture(scope="module")
def model():
    return tiny_language_model(0, tiny_config(vocab_size=WORDS.vocab_size, context=32))


@pytest.fixture(scope="module")
def encoder():
    return StepEncoder(StepFormat(), WORDS)


def test_order_is_kept_however_the_calls_are_cut(model, encoder):
    results = {}
    for rows in (4, 12):
        calls = []
        policy = LocalPolicy(model, encoder, limit=6, sampling=GREEDY, batch_rows=rows)
        results[rows] = policy.sample(jax.random.key(0), TEXTS, 2, lambda *call: calls.append(call))  # noqa: B023
        assert [count for count, _ in calls] == {4: [2, 2, 2], 12: [6]}[rows]
        assert sum(tokens for _, tokens in calls) == sum(len(s.ids) for samples in results[rows] for s in samples)
    for one, other in zip(results[4], results[12]):
        assert [s.ids for s in one] == [s.ids for s in other] and len(one) == 2
    alone = LocalPolicy(model, encoder, limit=6, sampling=GREEDY, batch_rows=4)
    for text, samples in zip(TEXTS, results[12]):
        assert alone.sample(jax.random.key(5), [text], 2)[0][0].ids == samples[0].ids


def test_solutions_are_their_ids_decoded(model, encoder):
    policy = LocalPolicy(model, encoder, limit=6, batch_rows=12)
    samples = [s for group in policy.sample(jax.random.key(1), TEXTS, 2) for s in group]
    for one in samples:
        assert (one.steps, one.finished) == encoder.decode_steps(one.ids)
        assert 1 <= len(one.ids) <= 6 and one.finished == (encoder.end_id in one.ids) and one.log_prob < 0
    again = [s for group in policy.sample(jax.random.key(1), TEXTS, 2) for s in group]
    other = [s for group in policy.sample(jax.random.key(2), TEXTS, 2) for s in group]
    assert again == samples and other != samples


def test_continue_ids_goes_on_behind_a_prefix(model, encoder):
    policy = LocalPolicy(model, encoder, limit=6, sampling=GREEDY, batch_rows=2)
    prompt = encoder.encode_prompt("w1 w2")
    whole = policy.continue_ids(jax.random.key(0), [prompt], 1)[0][0]
    rest = policy.continue_ids(jax.random.key(0), [prompt + list(whole.ids[:2])], 1)[0][0]
    assert rest.ids[:4] == whole.ids[2:]


def test_few_shapes_are_compiled(model, encoder):
    policy = LocalPolicy(model, encoder, limit=6, batch_rows=12)
    policy.sample(jax.random.key(0), TEXTS, 2)
    before = _sample._cache_size()
    policy.sample(jax.random.key(1), TEXTS[:3], 2)
    policy.sample(jax.random.key(2), TEXTS * 3, 2)
    assert _sample._cache_size() == before


def test_a_prefix_that_leaves_no_room_is_refused(model, encoder):
    policy = LocalPolicy(model, encoder, limit=20, batch_rows=4)
    with pytest.raises(InputError) as error:
        policy.continue_ids(jax.random.key(0), [[1] * 12, [1] * 13], 1)
    assert str(error.value) == ("field 'prefix': needs 13 tokens; context 32 less limit 20 leaves 12; use a model with "
                                "a longer context")
    with pytest.raises(InputError, match="field 'limit' = 0: must be at least 1"):
        LocalPolicy(model, encoder, limit=0)


def test_pad_prompts():
    tokens, lengths = pad_prompts([[5, 6], [7]], rows=3)
    assert tokens.shape == (3, 16) and tokens[:, :3].tolist() == [[5, 6, 0], [7, 0, 0], [0, 0, 0]]
    assert lengths.tolist() == [2, 1, 1] and pad_prompts([[1] * 17])[0].shape == (1, 32)
    assert tokens.dtype == lengths.dtype == np.int32
