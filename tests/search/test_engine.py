"""The engine, whatever the strategy: fewer rows give the same trees, exhaustive searches find everything, contexts end."""

import functools

import jax
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.scoring import aggregate, score_steps
from jaxprm.search import (Beam, EarlyRejection, Lookahead, Rebase, chosen_path, engine, search, solutions,
                           steps_of)
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


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return rng.integers(4, 20, (8, 4)).astype(np.int32), rng.integers(2, 5, 8).astype(np.int32)


@pytest.fixture(scope="module")
def plain(random_models, prompts):
    return search(*random_models, jax.random.key(3), *prompts, Rebase(4), **RANDOM)


@pytest.mark.parametrize("sizes, most", [(dict(compaction=1), 4 + 3), (dict(doublings=2), 3 + 2),
                                         (dict(compaction=1, doublings=1), 6 + 5)],
                         ids=["compaction", "doublings", "both"])
def test_sizes_change_nothing_but_what_is_computed(random_models, prompts, plain, sizes, most):
    """Eight problems whose searches end at different levels: with fewer and fewer rows and problems, and caches that grow, the
    trees stay the same, down to the last token, and every cache still gives the scores of the whole text."""
    run = functools.partial(search, *random_models, jax.random.key(3), *prompts, Rebase(4), **RANDOM)
    found = run(**sizes)
    assert len(set(plain.levels.tolist())) > 2  # or there would be nothing to show
    for name in ("tokens", "lengths", "parents", "kept", "finished"):
        np.testing.assert_array_equal(getattr(plain.tree, name), getattr(found.tree, name))
    np.testing.assert_allclose(plain.tree.values, found.tree.values, atol=1e-5)
    for name in ("levels", "stopped", "level", "candidate"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))
    assert plain.costs.compilations == 1 < found.costs.compilations <= most
    assert run(**sizes).costs.compilations == 0
    assert rescored(random_models, found, *prompts) > 15


@pytest.mark.parametrize("strategy", [Lookahead(Beam(1, 4)), EarlyRejection(Beam(1, 4), tokens=2)], ids=["lookahead", "early"])
def test_caches_that_grow_have_room_for_what_is_thrown_away(random_models, prompts, strategy):
    run = functools.partial(search, *random_models, jax.random.key(3), *prompts, strategy, **RANDOM)
    few, grown = run(), run(doublings=4)
    np.testing.assert_array_equal(few.tree.tokens, grown.tree.tokens)
    np.testing.assert_allclose(few.tree.values, grown.tree.values, atol=1e-5)


def test_caches_begin_small(random_models, prompts, monkeypatch):
    """Room for 16 tokens of a path and for one more step; an eighth of it, and twice as much when a path needs it."""
    slots, levels = [], engine._levels

    def watched(models, state, *rest):
        slots.append(state.rows.policy.cache.capacity)
        return levels(models, state, *rest)

    monkeypatch.setattr(engine, "_levels", watched)
    engine._begin.clear_cache(), engine._run.clear_cache()  # what is watched is the tracing
    search(*random_models, jax.random.key(3), *prompts, Rebase(4), doublings=3, **RANDOM)
    assert slots[0] == 2 + 4 and slots == sorted(set(slots)) and set(slots) <= {2 + 4, 4 + 4, 8 + 4, 16 + 4}


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
