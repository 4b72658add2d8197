"""Whole searches with every strategy on scripted trees: hand-computed nodes, budgets and reasons to stop.

Every step is one token and a separator (or the end token at a leaf); all children of a node are equally likely:

    problem A   a .9 -> a1 .3, a2 .2        problem B   c .8
                b .7 -> b1 .6                           d .5 -> d1 .9
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.search import (DVTS, Beam, BestOfN, Budget, Distinct, EarlyRejection, EntropyBranching, Lookahead, Particle, Rebase,
                           ValueGuided, chosen_ids, engine, search, solutions, steps_of)
from jaxprm.testing import scripted_policy, scripted_reward_model

END, SEP = 2, 3
TREE = {"A": ("a", "b"), "a": ("a1", "a2"), "b": ("b1",), "B": ("c", "d"), "d": ("d1",)}
SCORES = {"a": 0.9, "a1": 0.3, "a2": 0.2, "b": 0.7, "b1": 0.6, "c": 0.8, "d": 0.5, "d1": 0.9}
ID = {name: index for index, name in enumerate(("<pad>", "<s>", "</s>", "|", "A", "B", *SCORES))}
NAME = {index: name for name, index in ID.items()}


def models():
    size = len(ID)
    after, after_previous, score = np.full((size, size), -100.0), np.zeros((size, size)), np.full(size, 0.5)
    after[SEP] = 0.0
    for name, value in SCORES.items():
        after[ID[name], SEP if name in TREE else END] = 0.0
        score[ID[name]] = value
    for node, children in TREE.items():
        after_previous[ID[node]] = -100.0
        for child in children:
            after_previous[ID[node], ID[child]] = 0.0
    return scripted_policy(after, after_previous), scripted_reward_model(score, of_previous=True)


POLICY, REWARD = models()
PROMPTS = jnp.asarray([[1, ID["A"], SEP, 0], [1, ID["B"], SEP, 0]], jnp.int32), np.array([3, 3], np.int32)
RUN = functools.partial(search, POLICY, REWARD, separator_id=SEP, end_id=END, max_steps=4, max_step_tokens=3)


def names(result, problem):
    return [NAME[token] for token in chosen_ids(result, problem) if token not in (SEP, END)]


def texts(result, problem):
    """Of all finished paths, the best first."""
    return [tuple(NAME[ids[0]] for ids in steps_of(result.tree, problem, *node)) for node in solutions(result.tree, problem)]


def values_of_tree(result, problem):
    """(name of the newest step, value) of the usable nodes with new tokens."""
    tree = result.tree
    return {(NAME[int(tree.tokens[problem, level, place, 0])], round(float(tree.values[problem, level, place]), 4))
            for level, place in np.argwhere((tree.lengths[problem] > 0) & np.isfinite(tree.values[problem])).tolist()}


def test_best_of_n_draws_whole_solutions():
    """Of 12 samples of A all have two steps; of B those that begin with c have one. Nothing is read twice."""
    found = RUN(jax.random.key(0), *PROMPTS, BestOfN(12), aggregation="min")
    assert names(found, 0) == ["b", "b1"] and names(found, 1) == ["c"] and found.finished.all()
    drawn = found.tree.tokens[1, 0, :, 0].tolist()
    assert found.costs.policy_tokens.tolist() == [48, 24 + 2 * drawn.count(ID["d"])]
    assert found.costs.reward_tokens.tolist() == [3 + 48, 3 + 24 + 2 * drawn.count(ID["d"])]
    assert found.costs.policy_forwards.tolist() == [5, 5] and found.costs.reward_forwards.tolist() == [3, 3]
    assert len(solutions(found.tree, 0)) == 12 and texts(found, 0)[0] == ("b", "b1")
    assert set(texts(found, 1)) == {("c",), ("d", "d1")}
    assert [found.stopped_by(problem) for problem in (0, 1)] == ["finished"] * 2


def test_a_search_stops_at_its_budget():
    """After the first level of 12 candidates: 24 policy tokens, 27 reward tokens, 3 + 2 forwards. All of it is one program."""
    run = functools.partial(RUN, jax.random.key(0), *PROMPTS, BestOfN(12), aggregation="min")
    full = run()
    limits = dict(policy_tokens=24, reward_tokens=27, forwards=5, levels=1, flops=float(full.costs.flops.min()) / 2)
    for name, limit in limits.items():
        found = run(budget=Budget(**{name: limit}))
        assert [found.stopped_by(problem) for problem in (0, 1)] == [name] * 2 and found.levels.tolist() == [1, 1]
        assert found.costs.compilations == 0 and found.finished.tolist() == [False, True]  # c ends in one step
        assert names(found, 0) == ["a"] and found.costs.policy_tokens.tolist() == [24, 24]
        if name != "flops":
            assert run(budget=Budget(**{name: limit + 1})).levels[0] == 2
    found = run(budget=Budget(seconds=1e-9))
    assert found.stopped_by(0) == "seconds" and found.levels.tolist() == [1, 1]
    assert run(budget=Budget(seconds=1e9)).levels.tolist() == [2, 2]
    engine._begin.clear_cache()
    found = run(budget=Budget(compilations=1, seconds=1e9))
    assert found.stopped_by(0) == "compilations" and found.levels.tolist() == [1, 1] and found.costs.compilations == 1
    assert run(budget=Budget(compilations=1)).levels.tolist() == [2, 2]


def test_flops_by_hand():
    """One layer; 2 per weight and token, 2 D V per drawn token and for the prompt's, 4 N H per query and key."""
    config = POLICY.config
    found = RUN(jax.random.key(0), *PROMPTS, BestOfN(12), aggregation="min", budget=Budget(levels=1))
    weights, attention = 2.0 * config.matmul_parameters, 4.0 * config.heads * config.head_dim
    prompt = 3 * weights + attention * (1 + 2 + 3)
    step = 2 * weights + attention * (4 + 5)
    vocabulary = 2.0 * config.width * config.vocab_size
    np.testing.assert_allclose(found.costs.flops, 2 * prompt + vocabulary + 12 * (2 * step + 2 * vocabulary), rtol=1e-6)


