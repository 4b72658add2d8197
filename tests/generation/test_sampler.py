"""The sampler against a float64 oracle: greedy paths, filters, log-probabilities, stopping, frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.generation import SamplingConfig, filter_logits, generate, sample, start
from jaxprm.generation.sampler import draw
from jaxprm.models import parameters
from jaxprm.testing import scripted_policy, tiny_language_model
from jaxprm.testing.oracles import filtered, next_token_logits

GREEDY = SamplingConfig(temperature=0.0)
END, STOP = 2, 3
run_sample = jax.jit(sample, static_argnames=("width", "limit", "config", "end_id"))
run_start = jax.jit(start, static_argnames=("width", "capacity"))
run_generate = jax.jit(generate, static_argnames=("config", "limit", "end_id", "stop_id"))
PROMPTS = [[5, 9, 4], [7], [3, 3, 8, 1]]


def padded(prompts, size=4):
    tokens = np.zeros((len(prompts), size), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return jnp.asarray(tokens), jnp.asarray([len(p) for p in prompts], jnp.int32)


@pytest.fixture(scope="module")
def model():
    return tiny_language_model(3)


def greedy_oracle(model, prompt, limit):
    ids = []
    while len(ids) < limit and (not ids or ids[-1] != END):
        ids.append(int(next_token_logits(model.config, parameters(model), prompt + ids)[-1].argmax()))
    return ids


def test_greedy_equals_argmax_of_the_full_forward_and_shares_prompts(model):
    samples = run_sample(model, jax.random.key(0), *padded(PROMPTS), width=2, limit=8, config=GREEDY, end_id=END)
    ended = []
    for row in range(6):
        expected = greedy_oracle(model, PROMPTS[row // 2], 8)
        assert samples.lengths[row] == len(expected)
        assert samples.tokens[row].tolist() == expected + [0] * (8 - len(expected))
        ended.append(expected[-1] == END)
    assert samples.finished.tolist() == ended
    assert not samples.log_probs.any()


def test_greedy_does_not_depend_on_the_order_of_prompts(model):
    order = np.array([2, 0, 1])
    run = lambda prompts: run_sample(  # noqa: E731
        model, jax.random.key(1), *padded(prompts), width=2, limit=8, config=GREEDY, end_id=END).tokens.reshape(3, 2, 8)
    np.testing.assert_array_equal(run([PROMPTS[i] for i in order]), run(PROMPTS)[order])


@given(values=st.lists(st.integers(-3, 3), min_size=6, max_size=6), temperature=st.sampled_from([0.5, 1.0, 2.0]),
       top_k=st.sampled_from([0, 1, 2, 4, 6, 9]), top_p=st.sampled_from([0.05, 0.3, 0.72, 0.95, 1.0]))
@settings(max_examples=80)
def test_filters_equal_the_oracle_with_ties(values, temperature, top_k, top_p):
    config = SamplingConfig(temperature, top_k, top_p)
    found = jax.nn.softmax(filter_logits(jnp.asarray([values], jnp.float32), config), axis=-1)[0]
    np.testing.assert_allclose(found, filtered(values, temperature, top_k, top_p), atol=1e-6)


def test_filters_worked_example():
    """p = (.5, .25, .15, .1): top-2 keeps .5 and .25; top-p .7 keeps the smallest set that reaches it, the same two."""
    logits = jnp.log(jnp.asarray([[0.1, 0.5, 0.15, 0.25]]))
    for config in (SamplingConfig(top_k=2), SamplingConfig(top_p=0.7), SamplingConfig(top_k=3, top_p=0.8)):
        np.testing.assert_allclose(jax.nn.softmax(filter_logits(logits, config)), [[0, 2 / 3, 0, 1 / 3]], atol=1e-6)
    # A tie at the border keeps both, for either filter.
    tied = jnp.log(jnp.asarray([[0.4, 0.3, 0.3]]))
    for config in (SamplingConfig(top_k=2), SamplingConfig(top_p=0.5)):
        assert jnp.isfinite(filter_logits(tied, config)).all()
    np.testing.assert_allclose(filter_logits(tied, SamplingConfig(temperature=0.5)), 2 * tied, rtol=1e-6)


def test_log_probs_are_those_of_the_filtered_distribution(model):
    config = SamplingConfig(temperature=0.7, top_k=6, top_p=0.9)
    samples = run_sample(model, jax.random.key(2), *padded(PROMPTS), width=3, limit=8, config=config, end_id=END)
    assert len({tuple(row) for row in np.asarray(samples.tokens).tolist()}) > 3
    for row in range(9):
        prompt, ids = PROMPTS[row // 3], samples.tokens[row, : samples.lengths[row]].tolist()
        logits = next_token_logits(model.config, parameters(model), prompt + ids)
        for place, token in enumerate(ids):
            probability = filtered(logits[len(prompt) - 1 + place], 0.7, 6, 0.9)[token]
            np.testing.assert_allclose(samples.log_probs[row, place], np.log(probability), atol=1e-4)
        assert not samples.tokens[row, len(ids):].any() and not samples.log_probs[row, len(ids):].any()
        assert END not in ids[:-1] and bool(samples.finished[row]) == (ids[-1] == END)


def test_stopping_at_steps_and_going_on_equals_one_call(model):
    """Greedy steps, each ended by STOP or END, one call after the other."""
    whole = run_sample(model, jax.random.key(0), *padded(PROMPTS), width=1, limit=12, config=GREEDY, end_id=END)
    state, active, found = run_start(model, *padded(PROMPTS), width=1, capacity=40), jnp.ones((3,), bool), [[], [], []]
    for _ in range(12):
        samples, state = run_generate(model, state, jax.random.key(0), active, config=GREEDY, limit=3, end_id=END, stop_id=STOP)
        for row in range(3):
            ids = samples.tokens[row, : samples.lengths[row]].tolist()
            assert bool(ids) == bool(active[row]) and not {END, STOP} & set(ids[:-1])
            found[row] += ids
        active = active & ~samples.finished
    for row in range(3):
        expected = whole.tokens[row, : whole.lengths[row]].tolist()
        assert found[row][: len(expected)] == expected


def test_an_inactive_row_draws_nothing_and_keeps_its_state(model):
    state = run_start(model, *padded(PROMPTS), width=1, capacity=40)
    samples, after = run_generate(model, state, jax.random.key(0), jnp.asarray([True, False, True]), config=GREEDY, limit=3,
                                  end_id=END, stop_id=STOP)
    assert samples.lengths[1] == 0 and not samples.finished[1] and samples.lengths[0] > 0
    np.testing.assert_array_equal(after.next_logits[1], state.next_logits[1])
    assert after.cache.lengths[1] == 0


def test_frequencies_match_probabilities():
    probabilities = np.array([0.02, 0.08, 0.1, 0.3, 0.5])
    table = np.tile(np.log(probabilities), (5, 1))
    policy = scripted_policy(table)
    count = 4000
    draw = lambda config, seed: np.bincount(np.asarray(run_sample(  # noqa: E731
        policy, jax.random.key(seed), *padded([[1]], 1), width=count, limit=1, config=config,
        end_id=0).tokens)[:, 0], minlength=5)
    assert scipy.stats.chisquare(draw(SamplingConfig(), 0), count * probabilities).pvalue > 0.001
    kept = draw(SamplingConfig(top_p=0.75), 1)
    assert not kept[:3].any()
    assert scipy.stats.chisquare(kept[3:], count * np.array([0.375, 0.625])).pvalue > 0.001
    sharp = probabilities**2 / np.sum(probabilities**2)
    assert scipy.stats.chisquare(draw(SamplingConfig(temperature=0.5), 2), count * sharp).pvalue > 0.001


@pytest.mark.parametrize("keys", [1, 5], ids=["one_key", "key_per_row"])
def test_the_drawn_token_is_that_of_jax_random_categorical(keys):
    values = filter_logits(4 * jax.random.normal(jax.random.key(1), (5, 300)), SamplingConfig(top_k=20))
    values = values.at[0, 1:].set(-jnp.inf)
    key = jax.random.key(2) if keys == 1 else jax.random.split(jax.random.key(2), keys)
    tokens, _ = draw(key, values, SamplingConfig())
    choose = jax.random.categorical if keys == 1 else jax.vmap(jax.random.categorical)
    np.testing.assert_array_equal(tokens, choose(key, values))


def test_samples_are_fixed_by_the_key_and_independent_over_tokens():
    """Two tokens of one row, and two rows, are drawn independently: joint frequencies are products."""
    probabilities = np.array([0.0001, 0.3, 0.6999])
    policy = scripted_policy(np.tile(np.log(probabilities), (3, 1)))
    run = lambda seed: np.asarray(run_sample(policy, jax.random.key(seed), *padded([[1]], 1), width=2000, limit=2,  # noqa: E731
                                             config=SamplingConfig(), end_id=0).tokens)
    tokens = run(0)
    np.testing.assert_array_equal(run(0), tokens)
    assert (run(1) != tokens).any()
    for first, second in ((tokens[:, 0], tokens[:, 1]), (tokens[::2, 0], tokens[1::2, 0])):
        table = np.array([[np.sum((first == i) & (second == j)) for j in (1, 2)] for i in (1, 2)])
        assert scipy.stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("changes, field", [(dict(temperature=-0.1), "temperature"), (dict(top_k=-1), "top_k"),
                                            (dict(top_p=0.0), "top_p"), (dict(top_p=1.1), "top_p")])
def test_bad_configs_are_refused(changes, field):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        SamplingConfig(**changes)
