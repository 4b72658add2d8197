"""The engine, whatever the strategy: fewer rows give the same trees, exhaustive searches find everything, contexts end."""

import functools

import jax
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.scoring import aggregate, score_steps
from jaxprm.search import Beam, Rebase, chosen_path, search, solutions, steps_of
from jaxprm.steps import pad_solutions
from jaxprm.testing import scripted_policy, scripted_reward_model, tiny_language_model, tiny_reward_model

END, SEP = 2, 3
RANDOM = dict(max_steps=4, max_step_tokens=4, separator_id=SEP, end_id=END, aggregation="prod")


@pytest.fixture(scope="module")
def random_models():
    return tiny_language_model(1), tiny_reward_model(2)


def rescored(models, result, prompts, lengths):
    """Asserts that values of all usable nodes equal those of their whole paths, scored at once; how many there were."""
    encoded, found = [], []
    tree = result.tree
    for problem, level, place in np.argwhere(np.isfinite(tree.values)).tolist():
        ids, ends = prompts[problem, : lengths[problem]].tolist(), []
        for node in chosen_path(tree, problem, level, place):
            step = tree.tokens[problem, *node][: tree.lengths[problem, *node]].tolist()
            if step and step != [END]:
                ids += [SEP if token == END else token for token in step]
                ends.append(len(ids) - 1)
        encoded.append((ids, ends))
        found.append(tree.values[problem, level, place])
    batch = pad_solutions(encoded, 24, 4, rows=160)
    full = np.asarray(jax.jit(score_steps)(models[1], batch))
    np.testing.assert_allclose(found, aggregate(full, batch.step_mask, "prod")[: len(found)], atol=1e-5)
    return len(found)


def test_compaction_changes_nothing_but_the_rows_that_run(random_models):
    """Eight problems whose searches end at different levels: with fewer and fewer rows and problems the trees stay the same,
    down to the last token, and every gathered cache still gives the scores of the whole text."""
    rng = np.random.default_rng(0)
    prompts, lengths = rng.integers(4, 20, (8, 4)).astype(np.int32), rng.integers(2, 5, 8).astype(np.int32)
    run = functools.partial(search, *random_models, jax.random.key(3), prompts, lengths, Rebase(4), **RANDOM)
    plain, compact = run(), run(compaction=1)
    assert len(set(plain.levels.tolist())) > 2  # or there would be nothing to show
    for name in ("tokens", "lengths", "parents", "kept", "finished"):
        np.testing.assert_array_equal(getattr(plain.tree, name), getattr(compact.tree, name))
    np.testing.assert_allclose(plain.tree.values, compact.tree.values, atol=1e-5)
    for name in ("levels", "stopped", "level", "candidate"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(compact, name))
    assert plain.costs.compilations == 2 < compact.costs.compilations <= 1 + 4 + 3
    assert run(compaction=1).costs.compilations == 0
    assert rescored(random_models, compact, prompts, lengths) > 15


def test_a_beam_that_keeps_everything_equals_brute_force():
    """Four tokens, each the end of a solution or not, two levels: all 4 + 16 solutions are found, with their values."""
    rng, size, tokens = np.random.default_rng(1), 8, (4, 5, 6, 7)
    after, score = np.full((size, size), -100.0), np.full(size, 0.5)
    for token in tokens:
        after[token, SEP] = after[token, END] = after[SEP, token] = 0.0
        score[token] = rng.uniform(0.1, 0.9)
    policy, reward = scripted_policy(after), scripted_reward_model(score, of_previous=True)
    found = search(policy, reward, jax.random.key(0), np.array([[1, SEP]], np.int32), np.array([2], np.int32),
                   Beam(4, 64, finished="leave", duplicates="merge"), max_steps=2, max_step_tokens=2, separator_id=SEP,
                   end_id=END, aggregation="mean")
    expected = {(first,): score[first] for first in tokens}
    expected |= {(first, second): (score[first] + score[second]) / 2 for first in tokens for second in tokens}
    paths = {tuple(ids[0] for ids in steps_of(found.tree, 0, *node)): found.tree.values[0][node]
             for node in solutions(found.tree, 0)}
    assert set(paths) == set(expected)
    np.testing.assert_allclose([paths[path] for path in expected], list(expected.values()), atol=1e-5)
    best = steps_of(found.tree, 0, int(found.level[0]), int(found.candidate[0]))
    assert tuple(ids[0] for ids in best) == max(expected, key=expected.get) and found.finished.all()
    assert found.stopped_by(0) == "steps"


def test_a_search_ends_where_a_context_does():
    """Token 4 and a separator for ever; behind a prompt of 2 and two steps there is room for one more of up to 3 tokens in the
    reward model's context of 9 (2 + 2 * 2 + 3), behind three steps there is not."""
    after = np.full((8, 8), -100.0)
    after[SEP, 4] = after[4, SEP] = after[1, 4] = 0.0
    policy, reward = scripted_policy(after), scripted_reward_model(np.full(8, 0.5), context=9)
    settings = dict(max_steps=6, max_step_tokens=3, separator_id=SEP, end_id=END)
    found = search(policy, reward, jax.random.key(0), np.array([[1, SEP]], np.int32), np.array([2], np.int32), Beam(1, 2),
                   **settings)
    assert found.stopped_by(0) == "context" and found.levels.tolist() == [3] and not found.finished.any()
    assert found.costs.reward_tokens.tolist() == [2 + 3 * 2 * 2] and found.costs.policy_tokens.tolist() == [12]
    with pytest.raises(InputError, match="field 'lengths' = 7: the prompt of problem 0 and a step of 3 tokens do not fit"):
        search(policy, reward, jax.random.key(0), np.full((1, 7), 4, np.int32), np.array([7], np.int32), Beam(1, 2), **settings)
