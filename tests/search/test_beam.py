"""Beam search on scripted trees: known optimum, hand-counted budgets, and values equal to full re-scoring.

Every step is one token and a separator (or the end token at a leaf):

    problem A   a .9 -> a1 .3, a2 .2        a greedy search takes a and ends with .3
                b .7 -> b1 .6               the optimum under "min"
    problem B   c .8                        ends in one step
                d .5 -> d1 .9
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.generation import SamplingConfig
from jaxprm.scoring import aggregate, score_steps
from jaxprm.search import Beam, Budget, Greedy, chosen_ids, chosen_path, search as run_search
from jaxprm.steps import pad_solutions
from jaxprm.testing import scripted_policy, scripted_reward_model, tiny_language_model, tiny_reward_model

END, SEP = 2, 3
TREE = {"A": ("a", "b"), "a": ("a1", "a2"), "b": ("b1",), "B": ("c", "d"), "d": ("d1",)}
SCORES = {"a": 0.9, "a1": 0.3, "a2": 0.2, "b": 0.7, "b1": 0.6, "c": 0.8, "d": 0.5, "d1": 0.9}
ID = {name: index for index, name in enumerate(("<pad>", "<s>", "</s>", "|", "A", "B", *SCORES))}
NAME = {index: name for name, index in ID.items()}
VOCABULARY = len(ID)
GREEDY = SamplingConfig(temperature=0.0)
SEARCH = functools.partial(run_search, separator_id=SEP, end_id=END)


def policy_of(tree, likely=None):
    """Children of a node are equally likely, unless ``likely[node]`` names one that is e^2 times as likely."""
    after, after_previous = np.full((VOCABULARY, VOCABULARY), -100.0), np.zeros((VOCABULARY, VOCABULARY))
    after[SEP] = 0.0
    for name in SCORES:
        after[ID[name], SEP if name in tree else END] = 0.0
    for node, children in tree.items():
        after_previous[ID[node]] = -100.0
        for child in children:
            after_previous[ID[node], ID[child]] = 2.0 if likely and likely.get(node) == child else 0.0
    return scripted_policy(after, after_previous)


def reward_of(of_previous=True):
    score = np.full(VOCABULARY, 0.5)
    for name, value in SCORES.items():
        score[ID[name]] = value
    return scripted_reward_model(score, of_previous=of_previous)


def prompts(*names):
    return jnp.asarray([[1, ID[name], SEP, 0] for name in names], jnp.int32), jnp.full((len(names),), 3, jnp.int32)


def names_of(result, problem):
    return [NAME[token] for token in chosen_ids(result, problem)]


POLICY, REWARD = policy_of(TREE), reward_of()


def search(strategy, *problems, key=0, policy=POLICY, reward=REWARD, max_steps=4, max_step_tokens=3, **more):
    """Two problems at once, so that all tests share compiled programs; one problem is searched twice."""
    problems = problems * 2 if len(problems) == 1 else problems
    return SEARCH(policy, reward, jax.random.key(key), *prompts(*problems), strategy, max_steps=max_steps,
                  max_step_tokens=max_step_tokens, **more)


WIDE = Beam(beam_width=2, expansions=6)


@pytest.mark.parametrize("readout", ["at", "before"])
def test_the_optimum_is_found_and_a_greedy_search_is_trapped(readout):
    reward, read_back = reward_of(readout == "at"), int(readout == "before")
    found = search(WIDE, "A", "B", reward=reward, read_back=read_back)
    assert names_of(found, 0) == ["b", "|", "b1", "</s>"] and names_of(found, 1) == ["c", "</s>"]
    np.testing.assert_allclose(found.value, [0.6, 0.8], atol=1e-5)
    assert found.finished.tolist() == [True, True] and found.levels.tolist() == [2, 2]
    if readout == "at":
        greedy = search(Greedy(12), "A", "B")
        assert names_of(greedy, 0) == ["a", "|", "a1", "</s>"]
        np.testing.assert_allclose(greedy.value, [0.3, 0.8], atol=1e-5)


def test_budgets_are_counted_by_hand():
    """C = 12. A: 12 candidates of 2 tokens on both levels. B with its two kept paths c (ended) and d: 12 candidates, then the 6
    of d. The reward model reads the prompt of 3 once, and every token drawn once (an end token is read as the separator)."""
    found = search(WIDE, "A", "B")
    assert found.costs.policy_tokens.tolist() == [12 * 2 + 12 * 2, 12 * 2 + 6 * 2]
    assert found.costs.reward_tokens.tolist() == [3 + 48, 3 + 36]
    other = search(WIDE, "B", "A")
    assert other.costs.policy_tokens.tolist() == [36, 48] and other.costs.reward_tokens.tolist() == [39, 51]


def test_kept_nodes_and_parents_of_the_tree():
    tree = search(WIDE, "A", "B").tree
    for problem, expected in ((0, {"a", "b"}), (1, {"c", "d"})):
        kept = np.flatnonzero(tree.kept[problem, 0])
        assert {NAME[int(tree.tokens[problem, 0, candidate, 0])] for candidate in kept} == expected
    assert (tree.parents[:, 0] == -1).all()
    for candidate in range(12):
        parent = NAME[int(tree.tokens[0, 0, tree.parents[0, 1, candidate], 0])]
        assert NAME[int(tree.tokens[0, 1, candidate, 0])] in TREE[parent]
    assert not tree.lengths[:, 2:].any() and np.isneginf(tree.values[:, 2:]).all()
    # A finished path is one node per level, without new tokens, and keeps its value.
    ended = np.flatnonzero(tree.finished[1, 1] & (tree.lengths[1, 1] == 0))
    assert len(ended) == 1
    np.testing.assert_allclose(tree.values[1, 1, ended], 0.8, atol=1e-5)


def test_copies_of_one_path_do_not_fill_the_beam():
    """The policy says a e^2 times as often as b and a has the better score; b stays in a beam of 2 all the same."""
    found = search(WIDE, "A", policy=policy_of(TREE, likely={"A": "a"}), key=1)
    first = [NAME[int(token)] for token in found.tree.tokens[0, 0, :, 0]]
    assert first.count("a") > first.count("b") > 0
    assert names_of(found, 0) == ["b", "|", "b1", "</s>"]


def test_copies_are_kept_where_there_is_nothing_else():
    """Greedy sampling: all candidates say the same, and both places of the beam go on."""
    found = search(WIDE, "A", sampling=GREEDY, policy=policy_of(TREE, likely={"A": "a", "a": "a2"}))
    assert names_of(found, 0) == ["a", "|", "a2", "</s>"] and found.costs.policy_tokens.tolist() == [48, 48]
    np.testing.assert_allclose(found.value, 0.2, atol=1e-5)


def test_aggregation_decides():
    """last: a-a1 .3, b-b1 .6, c .8, d-d1 .9 (under "min" c wins over d-d1)."""
    last = search(WIDE, "A", "B", aggregation="last")
    np.testing.assert_allclose(last.value, [0.6, 0.9], atol=1e-5)
    assert names_of(last, 1) == ["d", "|", "d1", "</s>"]


def test_an_unfinished_solution_is_never_passed_off_as_finished():
    """One level only: A has no leaf there. B's c is finished and wins even over a better unfinished path."""
    found = search(WIDE, "A", "B", budget=Budget(levels=1))
    assert found.finished.tolist() == [False, True]
    assert names_of(found, 0) == ["a", "|"] and names_of(found, 1) == ["c", "</s>"]
    reward = scripted_reward_model(np.where(np.arange(VOCABULARY) == ID["d"], 0.99, 0.1), of_previous=True)
    found = search(WIDE, "B", reward=reward, budget=Budget(levels=1))
    assert names_of(found, 0) == ["c", "</s>"] and found.finished.tolist() == [True] * 2
    np.testing.assert_allclose(found.value, 0.1, atol=1e-5)


