"""Reading in pieces equals reading at once: prefill, extend, shared prompts, reordering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.models import PromptCache, RopeScaling, empty_cache, extend, forward, prefill
from jaxprm.testing import tiny_config, tiny_language_model

CHUNK, CAPACITY, PROMPT = 4, 24, 6
run_extend, run_forward, run_prefill = jax.jit(extend), jax.jit(forward), jax.jit(prefill)


# Windows that end inside the prompt, inside the suffix, and at the token itself.
LAYERS = dict(layers=3, windows=(3, 0, 7), local_rope_theta=50.0, rope_scaling=RopeScaling("linear", 4.0), mlp_bias=True,
              attention_softcap=2.0, query_scale=0.2, post_norms=True, norm_plus_one=True, embed_scale=True)


@pytest.fixture(scope="module", params=[dict(attention_bias=True, qk_norm=True), LAYERS], ids=["plain", "windows"])
def model(request):
    return tiny_language_model(1, tiny_config(**request.param)).backbone


def full(model, rows, size=CAPACITY + PROMPT):
    """Hidden states of whole rows (lists of ids), [R, size, D]."""
    tokens = np.zeros((len(rows), size), np.int32)
    segments = np.zeros_like(tokens)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    positions = np.broadcast_to(np.arange(size, dtype=np.int32), tokens.shape)
    return np.asarray(run_forward(model, jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments)))


def chunk_of(rng, rows):
    lengths = rng.integers(0, CHUNK + 1, rows).astype(np.int32)
    return rng.integers(1, 20, (rows, CHUNK)).astype(np.int32), lengths


def padded(prompts):
    tokens = np.full((len(prompts), PROMPT), 9, np.int32)  # padding may hold anything
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return jnp.asarray(tokens), jnp.asarray([len(p) for p in prompts], jnp.int32)


def test_prefill_equals_forward_and_padding_changes_nothing(model):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 20, n).tolist() for n in (3, PROMPT)]
    hidden, cache = run_prefill(model, *padded(prompts))
    expected = full(model, prompts)
    for row, prompt in enumerate(prompts):
        np.testing.assert_allclose(hidden[row, : len(prompt)], expected[row, : len(prompt)], atol=1e-5)
    assert isinstance(cache, PromptCache) and cache.lengths.tolist() == [3, PROMPT]
    assert cache.keys[0].shape == (2, 2, PROMPT, 8) and len(cache.keys) == model.config.layers


@pytest.mark.parametrize("with_prompt", [False, True])
def test_ragged_chunks_and_gathers_equal_one_forward(model, with_prompt):
    """Random chunks (length 0 among them), reordered at random within each problem after some of them."""
    problems, width = 2, 3
    for seed in range(4):
        rng = np.random.default_rng(seed)
        if with_prompt:
            prompts = [rng.integers(1, 20, n).tolist() for n in (2, PROMPT)]
            _, prompt = run_prefill(model, *padded(prompts))
            rows = [list(prompts[b]) for b in range(problems) for _ in range(width)]
        else:
            prompt, rows = None, [[] for _ in range(problems * width)]
        cache = empty_cache(model.config, problems * width, CAPACITY, prompt)
        while int(cache.lengths.max()) + CHUNK <= CAPACITY:
            tokens, lengths = chunk_of(rng, problems * width)
            starts = cache.positions
            np.testing.assert_array_equal(starts, [len(row) for row in rows])
            hidden, cache = run_extend(model, cache, jnp.asarray(tokens), jnp.asarray(lengths))
            rows = [row + tokens[r, : lengths[r]].tolist() for r, row in enumerate(rows)]
            expected = full(model, rows)
            for r in range(len(rows)):
                at = slice(int(starts[r]), int(starts[r]) + lengths[r])
                # Post-norms and scaled embeddings make numbers larger, and their rounding with them.
                atol = 4e-5 if model.config.windows else 1e-5
                np.testing.assert_allclose(hidden[r, : lengths[r]], expected[r, at], atol=atol)
            if rng.random() < 0.6:
                parents = rng.integers(0, width, (problems, width)).astype(np.int32)
                cache = cache.gather(jnp.asarray(parents))
                rows = [list(rows[b * width + p]) for b in range(problems) for p in parents[b]]


def test_a_row_of_length_0_keeps_its_state(model):
    rng = np.random.default_rng(5)
    cache = empty_cache(model.config, 2, CAPACITY)
    first, last = rng.integers(1, 20, (2, 2, CHUNK)).astype(np.int32)
    _, cache = run_extend(model, cache, jnp.asarray(first), jnp.asarray([4, 2], jnp.int32))
    direct, _ = run_extend(model, cache, jnp.asarray(last), jnp.asarray([4, 4], jnp.int32))
    _, waited = run_extend(model, cache, jnp.asarray(first[::-1].copy()), jnp.asarray([0, 0], jnp.int32))
    assert waited.lengths.tolist() == [4, 2]
    later, _ = run_extend(model, waited, jnp.asarray(last), jnp.asarray([4, 4], jnp.int32))
    np.testing.assert_array_equal(direct, later)


def test_shared_prompt_equals_one_prompt_per_row(model):
    """[B, P] with W rows each == [B * W, P] with one row each."""
    rng = np.random.default_rng(6)
    width, prompts = 3, [rng.integers(1, 20, n).tolist() for n in (4, PROMPT)]
    tokens, lengths = padded(prompts)
    _, shared = run_prefill(model, tokens, lengths)
    _, repeated = run_prefill(model, jnp.repeat(tokens, width, axis=0), jnp.repeat(lengths, width))
    step, counts = chunk_of(rng, 6)
    args = jnp.asarray(step), jnp.asarray(counts)
    one, _ = run_extend(model, empty_cache(model.config, 6, 8, shared), *args)
    other, _ = run_extend(model, empty_cache(model.config, 6, 8, repeated), *args)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_bfloat16_cache_stays_close_to_forward():
    """Log-sum-exp merging is done in float32, so a bfloat16 cache costs no more than a bfloat16 forward."""
    model = tiny_language_model(2, tiny_config(dtype="bfloat16")).backbone
    rng = np.random.default_rng(7)
    prompt, steps = rng.integers(1, 20, PROMPT).tolist(), rng.integers(1, 20, (1, CHUNK)).astype(np.int32)
    _, cache = run_prefill(model, *padded([prompt]))
    hidden, _ = run_extend(model, empty_cache(model.config, 1, 8, cache), jnp.asarray(steps), jnp.asarray([CHUNK], jnp.int32))
    expected = full(model, [prompt + steps[0].tolist()])[0, PROMPT : PROMPT + CHUNK].astype(np.float32)
    error = np.asarray(hidden[0], np.float32) - expected
    assert np.sqrt(np.mean(error**2) / np.mean(expected**2)) < 0.02
