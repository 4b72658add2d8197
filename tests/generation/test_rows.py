"""Sampled rows against a plain Python oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.generation import Samples, solution_rows
from jaxprm.testing.oracles import split_steps

SEPARATOR, END, PROMPT, ROOM, STEPS = 3, 2, 4, 8, 4
run_rows = jax.jit(functools.partial(solution_rows, separator_id=SEPARATOR, end_id=END, steps=STEPS),
                   static_argnames="read_back")


def rows_of(prompts, generated, read_back=0):
    tokens, lengths = np.zeros((len(prompts), PROMPT), np.int32), np.array([len(p) for p in prompts], np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    drawn, log_probs = np.zeros((len(generated), ROOM), np.int32), np.zeros((len(generated), ROOM), np.float32)
    for row, ids in enumerate(generated):
        drawn[row, : len(ids)] = ids
        log_probs[row, : len(ids)] = -1.0 - np.arange(len(ids)) - 10 * row
    samples = Samples(jnp.asarray(drawn), jnp.asarray(log_probs), jnp.asarray([len(ids) for ids in generated], jnp.int32),
                      jnp.asarray([END in ids for ids in generated]))
    return jax.device_get(run_rows(jnp.asarray(tokens), jnp.asarray(lengths), samples, read_back=read_back))


def check(prompts, generated, read_back):
    found, width = rows_of(prompts, generated, read_back), len(generated) // len(prompts)
    for row, ids in enumerate(generated):
        prompt = prompts[row // width]
        ends, owner = split_steps(prompt, ids, SEPARATOR, END, read_back)
        size, whole = len(prompt) + len(ids), PROMPT + ROOM
        assert found.tokens[row].tolist() == prompt + ids + [0] * (whole - size)
        assert found.generated[row].tolist() == [len(prompt) <= c < size for c in range(whole)]
        assert found.step_of_token[row].tolist() == [-1] * len(prompt) + owner + [-1] * (whole - size)
        assert found.batch.step_mask[row].tolist() == [s < len(ends) for s in range(STEPS)]
        assert found.batch.step_ends[row][: len(ends)].tolist() == ends[:STEPS]
        assert found.batch.segment_ids[row].tolist() == [int(c < size) for c in range(whole)]
        assert found.batch.positions[row].tolist() == list(range(whole))
        closing = {end + read_back for end in ends}
        written = found.tokens[row].tolist()
        assert found.batch.tokens[row].tolist() == [SEPARATOR if c in closing else t for c, t in enumerate(written)]
        expected = np.zeros(whole, np.float32)
        expected[len(prompt) : size] = -1.0 - np.arange(len(ids)) - 10 * row
        np.testing.assert_array_equal(found.log_probs[row], expected)
        assert bool(found.complete[row]) == (END in ids and len(ends) <= STEPS)


def test_worked_example():
    """prompt [q ?], sample [a | b E .]"""
    found = rows_of([[7, 8]], [[5, SEPARATOR, 6, END]])
    assert found.tokens[0, :7].tolist() == [7, 8, 5, SEPARATOR, 6, END, 0]
    assert found.step_of_token[0, :7].tolist() == [-1, -1, 0, 0, 1, 1, -1]
    assert found.batch.tokens[0, :7].tolist() == [7, 8, 5, SEPARATOR, 6, SEPARATOR, 0]
    assert found.batch.step_ends[0, :2].tolist() == [3, 5] and found.batch.step_mask[0].tolist() == [True, True, False, False]
    assert found.complete[0]


@pytest.mark.parametrize("generated", [
    [SEPARATOR, SEPARATOR, 5, SEPARATOR, END],  # empty steps, and an end token alone
    [END],  # nothing but the end
    [5, 6, 7, 5, 6, 7, 5, 6],  # cut off within the first step
    [5, SEPARATOR, 6, 7, 7, 7, 7, 7],  # cut off within the second
    [SEPARATOR] * 5 + [5, END],  # more steps than places
    [5, SEPARATOR] * 4,  # all places used, not ended
    [5, SEPARATOR] * 3 + [5, END],  # all places used, ended by the end token
], ids=str)
@pytest.mark.parametrize("read_back", [0, 1])
def test_edge_cases(generated, read_back):
    check([[7, SEPARATOR], [9, 9, 9, 9]], [generated, [5, END], [6, SEPARATOR, END], generated], read_back)


def until_end(ids):
    return ids[: ids.index(END) + 1] if END in ids else ids


tokens = st.sampled_from([SEPARATOR, SEPARATOR, END, 5, 6, 7])
solutions = st.lists(tokens, min_size=1, max_size=ROOM).map(until_end)


@given(prompts=st.lists(st.lists(st.sampled_from([SEPARATOR, END, 5, 8]), min_size=1, max_size=PROMPT), min_size=2, max_size=2),
       generated=st.lists(solutions, min_size=4, max_size=4), read_back=st.sampled_from([0, 1]))
def test_equals_the_oracle(prompts, generated, read_back):
    check(prompts, generated, read_back)