def test_a_policy_that_never_ends_a_step():
    """Every candidate is discarded after max_step_tokens tokens, unread; the search stops and says so."""
    after = np.full((VOCABULARY, VOCABULARY), -100.0)
    after[:, ID["a"]] = 0.0
    found = search(WIDE, "A", policy=scripted_policy(after))
    assert found.finished.tolist() == [False] * 2 and np.isneginf(found.value).all() and found.levels.tolist() == [1, 1]
    assert found.costs.policy_tokens.tolist() == [12 * 3] * 2 and found.costs.reward_tokens.tolist() == [3] * 2
    assert not found.tree.kept.any() and not found.tree.finished.any()


def test_a_policy_that_never_finishes():
    """a | a | a | ...: all levels are run, the value is that of the whole path, and it is not finished."""
    tree = {"A": ("a",), "a": ("a",)}
    found = search(WIDE, "A", policy=policy_of(tree))
    assert found.levels.tolist() == [4, 4] and found.finished.tolist() == [False] * 2
    assert names_of(found, 0) == ["a", "|"] * 4
    np.testing.assert_allclose(found.value, 0.9, atol=1e-5)
    assert found.costs.policy_tokens.tolist() == [4 * 12 * 2] * 2 and found.costs.reward_tokens.tolist() == [3 + 4 * 12 * 2] * 2