def test_rebase_spends_its_width():
    """A, 12 rows: the softmax of .9 and .7 over the first steps shares out the 12 rows of the second level, all leaves."""
    found = RUN(jax.random.key(1), *PROMPTS, Rebase(12, temperature=0.2), aggregation="last")
    tree = found.tree
    first = [NAME[token] for token in tree.tokens[0, 0, :, 0].tolist()]
    weights = np.exp(np.array([SCORES[name] for name in first]) / 0.2)
    widths = np.bincount(tree.parents[0, 1], minlength=12)
    left = 12
    for place in sorted(range(12), key=lambda index: (-weights[index], index)):
        expected = min(left, int(np.ceil(left * weights[place] / weights.sum() - 1e-6)))
        assert widths[place] == expected
        left, weights[place] = left - expected, 0.0
    assert widths.sum() == 12 and len(solutions(tree, 0)) == 12
    assert (tree.lengths[1, 1] > 0).sum() == 12 - (tree.tokens[1, 0, :, 0] == ID["c"]).sum()
    assert names(found, 0) == ["b", "b1"] and names(found, 1) == ["d", "d1"]


def test_lookahead_changes_the_choice_where_it_must():
    """Greedy takes a (.9) and ends with .3. One step ahead a is worth .3 or .2 and b .6. The 12
    rows of A draw 2 + 2 tokens on the first level and 2 on the second; all of them are read, and counted."""
    found = RUN(jax.random.key(0), *PROMPTS, Lookahead(Beam(1, 12), steps=1), aggregation="min")
    assert names(found, 0) == ["b", "b1"] and names(found, 1) == ["c"]
    assert values_of_tree(found, 0) - {("a", 0.2), ("a", 0.3)} == {("b", 0.6), ("b1", 0.6)}
    assert {("c", 0.8), ("d", 0.5)} == values_of_tree(found, 1)
    ahead = (found.tree.tokens[1, 0, :, 0] == ID["d"]).sum() * 2
    assert found.costs.policy_tokens.tolist() == [48 + 24, 24 + ahead]
    assert found.costs.reward_tokens.tolist() == [3 + 72, 3 + 24 + ahead]
    assert found.costs.policy_forwards.tolist() == [1 + 4 + 2, 1 + 4] and found.costs.reward_forwards.tolist() == [1 + 2 + 1, 3]


def test_early_rejection_completes_the_best_half_only():
    """One token of each of 12 steps is drawn and read, then the rest of the best 6; with readout "before" the beginning of a
    step is read at its newest token, a whole step before its separator."""
    score = np.full(len(ID), 0.5)
    for name, value in SCORES.items():
        score[ID[name]] = value
    reward = scripted_reward_model(score)
    found = search(POLICY, reward, jax.random.key(0), *PROMPTS, EarlyRejection(Beam(1, 12), tokens=1, keep=0.5), max_steps=4,
                   max_step_tokens=3, separator_id=SEP, end_id=END, read_back=1, aggregation="last")
    tree = found.tree
    first = tree.tokens[0, 0, :, 0]
    rank = sorted(range(12), key=lambda index: (-SCORES[NAME[int(first[index])]], index))
    assert set(np.flatnonzero(tree.lengths[0, 0] == 2)) == set(rank[:6]) == set(np.flatnonzero(np.isfinite(tree.values[0, 0])))
    assert found.costs.policy_tokens.tolist()[0] == 2 * 18 and found.costs.reward_tokens.tolist()[0] == 3 + 2 * 18
    assert found.costs.policy_forwards.tolist()[0] == 5 and found.costs.reward_forwards.tolist()[0] == 5
    np.testing.assert_allclose(tree.scores[0, 0], [SCORES[NAME[int(token)]] for token in first], atol=1e-5)
    assert names(found, 0) == ["a", "a1"] and found.finished.all()


@pytest.mark.parametrize("strategy", [Particle(6), ValueGuided(Distinct(DVTS(2, Beam(1, 3))), progress=0.5),
                                      EntropyBranching(6, 3, threshold=0.5)])
def test_other_strategies_end_with_finished_paths(strategy):
    """Their selections are tested by hand elsewhere; here they run compiled, and what they return is in the tree."""
    found = RUN(jax.random.key(2), *PROMPTS, strategy, aggregation="last")
    assert found.finished.all() and names(found, 0) in (["b", "b1"], ["a", "a1"], ["a", "a2"])
    drawn = found.tree.lengths.sum((1, 2))
    np.testing.assert_array_equal(found.costs.policy_tokens, drawn)
    np.testing.assert_array_equal(found.costs.reward_tokens, 3 + drawn)
    if isinstance(strategy, EntropyBranching):  # three first steps; ln 2 behind a, 0 behind b
        assert (found.tree.lengths[0, 0] > 0).sum() == 3
        np.testing.assert_allclose(found.tree.entropy[0, 0, :3], np.log(2) / 2, atol=1e-3)
        first = [NAME[token] for token in found.tree.tokens[0, 0, :3, 0].tolist()]
        assert (found.tree.lengths[0, 1] > 0).sum() == min(6, 3 * first.count("a") + first.count("b"))
