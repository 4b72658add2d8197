"""Searches that spend more on the steps that need it, on scripted models whose steps score what their token says.

    problem A   lo .3 | mid .8 | hi .9          after each of them the same again, or the end token with it (leaf)
"""

import functools

import jax
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.models import HeadConfig
from jaxprm.search import NODE_STRATEGIES, Budget, DualPhase, Pats, prompt_success, run_by_width, widths_for
from jaxprm.search.walk import empty_stats
from jaxprm.testing import scripted_policy, scripted_reward_model, tiny_reward_model

END, SEP = 2, 3
SCORES = {"lo": 0.3, "mid": 0.8, "hi": 0.9}
ID = {name: index for index, name in enumerate(("<pad>", "<s>", "</s>", "|", "A", "B", *SCORES))}
VOCABULARY = len(ID)


def policy_of(tree):
    """After the separator behind ``node`` any of ``tree[node]``, each equally likely; steps never end the solution."""
    after, previous = np.full((VOCABULARY, VOCABULARY), -100.0), np.zeros((VOCABULARY, VOCABULARY))
    after[SEP] = 0.0
    for name in SCORES:
        after[ID[name], SEP] = 0.0
    for node, children in tree.items():
        previous[ID[node]] = -100.0
        previous[ID[node], [ID[child] for child in children]] = 0.0
    return scripted_policy(after, previous)


SCORE = np.full(VOCABULARY, 0.5)
SCORE[[ID[name] for name in SCORES]] = list(SCORES.values())
REWARD = scripted_reward_model(SCORE, of_previous=True)
POLICY = policy_of({"A": ("hi",), "hi": ("lo",), "lo": ("mid",), "mid": ("hi",), "B": ("lo",)})
PROMPTS = np.array([[1, ID["A"], SEP, 0], [1, ID["B"], SEP, 0]], np.int32), np.array([3, 3], np.int32)


def search(strategy, **more):
    return strategy.search(POLICY, REWARD, jax.random.key(0), *PROMPTS, separator_id=SEP, end_id=END, max_steps=4,
                           max_step_tokens=3, **more)


def test_strategies_by_name():
    assert {name: kind.__name__ for name, kind in NODE_STRATEGIES.items()} == {
        "tree": "Tree", "chunk_reset": "ChunkReset", "refine": "Refine", "pats": "Pats", "dual_phase": "DualPhase"}


def test_pats_by_hand():
    """All candidates of a step say the same here. A: 4 x hi .9 (good: 2 next), 2 x lo .3 (bad: 8 more, then 8 next as it stays
    below .75), 8 x mid .8 (keep), 8 x hi. B: 4 x lo (bad: 8 more), 8 x mid, 8 x hi (good: 4 next), 4 x lo, 8 more."""
    found = search(Pats())
    assert found.costs.policy_tokens.tolist() == [2 * (4 + 2 + 8 + 8 + 8), 2 * (4 + 8 + 8 + 8 + 4 + 8)]
    # The reward model reads what is said once per turn: 5 turns and 6 turns with 2 new tokens each.
    assert found.costs.reward_tokens.tolist() == [3 + 5 * 2, 3 + 6 * 2]
    assert [len(found.tree.path(problem, int(found.node[problem]))) for problem in range(2)] == [4, 4]
    assert not found.finished.any() and found.stopped == ("finished", "finished")
    np.testing.assert_allclose(found.value, [0.9, 0.3], atol=1e-5)


def test_dual_phase_by_hand():
    """Plans (steps 0, 2) need .85, executions (1, 3) .75; 4 samples per step in batches of 2, savings are handed on.
    A: hi 2 (2 saved), lo 6 (4 and the 2), mid as plan 4, hi 2. B: lo 4, mid 2 (2 saved), hi 2 (2 + 2 saved), lo 8."""
    found = search(DualPhase((0.85, 0.75), samples=4, batch=2))
    assert found.costs.policy_tokens.tolist() == [2 * (2 + 6 + 4 + 2), 2 * (4 + 2 + 2 + 8)]
    assert found.stopped == ("finished", "finished") and not found.finished.any()
    np.testing.assert_allclose(found.value, [0.9, 0.3], atol=1e-5)


def test_walks_take_the_best_of_all_that_was_drawn():
    """The first two children (.2, .3) are bad; of the two drawn again one is unusable and one is worse (.1): .3 stands."""
    walker, stats = Pats((2,), start=0), empty_stats(5)
    numbers = {name: np.array(value) for name, value in vars(stats).items()}
    numbers["parents"][1:3], numbers["values"][1:3], numbers["usable"][1:3] = 0, [0.2, 0.3], True
    go_on = jax.jit(functools.partial(walker.go_on, steps=3))
    _, walk = go_on(type(stats)(**numbers), walker.first(), jax.random.key(0))
    assert walk.at == 0 and walk.again and not walk.stopped
    numbers["parents"][3:], numbers["values"][3:], numbers["usable"][4], numbers["final"][2] = 0, [0.9, 0.1], True, True
    _, walk = go_on(type(stats)(**numbers), walk, jax.random.key(0))
    assert walk.at == 2 and not walk.again and walk.stopped


def test_a_budget_stops_on_the_way():
    found = search(Pats(), budget=Budget(levels=1))
    assert found.stopped == ("levels", "levels") and not found.finished.any()
    np.testing.assert_allclose(found.value, [0.9, 0.3], atol=1e-5)  # the first steps that were drawn


def test_success_at_the_prompt_decides_the_width():
    model = tiny_reward_model(3, head=HeadConfig("quantile", levels=(0.1, 0.5, 0.9)))
    prompts, lengths = np.array([[5, 9, 4, 3], [7, 3, 0, 0]], np.int32), np.array([4, 2], np.int32)
    low, high = (np.asarray(prompt_success(model, prompts, lengths, level)) for level in (0.1, 0.9))
    assert (0 < low).all() and (low <= high).all() and (high < 1).all()
    padding = np.where(np.arange(4) < lengths[:, None], prompts, 11)
    np.testing.assert_allclose(prompt_success(model, padding, lengths, 0.1), low, atol=1e-6)
    with pytest.raises(InputError, match="field 'level' = 0.2"):
        prompt_success(model, prompts, lengths, 0.2)
    with pytest.raises(InputError, match="a quantile head does"):
        prompt_success(tiny_reward_model(), prompts, lengths, 0.1)


def test_widths_and_their_runs_worked_examples():
    assert widths_for(np.array([0.5, 0.2, 0.05, 1.0]), 0.9, 32).tolist() == [4, 16, 32, 1]
    assert widths_for(np.array([0.05]), 0.9, 24).tolist() == [24]
    calls = []

    def run(width, indices):
        calls.append(width)
        return [(width, int(index)) for index in indices]

    assert run_by_width([4, 1, 4], run) == [(4, 0), (1, 1), (4, 2)] and calls == [1, 4]
    with pytest.raises(ValueError, match="0 results for the 1 problems of width 2"):
        run_by_width([2], lambda width, indices: [])


@pytest.mark.parametrize("make, field", [
    (lambda: Pats((4, 4)), "widths"), (lambda: Pats(()), "widths"), (lambda: Pats(start=3), "start"),
    (lambda: Pats(keep=0.9), "keep"), (lambda: DualPhase(()), "thresholds"), (lambda: DualPhase(samples=1), "batch"),
    (lambda: DualPhase(batch=0), "batch")])
def test_bad_settings_are_refused(make, field):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        make()
