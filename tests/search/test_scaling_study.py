"""What the study of test-time scaling does itself: an oracle that stands where models do, and labels of countdown tokens."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.generation.policy import pad_prompts
from jaxprm.scoring.incremental import extend_scores, start_scores
from jaxprm.search.searcher import Searcher, SearchSettings
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.testing import scripted_policy


@pytest.fixture
def study(repository, monkeypatch):
    """Imports a module of the study."""
    monkeypatch.syspath_prepend(str(repository / "experiments" / "test_time_scaling"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(repository / "experiments") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_oracle_knows_texts_and_beginnings(study):
    task = ArithmeticTask(min_steps=3, max_steps=3, modulus=7)
    problems = [task.sample((0, place)) for place in range(8)]
    wrong = [tuple(step.replace("= ", "= 9") for step in task.solve(problem)) for problem in problems]
    lines = [line for problem, steps in zip(problems, wrong) for line in (problem.prompt, *task.solve(problem), *steps)]
    tokenizer = train_sentencepiece(lines, 60, symbols=["\n"], byte_fallback=False)
    encoder, scorers = StepEncoder(StepFormat(), tokenizer), study("scorers")
    truth = scorers.Truth(task, encoder, problems)
    model = scorers.OracleModel(truth, tokenizer.vocab_size, 128)

    # Two rows of each problem: right steps, and right ones but for the second, whose beginning is right.
    prompts, lengths = map(jnp.asarray, pad_prompts([encoder.encode_prompt(problem.prompt) for problem in problems]))
    rows = [steps for problem, bad in zip(problems, wrong) for steps in
            (task.solve(problem), (task.solve(problem)[0], bad[1], *task.solve(problem)[2:]))]
    state, found = start_scores(model, prompts, lengths, 2, 96), []
    for place in range(4):
        ids = [encoder.encode_step(steps[place]) for steps in rows]
        parts = [[one[:2] for one in ids], [one[2:] for one in ids]] if place == 1 else [ids]
        for part in parts:
            score, state = jax.jit(extend_scores)(model, state, *map(jnp.asarray, pad_prompts(part)))
            found.append(np.asarray(score).reshape(-1, 2).T)
        parents = jnp.tile(jnp.array([1, 0]), (len(problems), 1))  # rows change places, and back
        state = state.gather(parents).gather(parents)
    np.testing.assert_array_equal([right for right, _ in found], 1)
    np.testing.assert_array_equal([careless[0] for _, careless in found], [1, 1, 0, 1, 1])  # lines 3 and 4 are the reference's

    other = task.sample((1, 0))
    unknown = np.array([encoder.encode_prompt(other.prompt) + encoder.encode_step(task.solve(other)[0])])
    assert truth(unknown) == 0


@pytest.mark.parametrize("name", ["early rejection", "tree puct_openr", "chunk reset"])
def test_compiled_searches_ask_the_oracle(study, name):
    scorers, strategies = study("scorers"), study("strategies")
    task = ArithmeticTask(min_steps=2, max_steps=2, modulus=3)
    problems = [task.sample((0, place)) for place in range(2)]
    lines = [line for problem in problems for line in (problem.prompt, *task.solve(problem))]
    encoder = StepEncoder(StepFormat(), train_sentencepiece(lines, 40, symbols=["\n"], byte_fallback=False))
    # The policy writes what followed the same two tokens in the solutions: steps of them, in any order.
    size = encoder.tokenizer.vocab_size
    after, after_previous = np.full((size, size), -20.0), np.full((size, size), -6.0)
    for problem in problems:
        steps = [encoder.encode_step(step) for step in task.solve(problem)]
        ids = sum([encoder.encode_prompt(problem.prompt)] + steps, [])
        for two, one, new in zip(ids[:-1], ids[1:-1], ids[2:]):
            after[one, new], after_previous[two, new] = 0.0, 0.0
    policy = LocalTextPolicy(scripted_policy(after, after_previous, 128), encoder, max_steps=4, max_step_tokens=16)
    truth = scorers.Truth(task, encoder, problems)
    strategy = (strategies.level_strategies(8, 8) | strategies.node_strategies(8))[name]
    model = scorers.OracleModel(truth, size, 128)
    found = Searcher(policy, model, encoder, SearchSettings(strategy, max_steps=3)).run(problems)
    scores = [(node.score, float(task.judge(one.problem, one.steps(node.id)).right[-1]))
              for one in found for node in one.nodes if node.score is not None and node.value is not None]
    assert {score for score, _ in scores} == {0.0, 1.0}
    assert all(score == right for score, right in scores)


def test_labels_of_countdown_tokens(study):
    countdown = study("countdown")
    problem = countdown.TASK.sample((0, 0))
    reference = countdown.TASK.solve(problem)
    wrong = countdown.TASK.corrupt((1,), problem, reference, "off_by_one", 1)
    tokenizer = train_sentencepiece([problem.prompt, *reference, *wrong] * 20, 60, symbols=["\n"], byte_fallback=False)
    encoder = StepEncoder(StepFormat(), tokenizer)
    right = countdown._example(problem, reference, encoder)
    assert np.all(right["labels"] == 1) and len(right["labels"]) == sum(len(encoder.encode_step(step)) for step in reference)
    labels = countdown._example(problem, wrong, encoder)["labels"]
    first, second = (len(encoder.encode_step(step)) for step in wrong[:2])
    assert np.all(labels[:first] == 1) and 0 < labels[first : first + second].sum() < second  # up to the wrong result
    assert np.all(labels[first + second :] == 0)


def test_sizes(study):
    strategies = study("strategies")
    for size in strategies.SIZES:
        assert {strategy.rows for strategy in strategies.level_strategies(size, 12).values()} == {size}
