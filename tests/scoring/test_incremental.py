"""Incremental scoring equals full scoring, whatever the steps' lengths and the reorderings between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.scoring import extend_scores, incremental, score_steps, start_scores
from jaxprm.steps import pad_solutions
from jaxprm.testing import tiny_reward_model

PROBLEMS, WIDTH, LONGEST, LEVELS, PROMPT, SEPARATOR = 2, 3, 6, 4, 6, 2
ROWS, CAPACITY = PROBLEMS * WIDTH, LONGEST * LEVELS
run_start = jax.jit(start_scores, static_argnames=("width", "capacity"))
run_extend = jax.jit(extend_scores, static_argnames="read_back")
run_scores = jax.jit(score_steps)


@functools.lru_cache
def model_of(head):
    return tiny_reward_model(1, head)


def begin(model, rng):
    prompts = [rng.integers(3, 20, n).tolist() for n in (3, PROMPT)]
    tokens = np.zeros((PROBLEMS, PROMPT), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    lengths = jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)
    state = run_start(model, jnp.asarray(tokens), lengths, width=WIDTH, capacity=CAPACITY)
    return state, [(list(prompts[row // WIDTH]), []) for row in range(ROWS)]


def full_scores(model, histories):
    batch = pad_solutions(histories, PROMPT + CAPACITY, LEVELS)
    scores = np.asarray(run_scores(model, batch))
    return [scores[row, : len(ends)] for row, (_, ends) in enumerate(histories)]


@pytest.mark.parametrize("read_back", [0, 1])
@pytest.mark.parametrize("head, size", [("scalar", LONGEST), ("binary", LONGEST), ("ranking", LONGEST), ("scalar", 2)])
def test_any_sequence_of_steps_and_gathers_equals_full_scoring(head, size, read_back, monkeypatch):
    """Steps of 1 (the separator alone: an empty step) to LONGEST tokens, read at once or in pieces; some rows skip a level;
    random parents after it. The caches have no slot too many."""
    monkeypatch.setattr(incremental, "_PIECE", size)
    monkeypatch.setattr(incremental, "_LEAST", 1)
    assert incremental.piece(LONGEST) == size
    run_extend = jax.jit(extend_scores, static_argnames="read_back")
    model = model_of(head)
    for seed in range(3):
        rng = np.random.default_rng((seed, read_back))
        state, histories = begin(model, rng)
        found = [[] for _ in range(ROWS)]
        read = sum(len(histories[b * WIDTH][0]) for b in range(PROBLEMS))
        for level in range(LEVELS):
            lengths = rng.integers(0, LONGEST + 1, ROWS).astype(np.int32)
            lengths[:2] = 1, 0
            tokens = rng.integers(3, 20, (ROWS, LONGEST)).astype(np.int32)
            for row, length in enumerate(lengths):
                if length:
                    tokens[row, length - 1] = SEPARATOR
                    ids, ends = histories[row]
                    histories[row] = ids + tokens[row, :length].tolist(), [*ends, len(ids) + int(length) - 1 - read_back]
            scores, state = run_extend(model, state, jnp.asarray(tokens), jnp.asarray(lengths), read_back=read_back)
            read += int(lengths.sum())
            for row, length in enumerate(lengths):
                found[row] = [*found[row], float(scores[row])] if length else found[row]
                assert length or scores[row] == 0
            for one, other in zip(found, full_scores(model, histories)):
                np.testing.assert_allclose(one, other, atol=1e-5)
            if level < LEVELS - 1:
                parents = rng.integers(0, WIDTH, (PROBLEMS, WIDTH)).astype(np.int32)
                state = state.gather(jnp.asarray(parents))
                source = [b * WIDTH + p for b in range(PROBLEMS) for p in parents[b]]
                histories, found = [histories[i] for i in source], [found[i] for i in source]
        assert int(state.tokens_read) == read


def test_long_steps_are_read_up_to_where_they_end(monkeypatch):
    """Of 5 pieces of 60 tokens as many are read as the longest step has begun; none at all where nobody reads."""
    pieces, extend = [], incremental.extend
    monkeypatch.setattr(incremental, "extend", lambda *arguments: pieces.append(arguments[2].shape) or extend(*arguments))
    model = tiny_reward_model(1)
    prompts = jnp.full((1, 4), 5, jnp.int32), jnp.array([4], jnp.int32)
    state = run_start(model, *prompts, width=2, capacity=600)
    tokens = jnp.full((2, 300), 5, jnp.int32)
    with jax.disable_jit():
        for lengths, read in ([0, 0], 0), ([60, 7], 1), ([121, 3], 3), ([0, 300], 5):
            pieces.clear()
            extend_scores(model, state, tokens, jnp.array(lengths, jnp.int32))
            assert pieces == [(2, 60)] * read
    assert [incremental.piece(room) for room in (1, 12, 40, 97, 128, 250)] == [1, 12, 40, 97, 64, 50]


def test_gather_may_change_the_width():
    """A search starts with many candidates and keeps few: [B * W] -> [B * V] rows."""
    model, rng = model_of("scalar"), np.random.default_rng(5)
    state, _ = begin(model, rng)
    tokens = rng.integers(3, 20, (ROWS, LONGEST)).astype(np.int32)
    lengths = jnp.full((ROWS,), LONGEST, jnp.int32)
    _, state = run_extend(model, state, jnp.asarray(tokens), lengths)
    again, _ = run_extend(model, state, jnp.asarray(tokens), lengths)
    kept = state.gather(jnp.asarray([[2], [0]], jnp.int32))
    assert kept.cache.lengths.shape == (2,) and kept.last.shape == (2, 16)
    rows = np.array([2, WIDTH])
    scores, _ = run_extend(model, kept, jnp.asarray(tokens[rows]), lengths[:2])
    np.testing.assert_allclose(scores, np.asarray(again)[rows], atol=1e-6)
