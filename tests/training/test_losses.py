"""Batches of the data pipeline to losses: the worked examples against the oracle."""

import jax
import numpy as np
import pytest

from jaxprm.data.examples import language_model_example, step_example
from jaxprm.data.pipeline import LanguageModelDataset, StepDataset
from jaxprm.models import parameters
from jaxprm.objectives import binary_cross_entropy, pqm_ranking
from jaxprm.testing import random_solutions, tiny_config, tiny_language_model, tiny_reward_model
from jaxprm.testing.oracles import decoder_hidden, next_token_logits
from jaxprm.training import language_model_loss, step_loss

SOLUTIONS = random_solutions(3, 5)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_language_model_loss_is_the_mean_over_completions(cap):
    examples = [language_model_example(s.ids[:2], s.ids[2:]) for s in SOLUTIONS]
    (batch,) = LanguageModelDataset(examples, row_tokens=64, batch_rows=2, seed=None, epochs=1)
    model = tiny_language_model(0, tiny_config(logit_softcap=cap))
    loss = jax.jit(language_model_loss)(model, batch)
    terms = []
    for solution in SOLUTIONS:
        logits = next_token_logits(model.config, parameters(model), solution.ids)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        terms += [-log_probs[t - 1, solution.ids[t]] for t in range(2, len(solution.ids))]
    assert loss.weight == len(terms)
    np.testing.assert_allclose(loss.mean(), np.mean(terms), rtol=1e-5)


def packed():
    (batch,) = StepDataset([step_example(s.ids, s.step_ends, s.labels, weight=1.0 + i) for i, s in enumerate(SOLUTIONS)],
                           row_tokens=64, row_steps=20, batch_rows=2, seed=None, epochs=1)
    return batch


def test_step_loss_is_the_weighted_mean_over_judged_steps():
    model = tiny_reward_model(1)
    loss = jax.jit(step_loss(binary_cross_entropy))(model, packed())
    values = parameters(model)
    terms, weights = [], []
    for index, solution in enumerate(SOLUTIONS):
        hidden = decoder_hidden(model.config, values, solution.ids)[list(solution.step_ends)]
        logits = hidden @ np.asarray(values["head.kernel"])[:, 0] + np.asarray(values["head.bias"])[0]
        for logit, label in zip(logits, solution.labels):
            if label is not None:
                terms.append(np.log1p(np.exp(-logit if label else logit)))
                weights.append(1.0 + index)
    np.testing.assert_allclose(loss.weight, np.sum(weights))
    np.testing.assert_allclose(loss.mean(), np.average(terms, weights=weights), rtol=1e-4)


def test_hyperparameters_and_segments_reach_the_objective():
    """PQM ranks within a solution: packed rows need their segments, and zeta is its margin."""
    model = tiny_reward_model(1, "ranking")
    batch = packed()
    judged = {i for i, s in enumerate(SOLUTIONS) if any(label is not None for label in s.labels)}
    losses = {zeta: jax.jit(step_loss(pqm_ranking, zeta=zeta))(model, batch) for zeta in (0.0, 4.0)}
    np.testing.assert_allclose(losses[0.0].weight, sum(1.0 + i for i in judged))
    assert losses[4.0].mean() > losses[0.0].mean()
