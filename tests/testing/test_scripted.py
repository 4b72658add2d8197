"""The scripted models do what they promise; other tests rest on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.models import forward, logits
from jaxprm.scoring import score_steps
from jaxprm.steps import pad_solutions
from jaxprm.testing import scripted_policy, scripted_reward_model


@pytest.mark.parametrize("vocabulary", [3, 12, 31])
def test_policy_and_scores_follow_their_tables(vocabulary):
    rng = np.random.default_rng(vocabulary)
    after, after_previous = rng.normal(0, 5, (2, vocabulary, vocabulary))
    tokens = rng.integers(0, vocabulary, (2, 40)).astype(np.int32)
    previous = np.concatenate([tokens[:, :1], tokens[:, :-1]], axis=1)
    rows = jnp.asarray(tokens), jnp.broadcast_to(jnp.arange(40, dtype=jnp.int32), tokens.shape), jnp.ones_like(tokens)
    model = scripted_policy(after, after_previous)
    found = jax.jit(lambda model: logits(model, forward(model.backbone, *rows)))(model)
    np.testing.assert_allclose(found, after[tokens] + after_previous[previous], atol=1e-3)
    bigram = scripted_policy(after)
    np.testing.assert_allclose(logits(bigram, forward(bigram.backbone, *rows)), after[tokens], atol=1e-3)

    score = rng.uniform(0.01, 0.99, vocabulary)
    batch = pad_solutions([(row.tolist(), list(range(40))) for row in tokens], 40, 40)
    for of_previous, read in ((False, tokens), (True, previous)):
        model = scripted_reward_model(score, of_previous=of_previous)
        np.testing.assert_allclose(jax.jit(score_steps)(model, batch), score[read], atol=1e-4)
