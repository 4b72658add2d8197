"""Tree search with models: hand-counted visits and tokens on scripted trees, caches against full reading, budgets, bad input.

Every step is one token and a separator (or the end token at a leaf), and all children of a node are equally likely:

    problem A   a .9 -> a1 .3, a2 .2        problem B   c .8 (ends)
                b .7 -> b1 .6                           d .5 -> d1 .9
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.models import parameters
from jaxprm.scoring import aggregate, score_steps
from jaxprm.search import Budget, Tree, tree_search, turns
from jaxprm.search.node_cache import path_slots
from jaxprm.steps import pad_solutions
from jaxprm.testing import scripted_policy, scripted_reward_model, tiny_language_model, tiny_reward_model
from jaxprm.testing.oracles import next_token_logits

END, SEP = 2, 3
TREE = {"A": ("a", "b"), "a": ("a1", "a2"), "b": ("b1",), "B": ("c", "d"), "d": ("d1",)}
SCORES = {"a": 0.9, "a1": 0.3, "a2": 0.2, "b": 0.7, "b1": 0.6, "c": 0.8, "d": 0.5, "d1": 0.9}
ID = {name: index for index, name in enumerate(("<pad>", "<s>", "</s>", "|", "A", "B", *SCORES))}
NAME = {index: name for name, index in ID.items()}
VOCABULARY = len(ID)


def policy_of(tree, context=64):
    after, after_previous = np.full((VOCABULARY, VOCABULARY), -100.0), np.zeros((VOCABULARY, VOCABULARY))
    after[SEP] = 0.0
    for name in SCORES:
        after[ID[name], SEP if name in tree else END] = 0.0
    for node, children in tree.items():
        after_previous[ID[node]] = -100.0
        after_previous[ID[node], [ID[child] for child in children]] = 0.0
    return scripted_policy(after, after_previous, context)


def reward_of(of_previous=True, context=64):
    score = np.full(VOCABULARY, 0.5)
    score[[ID[name] for name in SCORES]] = list(SCORES.values())
    return scripted_reward_model(score, of_previous=of_previous, context=context)


def prompts(*names):
    return np.array([[1, ID[name], SEP, 0] for name in names], np.int32), np.full((len(names),), 3, np.int32)


SEARCH = functools.partial(tree_search, separator_id=SEP, end_id=END)
POLICY, REWARD = policy_of(TREE), reward_of()


def search(*problems, policy=POLICY, reward=REWARD, key=0, **more):
    settings = dict(max_steps=4, max_step_tokens=3, separator_id=SEP, end_id=END) | more
    return Tree("puct_openr", 5, 4, 6).search(policy, reward, jax.random.key(key), *prompts(*problems), **settings)


def by_name(result, problem, values):
    """A number of each usable node, by what its step says."""
    nodes = np.flatnonzero(result.tree.values[problem] > -np.inf)
    return {NAME[int(result.tree.tokens[problem, node, 0])]: values[problem, node].item() for node in nodes}


def test_visits_means_and_tokens_by_hand():
    """A: see `test_walk`, 3 expansions. B: c (.8 > .5), then d (.5 + .63 > .8 + .31) with d1, d (.9 + .44 > .8 + .44),
    c (.8 + .54 > .9 + .36), d (.9 + .42 > .8 + .42): 2 expansions. Each expansion draws 6 steps of 2 tokens; the reward model
    reads the prompt of 3 once, and each step of the tree once, however often it was drawn or passed."""
    found = search("A", "B")
    assert by_name(found, 0, found.visits) == dict(a=2, b=3, a1=1, a2=1, b1=3)
    assert by_name(found, 1, found.visits) == dict(c=2, d=3, d1=3)
    assert found.visits[:, 0].tolist() == [5, 5] and found.simulations.tolist() == [5, 5]
    np.testing.assert_allclose(found.means[:, 0], [(0.3 + 3 * 0.6 + 0.2) / 5, (2 * 0.8 + 3 * 0.9) / 5], atol=1e-5)
    assert found.expansions.tolist() == [3, 2] and found.costs.policy_tokens.tolist() == [3 * 12, 2 * 12]
    assert found.costs.reward_tokens.tolist() == [3 + 5 * 2, 3 + 3 * 2]
    assert found.costs.policy_forwards.tolist() == [1 + 3 * 2, 1 + 2 * 2]
    assert found.costs.reward_forwards.tolist() == [1 + 3, 1 + 2]
    for problem, names, value in ((0, ["b", "|", "b1", "</s>"], 0.6), (1, ["d", "|", "d1", "</s>"], 0.9)):
        assert [NAME[token] for token in found.chosen_ids(problem)] == names
        np.testing.assert_allclose(found.value[problem], value, atol=1e-5)
        assert found.finished[problem] and found.stopped_by(problem) == "simulations"
    ends = [NAME[found.tree.tokens[0, node, 0].item()] for node in found.tree.solutions(0)]
    assert ends == ["b1", "a1", "a2"]  # the best first
    assert {found.tree.tokens[0, node, 0].item() for node in np.flatnonzero(found.tree.kept[0])} == {0, ID["a"], ID["b"]}
    np.testing.assert_allclose([found.priors[0, node] for node in np.flatnonzero(found.priors[0])], [0.5] * 4 + [1.0],
                               atol=1e-5)


def test_budgets_stop_the_search():
    """A's first expansion draws 12 tokens and lets the reward model read 3 + 4; the limits are checked after it."""
    for budget, stop in ((Budget(policy_tokens=12), "policy_tokens"), (Budget(reward_tokens=7), "reward_tokens"),
                         (Budget(levels=1), "levels"), (Budget(seconds=1e-6), "seconds")):
        found = search("A", "B", budget=budget)
        assert found.expansions.tolist() == [1, 1] and found.stopped_by(0) == stop
        assert found.finished.tolist() == [False, True] and NAME[found.chosen_ids(1)[0]] == "c"
        assert [NAME[token] for token in found.chosen_ids(0)] == ["a", "|"]
    flops = search("A", "B", budget=Budget(flops=1.0))
    assert flops.expansions.tolist() == [0, 0] and flops.node.tolist() == [0, 0] and not flops.finished.any()
    assert search("A", "B", budget=Budget(policy_tokens=13)).expansions.tolist() == [2, 2]
    assert search("A", "B", budget=Budget(forwards=5)).stopped == ("forwards",) * 2  # 2 of the prompt, 2 and 1 of the steps
    turns._begin.clear_cache()
    found = search("A", "B", budget=Budget(compilations=1))
    assert found.stopped == ("compilations",) * 2 and found.expansions.tolist() == [1, 1]


