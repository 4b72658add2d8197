"""Implicit rewards: log-ratios from a start, summed up to each read position."""

import dataclasses

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.models import make_mesh
from jaxprm.models.transformer import LanguageModel, forward, logits
from jaxprm.objectives import language_model as chunks
from jaxprm.scoring.implicit import ImplicitModel, implicit_scores
from jaxprm.scoring.scorer import StepScorer
from jaxprm.steps import pad_solutions
from jaxprm.testing import tiny_config, tiny_language_model

CONFIG = tiny_config(vocab_size=28, layers=1, context=48)
ROWS = [([1, 5, 7, 2, 9, 3], [3, 4], 1), ([4, 4, 8], [1], 0), ([6, 2, 3, 11, 12, 13, 1, 2, 5], [2, 5, 7], 4)]


@pytest.fixture(scope="module")
def model() -> ImplicitModel:
    return ImplicitModel(tiny_language_model(0, config=CONFIG), tiny_language_model(1, config=CONFIG), coefficient=0.5)


def oracle(model: ImplicitModel, row) -> np.ndarray:
    """In float64, token by token."""
    ids, ends, start = row

    def log_probs(language_model: LanguageModel) -> np.ndarray:
        tokens = jnp.array([ids])
        hidden = forward(language_model.backbone, tokens, jnp.arange(len(ids))[None], jnp.ones_like(tokens))
        values = np.asarray(logits(language_model, hidden)[0], np.float64)
        values -= np.log(np.exp(values).sum(-1, keepdims=True))
        return np.array([values[t, ids[t + 1]] for t in range(len(ids) - 1)])

    ratio = log_probs(model.policy) - log_probs(model.reference)
    return np.array([model.coefficient * sum(ratio[t] for t in range(start, end + 1)) for end in ends])


def test_sums_of_log_ratios(model):
    scores = StepScorer(model, encoder=NoEncoder()).score_ids(ROWS)
    for row, values in zip(ROWS, scores):
        np.testing.assert_allclose(values, oracle(model, row), atol=2e-6)
    assert scores[2][0] == 0  # read before the first position that counts


def test_chunks_of_logits_change_nothing(model, monkeypatch):
    batch = jax.tree.map(jnp.asarray, pad_solutions([row[:2] for row in ROWS], 12, 4))
    starts = jnp.array([row[2] for row in ROWS])
    whole = implicit_scores(model, batch, starts)
    monkeypatch.setattr(chunks, "DIRECT_LOGITS", 5 * 3 * CONFIG.vocab_size)
    shapes = []

    def largest(jaxpr):
        for equation in jaxpr.eqns:
            shapes.extend(value.aval.shape for value in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                largest(inner)

    largest(jax.make_jaxpr(implicit_scores)(model, batch, starts).jaxpr)
    at_once = [np.prod(shape) for shape in shapes if len(shape) == 3 and shape[-1] == CONFIG.vocab_size]
    assert at_once and max(at_once) <= 5 * 3 * CONFIG.vocab_size
    np.testing.assert_allclose(implicit_scores(model, batch, starts), whole, atol=1e-6)


def test_a_capped_model_is_read_with_its_cap(model):
    capped = dataclasses.replace(CONFIG, logit_softcap=0.5)
    policy = tiny_language_model(0, config=capped)
    pair = ImplicitModel(policy, model.reference, coefficient=0.5)
    scores = StepScorer(pair, encoder=NoEncoder()).score_ids(ROWS[:1])
    np.testing.assert_allclose(scores[0], oracle(pair, ROWS[0]), atol=2e-6)
    assert abs(scores[0] - oracle(model, ROWS[0])).max() > 1e-3


def test_the_context_is_what_both_can_read(model):
    short = ImplicitModel(model.policy, tiny_language_model(1, config=dataclasses.replace(CONFIG, context=20)))
    assert short.config.context == 20 and model.config.context == 48


def test_on_a_mesh(model):
    mesh = make_mesh(4, 1, 2)
    alone = StepScorer(model, encoder=NoEncoder()).score_ids(ROWS)
    for values, expected in zip(StepScorer(model, NoEncoder(), mesh=mesh).score_ids(ROWS), alone):
        np.testing.assert_allclose(values, expected, atol=2e-6)  # two numbers that are each as near to the oracle


class NoEncoder:
    """Rows are given as ids."""

    def encode(self, problem, steps, /):
        raise AssertionError