@pytest.mark.parametrize("read_back", [0, 1])
def test_empty_steps_are_scored_and_counted(read_back):
    """Separators only: each is a step of one token. With readout "before" it is read at the token before it."""
    after = np.full((VOCABULARY, VOCABULARY), -100.0)
    after[:, SEP] = 0.0
    score = np.linspace(0.2, 0.8, VOCABULARY)
    found = search(WIDE, "A", policy=scripted_policy(after), reward=scripted_reward_model(score), read_back=read_back)
    assert names_of(found, 0) == ["|"] * 4 and found.finished.tolist() == [False] * 2
    np.testing.assert_allclose(found.value, score[SEP], atol=1e-5)
    assert found.costs.policy_tokens.tolist() == [48] * 2 and found.costs.reward_tokens.tolist() == [3 + 48] * 2


def test_an_end_token_alone_ends_without_a_step():
    """a | </s>: the last level adds no step, so the value is a's, and the reward model reads nothing there."""
    after, previous = np.full((VOCABULARY, VOCABULARY), -100.0), np.zeros((VOCABULARY, VOCABULARY))
    after[ID["a"], SEP], after[SEP] = 0.0, 0.0
    for node, child in (("A", "a"), ("a", "</s>")):
        previous[ID[node]] = -100.0
        previous[ID[node], ID[child]] = 0.0
    found = search(WIDE, "A", policy=scripted_policy(after, previous))
    assert names_of(found, 0) == ["a", "|", "</s>"] and found.levels.tolist() == [2, 2] and found.finished.all()
    np.testing.assert_allclose(found.value, 0.9, atol=1e-5)
    assert found.costs.policy_tokens.tolist() == [12 * 2 + 12] * 2 and found.costs.reward_tokens.tolist() == [3 + 12 * 2] * 2


def test_a_solution_of_no_step_never_beats_one_with_steps():
    after = np.full((VOCABULARY, VOCABULARY), -100.0)
    after[:, END] = 0.0
    found = search(WIDE, "A", policy=scripted_policy(after))
    assert names_of(found, 0) == ["</s>"] and found.value.tolist() == [0.0] * 2 and found.finished.tolist() == [True] * 2


RANDOM = dict(strategy=Beam(beam_width=2, expansions=2), max_steps=4, max_step_tokens=4, aggregation="prod")


@pytest.fixture(scope="module")
def random_models():
    return tiny_language_model(1), tiny_reward_model(2)


def random_prompts(order=(0, 1, 2)):
    rows = [[5, 9, 4, 3], [7, 3, 0, 0], [8, 8, 3, 0]]
    return jnp.asarray([rows[i] for i in order], jnp.int32), jnp.asarray([(4, 2, 3)[i] for i in order], jnp.int32)