def test_prompts_that_leave_no_room_and_bad_settings_are_refused(without_type_checks):
    with pytest.raises(InputError, match="the prompt of problem 0 and a step of 62 tokens do not fit into the context of 64"):
        search("A", "B", max_step_tokens=62)
    for changes, field in ((dict(max_steps=0), "max_steps"), (dict(max_step_tokens=0), "max_step_tokens"),
                           (dict(aggregation="median"), "aggregation"), (dict(read_back=2), "read_back")):
        with pytest.raises(InputError, match=f"field '{field}' = "):
            search("A", **changes)
    for changes, field in ((("mcts",), "variant"), (("puct_openr", 0), "simulations"), (("puct_openr", 1, 0), "expansions"),
                           (("puct_openr", 1, 1, 0), "branch")):
        with pytest.raises(InputError, match=f"field '{field}' = "):
            Tree(*changes)


def test_a_policy_that_never_finishes_in_a_short_context():
    """Read before the separator. Context 12: the prompt of 3, and a step of 2 as long as 3 more tokens fit: a|a|a| and a|a|a|a|
    (3 + 6 + 3 = 12). Nothing is left then, and nothing is passed off as finished."""
    endless = {"A": ("a",), "a": ("a",)}
    found = search("A", "A", policy=policy_of(endless, 12), reward=reward_of(False, 12), max_steps=9, read_back=1)
    assert found.finished.tolist() == [False] * 2 and found.tree.solutions(0) == []
    assert [NAME[token] for token in found.chosen_ids(0)] == ["a", "|"] * 4  # the deepest
    assert found.expansions.tolist() == [4] * 2
    depths = [len(found.tree.path(0, node)) for node in np.flatnonzero(found.tree.values[0] > -np.inf).tolist()]
    assert depths == [1, 2, 3, 4] and found.costs.reward_tokens.tolist() == [3 + 4 * 2] * 2
    assert found.visits[0, 0] == 5
    np.testing.assert_allclose(found.means[0, 0], 0.9, atol=1e-5)


RANDOM = Tree("uct_rest_mcts", simulations=5, expansions=8, branch=4)


@pytest.fixture(scope="module")
def models():
    return tiny_language_model(1), tiny_reward_model(2)


