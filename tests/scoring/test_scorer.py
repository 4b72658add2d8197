"""`StepScorer`: scores in = steps out, in order, with few shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.models import make_mesh, parameter_shardings, parameters
from jaxprm.records import Problem, Solution
from jaxprm.scoring import StepScorer, score_steps
from jaxprm.scoring.scorer import _score_steps, bucket, bucket_rows
from jaxprm.steps import StepEncoder, StepFormat, pad_solutions
from jaxprm.testing import tiny_config, tiny_reward_model, word_tokenizer

WORDS = word_tokenizer([f"w{i}" for i in range(10)])


@pytest.fixture(scope="module")
def scorer():
    config = tiny_config(vocab_size=WORDS.vocab_size, layers=1, context=48)
    return StepScorer(tiny_reward_model(0, config=config), StepEncoder(StepFormat(), WORDS), batch_tokens=128)


def solution(rng, steps):
    texts = tuple(" ".join(f"w{i}" for i in rng.integers(0, 10, rng.integers(1, 4))) for _ in range(steps))
    return Solution(Problem("p", "w1 w2"), texts)


def test_one_score_per_step_in_order_equal_to_one_by_one(scorer):
    rng = np.random.default_rng(0)
    solutions = [solution(rng, steps) for steps in (3, 1, 11, 2, 4, 9, 0, 1)]
    calls = []
    scores = scorer.score(solutions, lambda count, tokens: calls.append((count, tokens)))
    assert [len(s) for s in scores] == [3, 1, 11, 2, 4, 9, 0, 1]
    assert all(s.dtype == np.float32 and ((s > 0) & (s < 1)).all() for s in scores)
    for one, values in zip(solutions, scores):
        encoded = scorer.encode(one)
        alone = jax.jit(score_steps)(scorer.model, pad_solutions([encoded], 48, 12))[0, : len(one.steps)]
        np.testing.assert_allclose(values, alone, atol=1e-6)
    assert sum(count for count, _ in calls) == 8
    assert sum(tokens for _, tokens in calls) == sum(len(scorer.encode(one)[0]) for one in solutions)
    order = rng.permutation(8)
    for index, values in zip(order, scorer.score([solutions[i] for i in order])):
        np.testing.assert_allclose(values, scores[index], rtol=1e-6)  # a matrix product rounds by a row's place
    assert scorer.score([]) == []


def test_few_shapes_are_compiled(scorer):
    rng = np.random.default_rng(1)
    _score_steps.clear_cache()
    scorer.score([solution(rng, int(steps)) for steps in rng.integers(1, 12, 60)])
    shapes = {(rows, tokens, steps) for rows, tokens in ((1, 32), (2, 32), (4, 32), (1, 48), (2, 48)) for steps in (8, 12)}
    assert _score_steps._cache_size() <= len(shapes)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scorer.score([solution(rng, int(steps)) for steps in rng.integers(1, 12, 10 + 3 * seed)])
    assert _score_steps._cache_size() <= len(shapes)


@pytest.mark.parametrize("count, rows", [(1, 1), (2, 2), (3, 4), (4, 4), (5, 5)])
def test_a_few_solutions_do_not_pay_for_a_full_batch(scorer, count, rows, monkeypatch):
    scorer = StepScorer(scorer.model, scorer.encoder, batch_tokens=5 * 32)
    shapes = []
    monkeypatch.setattr(scorer, "_score", lambda batch, starts: shapes.append(batch.tokens.shape)
                        or np.zeros(batch.step_ends.shape, np.float32))
    scorer.score([solution(np.random.default_rng(0), 2)] * count)
    assert shapes == [(rows, 32)]


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 2, 8]))
def test_row_buckets_are_powers_of_two_or_full(count, most, divisor):
    most = max(1, most // divisor) * divisor
    count = min(count, most)
    size = bucket_rows(count, most, divisor)
    assert count <= size <= most and size % divisor == 0
    assert size == most or (size // divisor).bit_count() == 1 and (size == divisor or size < 2 * count)


def test_on_a_mesh_the_scores_are_those_of_one_device():
    config = tiny_config(vocab_size=WORDS.vocab_size, layers=1, context=48)
    config = dataclasses.replace(config, vocab_size=-(-config.vocab_size // 2) * 2)
    model, encoder = tiny_reward_model(0, config=config), StepEncoder(StepFormat(), WORDS)
    rng = np.random.default_rng(3)
    solutions = [solution(rng, steps) for steps in (3, 1, 11, 2, 4, 9, 1)]
    mesh = make_mesh(2, 2, 2)
    sharded = StepScorer(model, encoder, batch_tokens=128, mesh=mesh)
    for values, alone in zip(sharded.score(solutions), StepScorer(model, encoder, batch_tokens=128).score(solutions)):
        np.testing.assert_allclose(values, alone, atol=1e-6)
    for name, value in parameters(sharded.model).items():
        assert value.sharding == parameter_shardings([name], mesh)[name]


@given(st.integers(0, 100_000), st.sampled_from([8, 32]))
def test_buckets_hold_their_length_with_little_padding(length, smallest):
    size = bucket(length, smallest)
    assert size >= length and size % (smallest // 4) == 0
    assert length <= smallest or size < 1.25 * length
    assert bucket(size, smallest) == size


def test_bucket_sizes():
    assert sorted({bucket(n) for n in range(1, 200)}) == [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224]


@pytest.mark.parametrize("steps, message", [
    (("w1", ""), "row 2: field 'step' = '': is an empty step; drop empty steps"),
    (("w1\nw2",), r"row 2: field 'step' = 'w1\nw2': contains the separator '\n'; split it there, or replace the "
                  "separator inside the step"),
    (("w1",) * 23, "row 2: field 'steps': needs 50 tokens, the model's context is 48; split the solution, or use a model "
                   "with a longer context"),
])
def test_a_solution_that_cannot_be_scored_names_its_row(scorer, steps, message):
    problem = Problem("p", "w1 w2")
    with pytest.raises(InputError) as error:
        scorer.score([Solution(problem, ("w1",)), Solution(problem, steps)])
    assert str(error.value).replace("\\\\n", "\\n") == message


def test_a_longer_context_is_enough():
    model = tiny_reward_model(0, config=tiny_config(vocab_size=WORDS.vocab_size, layers=1, context=50))
    scorer = StepScorer(model, StepEncoder(StepFormat(), WORDS), batch_tokens=64)
    assert len(scorer.encode(Solution(Problem("p", "w1 w2"), ("w1",) * 23))[0]) == 50


def test_batch_tokens_must_be_positive(scorer):
    with pytest.raises(InputError, match="field 'batch_tokens' = 0: must be at least 1"):
        StepScorer(scorer.model, scorer.encoder, batch_tokens=0)