@pytest.mark.parametrize("read_back", [0, 1])
def test_values_and_scores_equal_full_rescoring(read_back, random_models):
    """Every usable node of random models' trees: its path, scored at once, has its score and value; costs add up."""
    policy, reward = random_models
    run_scores = jax.jit(score_steps)
    checked = 0
    for seed in range(6):
        tokens, lengths = random_prompts()
        result = SEARCH(policy, reward, jax.random.key(seed), tokens, lengths, **RANDOM, read_back=read_back)
        tree = result.tree
        last = np.take_along_axis(tree.tokens, np.maximum(tree.lengths - 1, 0)[..., None], axis=-1)[..., 0]
        read = np.isin(last, (SEP, END)) & ~((tree.lengths == 1) & (last == END))  # steps that did not end are discarded
        np.testing.assert_array_equal(result.costs.policy_tokens, tree.lengths.sum((1, 2)))
        np.testing.assert_array_equal(result.costs.reward_tokens, np.asarray(lengths) + (tree.lengths * read).sum((1, 2)))
        encoded, values, scores = [], [], []
        for problem, level, candidate in np.argwhere(np.isfinite(tree.values)).tolist():
            ids, ends = tokens[problem, : lengths[problem]].tolist(), []
            for at, node in chosen_path(tree, problem, level, candidate):
                step = tree.tokens[problem, at, node, : tree.lengths[problem, at, node]].tolist()
                if step and step != [END]:
                    ids += [SEP if token == END else token for token in step]
                    ends.append(len(ids) - 1 - read_back)
            encoded.append((ids, ends))
            values.append(tree.values[problem, level, candidate])
            node_ids = tree.tokens[problem, level, candidate, : tree.lengths[problem, level, candidate]].tolist()
            scores.append(tree.scores[problem, level, candidate] if node_ids not in ([], [END]) else None)
        batch = pad_solutions(encoded, 24, 4, rows=48)
        full = np.asarray(run_scores(reward, batch))
        np.testing.assert_allclose(values, aggregate(full, batch.step_mask, "prod")[: len(values)], atol=1e-5)
        for row, score in enumerate(scores):
            if score is not None:
                np.testing.assert_allclose(score, full[row, len(encoded[row][1]) - 1], atol=1e-5)
        checked += len(values)
    assert checked >= 30


def test_fixed_by_the_seed(random_models):
    run = lambda seed: SEARCH(*random_models, jax.random.key(seed), *random_prompts(), **RANDOM)  # noqa: E731
    for one, other in zip(jax.tree.leaves(run(3).tree), jax.tree.leaves(run(3).tree), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (run(3).tree.tokens != run(4).tree.tokens).any()


def test_the_order_of_problems_does_not_matter(random_models):
    """With a key of its own, a problem's tree is the same wherever it stands, down to the last sampled token."""
    order = np.array([2, 0, 1])
    keys = jax.random.split(jax.random.key(7), 3)
    plain = SEARCH(*random_models, keys, *random_prompts(), **RANDOM)
    mixed = SEARCH(*random_models, keys[order], *random_prompts(order), **RANDOM)
    np.testing.assert_array_equal(mixed.tree.tokens, plain.tree.tokens[order])
    for name in ("candidate", "level", "finished", "stopped", "levels"):
        np.testing.assert_array_equal(getattr(mixed, name), getattr(plain, name)[order])
    for name in ("policy_tokens", "reward_tokens", "policy_forwards", "reward_forwards", "flops"):
        np.testing.assert_array_equal(getattr(mixed.costs, name), getattr(plain.costs, name)[order])
    np.testing.assert_allclose(mixed.value, plain.value[order], atol=1e-6)


def test_one_compilation_per_shape(random_models):
    """Another key, other lengths, other parameters, another budget: the same program."""
    tokens, lengths = random_prompts()
    SEARCH(*random_models, jax.random.key(0), tokens, lengths, **RANDOM)
    again = SEARCH(*random_models, jax.random.key(1), tokens, lengths - 1, **RANDOM, budget=Budget(policy_tokens=9))
    assert again.costs.compilations == 0
    assert SEARCH(tiny_language_model(5), tiny_reward_model(6), jax.random.key(2), tokens[::-1], lengths,
                  **RANDOM).costs.compilations == 0


@pytest.mark.parametrize("changes, field", [(dict(beam_width=0), "beam_width"), (dict(expansions=0), "expansions"),
                                            (dict(finished="stay"), "finished"), (dict(duplicates="drop"), "duplicates"),
                                            (dict(ties="last"), "ties")])
def test_bad_strategies_are_refused(changes, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        Beam(**changes)


@pytest.mark.parametrize("changes, field", [(dict(max_steps=0), "max_steps"), (dict(max_step_tokens=0), "max_step_tokens"),
                                            (dict(aggregation="median"), "aggregation"), (dict(compaction=-1), "compaction"),
                                            (dict(doublings=-1), "doublings"),
                                            (dict(max_step_tokens=62), "lengths")])
def test_bad_settings_are_refused(changes, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        search(WIDE, "A", **changes)
