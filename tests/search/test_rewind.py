"""Searches that go back, on scripted models and on random ones.

Every step is one token and a separator (or the end token at a leaf); what a prompt may say next is drawn at random:

    problem A   bad .1 | good .9         then c .8 (ends) or e .2 (ends)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.models import parameters
from jaxprm.scoring import aggregate, score_steps
from jaxprm.search import Budget, ChunkReset, Refine, rewind_search
from jaxprm.search.rewind import Drawn
from jaxprm.steps import pad_solutions
from jaxprm.testing import scripted_policy, scripted_reward_model, tiny_language_model, tiny_reward_model
from jaxprm.testing.oracles import next_token_logits

END, SEP = 2, 3
SCORES = {"bad": 0.1, "good": 0.9, "c": 0.8, "e": 0.2}
TREE = {"A": ("bad", "good"), "bad": ("c", "e"), "good": ("c", "e")}
ID = {name: index for index, name in enumerate(("<pad>", "<s>", "</s>", "|", "A", *SCORES))}
NAME = {index: name for name, index in ID.items()}
VOCABULARY = len(ID)


def policy_of(tree):
    after, previous = np.full((VOCABULARY, VOCABULARY), -100.0), np.zeros((VOCABULARY, VOCABULARY))
    after[SEP] = 0.0
    for name in SCORES:
        after[ID[name], SEP if name in tree else END] = 0.0
    for node, children in tree.items():
        previous[ID[node]] = -100.0
        previous[ID[node], [ID[child] for child in children]] = 0.0
    return scripted_policy(after, previous)


SCORE = np.full(VOCABULARY, 0.5)
SCORE[[ID[name] for name in SCORES]] = list(SCORES.values())
POLICY, REWARD = policy_of(TREE), scripted_reward_model(SCORE, of_previous=True)
PROMPTS = np.array([[1, ID["A"], SEP, 0]] * 2, np.int32), np.array([3, 3], np.int32)


def search(strategy, policy=POLICY, key=0, **more):
    settings = dict(max_steps=3, max_step_tokens=3, separator_id=SEP, end_id=END) | more
    return strategy.search(policy, REWARD, jax.random.key(key), *PROMPTS, **settings)


def says(result, problem, node):
    return [NAME[step[0]] for step in result.tree.steps(problem, node)]


def test_chunk_reset_draws_bad_steps_again():
    """Threshold .5: "bad" and "e" are rejected until the 8 tries are over, so all solutions are good, c (1 - 2^-8 each). Every
    draw is a node; its 2 tokens were drawn once and read once, and no draw reads its prefix again."""
    found = search(ChunkReset(chains=4, threshold=0.5, tries=8))
    tree, drawn = found.tree, found.tree.lengths > 0
    assert [says(found, problem, node) for problem in range(2) for node in tree.solutions(problem)] == [["good", "c"]] * 8
    assert found.costs.policy_tokens.tolist() == (2 * drawn.sum(1)).tolist()
    assert found.costs.reward_tokens.tolist() == (3 + 2 * drawn.sum(1)).tolist()
    assert found.stopped == ("finished", "finished") and found.finished.all()
    np.testing.assert_allclose(found.value, 0.8, atol=1e-5)
    # Every try of a step continues the same node, and the one that was kept comes last and scores enough.
    for problem, node in np.argwhere(drawn).tolist():
        score = SCORES[NAME[int(tree.tokens[problem, node, 0])]]
        np.testing.assert_allclose(tree.scores[problem, node], score, atol=1e-5)
        assert tree.kept[problem, node] == (score >= 0.5)
        parent = int(tree.parents[problem, node])
        assert parent == 0 or (tree.kept[problem, parent] and says(found, problem, parent) == ["good"])
    assert (drawn & ~tree.kept).any()


def test_refine_draws_again_from_the_first_bad_step():
    """A draft takes 2 turns. Where its first step is bad, both are drawn again; where the second is, that one alone; where none
    is, nothing."""
    found = search(Refine(chains=8, threshold=0.5, rounds=1))
    tree, kinds = found.tree, set()
    assert tree.kept.sum() == (tree.lengths > 0).sum() == sum(found.costs.policy_tokens) / 2
    for problem in range(2):
        for chain in range(8):
            turns = [1 + 8 * turn + chain for turn in range(6)]
            drawn = [node for node in turns if tree.lengths[problem, node]]
            draft = [NAME[int(tree.tokens[problem, node, 0])] for node in drawn[:2]]
            kinds.add(tuple(draft))
            parents = [0, drawn[-2]] if draft[0] == "bad" else [drawn[0]] if draft[1] == "e" else []
            assert [tree.parents[problem, node] for node in drawn[2:]] == parents
            assert tree.finished[problem, drawn[1]] and tree.finished[problem, drawn[-1]]
    assert len(kinds) == 4
    np.testing.assert_allclose(found.value, 0.8, atol=1e-5)  # good, c: the best of all drafts and refinements


def test_rules_by_hand():
    """One solution each: two good steps before; then what the rule says of the step that was drawn."""
    def judge(rule, score, usable=True, closing=False, tries=0, rounds=0, before=(0.9, 0.8)):
        full = np.zeros((1, 1, 4), np.float32)
        full[..., :3] = [*before, score]
        number = lambda value: jnp.asarray([[value]])  # noqa: E731
        verdict = rule.judge(Drawn(number(usable), number(closing), number(2), number(2 + usable), jnp.asarray(full),
                                   number(tries), number(rounds)))
        return tuple(np.asarray(x).item() for x in (verdict.kept, verdict.depth, verdict.tries, verdict.rounds, verdict.done))

    reset = ChunkReset(threshold=0.5, tries=2)
    assert judge(reset, 0.5) == (True, 3, 0, 0, False)
    assert judge(reset, 0.4) == (False, 2, 1, 0, False)
    assert judge(reset, 0.4, tries=1) == (True, 3, 0, 0, False)
    assert judge(reset, 0.4, closing=True) == (False, 2, 1, 0, False)
    assert judge(reset, 0.6, closing=True) == (True, 3, 0, 0, True)
    assert judge(reset, 0.0, usable=False) == (False, 2, 1, 0, False)
    assert judge(reset, 0.0, usable=False, tries=1) == (False, 2, 0, 0, True)
    refine = Refine(threshold=0.5, rounds=1)
    assert judge(refine, 0.4) == (True, 3, 0, 0, False)  # the draft goes on
    assert judge(refine, 0.4, closing=True) == (True, 2, 0, 1, False)
    assert judge(refine, 0.4, closing=True, before=(0.9, 0.3)) == (True, 1, 0, 1, False)
    assert judge(refine, 0.4, closing=True, rounds=1) == (True, 3, 0, 1, True)
    assert judge(refine, 0.9, closing=True) == (True, 3, 0, 0, True)
    assert judge(refine, 0.0, usable=False) == (False, 2, 0, 1, False)  # what did not end is drawn again
    assert judge(refine, 0.0, usable=False, rounds=1) == (False, 2, 0, 1, True)


def test_budgets_and_unfinished_solutions():
    """One turn of 4 chains draws 8 tokens: no solution has ended, and none is said to have."""
    found = search(ChunkReset(chains=4, threshold=0.5, tries=8), budget=Budget(policy_tokens=8))
    assert found.stopped == ("policy_tokens",) * 2 and not found.finished.any() and found.tree.solutions(0) == []
    assert found.costs.policy_tokens.tolist() == [8, 8] and found.value.max() > 0


RANDOM = Refine(chains=4, threshold=0.5, rounds=2)
LENGTHS = np.array([4, 2, 3], np.int32)
RANDOM_PROMPTS = np.array([[5, 9, 4, 3], [7, 3, 0, 0], [8, 8, 3, 0]], np.int32)


def test_scores_equal_full_reading_and_the_batch_does_not_matter():
    """Random models, read before the separator: after any rewinds a node's score and log-probability are those of its path."""
    policy, reward = tiny_language_model(1), tiny_reward_model(2)
    order, weights, encoded, values, again = np.array([2, 0, 1]), parameters(policy), [], [], 0

    def run(keys, order):
        return rewind_search(policy, reward, keys[order], RANDOM_PROMPTS[order], LENGTHS[order], RANDOM, max_steps=4,
                             max_step_tokens=8, aggregation="prod", read_back=1, separator_id=SEP, end_id=END)

    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 3)
        found, mixed = run(keys, np.arange(3)), run(keys, order)
        np.testing.assert_array_equal(mixed.tree.tokens, found.tree.tokens[order])
        np.testing.assert_allclose(mixed.tree.values, found.tree.values[order], atol=1e-6)
        assert mixed.costs.compilations == 0
        for problem, node in np.argwhere(found.tree.values > -np.inf).tolist():
            steps = found.tree.steps(problem, node)
            ids, ends = RANDOM_PROMPTS[problem, : LENGTHS[problem]].tolist(), []
            if node > 4 * 4:  # drawn in a fifth turn: after going back
                written = ids + sum(steps, [])
                log_probs = jax.nn.log_softmax(next_token_logits(policy.config, weights, written[:-1]), axis=-1)
                drawn = range(len(written) - len(steps[-1]), len(written))
                np.testing.assert_allclose(found.tree.log_probs[problem, node],
                                           sum(log_probs[at - 1, written[at]] for at in drawn), atol=1e-4)
                again += 1
            for step in steps:
                if step != [END]:
                    ids = ids + [SEP if token == END else token for token in step]
                    ends.append(len(ids) - 2)
            encoded.append((ids, ends))
            values.append(found.tree.values[problem, node])
    batch = pad_solutions(encoded, 40, 4, rows=160)
    full = np.asarray(jax.jit(score_steps)(reward, batch))
    np.testing.assert_allclose(values, aggregate(full, batch.step_mask, "prod")[: len(values)], atol=1e-5)
    assert len(values) >= 40 and again >= 4, (len(values), again)


@pytest.mark.parametrize("make, field", [(lambda: ChunkReset(chains=0), "chains"), (lambda: ChunkReset(tries=0), "tries"),
                                         (lambda: Refine(rounds=0), "rounds")])
def test_bad_settings_are_refused(make, field):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        make()