PROMPTS, LENGTHS = np.array([[5, 9, 4, 3], [7, 3, 0, 0], [8, 8, 3, 0]], np.int32), np.array([4, 2, 3], np.int32)


def run_random(models, keys, order=(0, 1, 2)):
    order = np.array(order)
    return SEARCH(*models, keys, PROMPTS[order], LENGTHS[order], RANDOM, max_steps=4, max_step_tokens=8, aggregation="prod")


def test_scores_and_log_probs_equal_reading_every_path_at_once(models):
    """Every node of random models' trees, after any jumps between paths: what either model says of it is what it says of the
    whole path read at once, and all counts are sums over nodes."""
    policy, reward = models
    run_scores = jax.jit(score_steps)
    weights, checked, deep = parameters(policy), 0, 0
    for seed in range(3):
        found = run_random(models, jax.random.key(seed))
        tree = found.tree
        np.testing.assert_array_equal(found.costs.policy_tokens, tree.lengths.sum(1))
        bare = (tree.lengths == 1) & (tree.tokens[..., 0] == END)
        read = np.where((tree.values > -np.inf) & ~bare, tree.lengths, 0)
        np.testing.assert_array_equal(found.costs.reward_tokens, LENGTHS + read.sum(1))
        encoded, values, scores = [], [], []
        for problem, node in np.argwhere(tree.values > -np.inf).tolist():
            prompt, steps = PROMPTS[problem, : LENGTHS[problem]].tolist(), tree.steps(problem, node)
            if len(steps) > 1 and node % 3 == 0:
                written = prompt + sum(steps, [])
                log_probs = jax.nn.log_softmax(next_token_logits(policy.config, weights, written[:-1]), axis=-1)
                drawn = np.arange(len(written) - len(steps[-1]), len(written))
                np.testing.assert_allclose(tree.log_probs[problem, node],
                                           sum(log_probs[at - 1, written[at]] for at in drawn), atol=1e-4)
                deep += 1
            ids, ends = prompt, []
            for step in steps:
                if step != [END]:
                    ids = ids + [SEP if token == END else token for token in step]
                    ends.append(len(ids) - 1)
            encoded.append((ids, ends))
            values.append(tree.values[problem, node])
            scores.append(None if bare[problem, node] else tree.scores[problem, node])
        batch = pad_solutions(encoded, 40, 4, rows=96)
        full = np.asarray(run_scores(reward, batch))
        np.testing.assert_allclose(values, aggregate(full, batch.step_mask, "prod")[: len(values)], atol=1e-5)
        for row, score in enumerate(scores):
            if score is not None:
                np.testing.assert_allclose(score, full[row, len(encoded[row][1]) - 1], atol=1e-5)
        checked += len(values)
    assert checked >= 40 and deep >= 5, (checked, deep)


def test_fixed_by_the_key_and_not_by_the_batch(models):
    keys, order = jax.random.split(jax.random.key(9), 3), [2, 0, 1]
    plain, again, mixed = run_random(models, keys), run_random(models, keys), run_random(models, keys[np.array(order)], order)
    for field in dataclasses.fields(plain.tree):
        one, other, moved = (getattr(found.tree, field.name) for found in (plain, again, mixed))
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(moved, one[np.array(order)], atol=1e-6)
    assert mixed.costs.reward_tokens.tolist() == plain.costs.reward_tokens[np.array(order)].tolist()
    assert (run_random(models, jax.random.key(3)).tree.tokens != plain.tree.tokens).any()


def test_one_program_per_shape(models):
    """Other keys, prompts and budgets: nothing is compiled again, but a program of turns alone where the host watches them."""
    assert run_random(models, jax.random.key(0)).costs.compilations in (0, 1)  # 0: another test was here before
    for limits, programs in (dict(levels=2), 0), (dict(levels=2, seconds=99.0), 1), (dict(levels=2, seconds=88.0), 0):
        again = SEARCH(*models, jax.random.key(1), PROMPTS[::-1], LENGTHS[::-1], RANDOM, max_steps=4, max_step_tokens=8,
                       aggregation="prod", budget=Budget(**limits))
        assert again.costs.compilations <= programs and again.expansions.max() == 2


def test_path_slots_worked_example():
    nodes, lengths = jnp.asarray([1, 5, -1], jnp.int32), jnp.asarray([3, 2, 0], jnp.int32)
    assert path_slots(jnp.int32(2), 3, nodes, lengths, 4, 7).tolist() == [0, 1, 3, 4, 5, 19, 20]
