"""Searches over nodes through text: the nodes of the compiled search, trees counted by hand, policies that fail."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.generation.text import StepSample
from jaxprm.records import Problem, Solution
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.scorer import StepScorer
from jaxprm.search import Budget, ChunkReset, DualPhase, Pats, Refine, Tree
from jaxprm.search.searched import read_searched, searched_row
from jaxprm.search.searcher import Searcher, SearchSettings
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import scripted_reward_model, tiny_config, tiny_language_model, tiny_reward_model, word_tokenizer
from jaxprm.testing.scripted_text import ScriptedTextPolicy

SCORES = {"a": 0.9, "a1": 0.3, "a2": 0.2, "b": 0.7, "b1": 0.6, "c": 0.8, "d": 0.5, "d1": 0.9}
WORDS = word_tokenizer(["A", "B", *SCORES])
ENCODER = StepEncoder(StepFormat(), WORDS)
CONFIG = tiny_config(vocab_size=WORDS.vocab_size, context=32, layers=1)
PROBLEMS = [Problem("p1", "A B"), Problem("p2", "c"), Problem("p3", "a b c")]
POLICY = LocalTextPolicy(tiny_language_model(0, CONFIG), ENCODER, max_steps=4, max_step_tokens=5)
MODEL = tiny_reward_model(1, config=CONFIG)


def searched(policy, model, strategy, problems, *, compiled=False, encoder=ENCODER, **settings):
    searcher = Searcher(policy, model, encoder, SearchSettings(strategy, **{"max_steps": 4, "batch_problems": 3, "seed": 3}
                                                               | settings))
    assert searcher.compiled or not compiled
    searcher.compiled = compiled
    return searcher.run(problems)


def same(one, other):
    number = lambda value: np.nan if value is None else value  # noqa: E731
    bare = lambda node: dataclasses.replace(node, score=None, value=None)  # noqa: E731
    assert list(map(bare, one.nodes)) == list(map(bare, other.nodes))
    for field in ("score", "value"):
        pair = ([number(getattr(node, field)) for node in found.nodes] for found in (one, other))
        np.testing.assert_allclose(*pair, atol=2e-6)
    assert (one.chosen, one.stopped_by, one.warnings) == (other.chosen, other.stopped_by, other.warnings)
    assert [found.node for found in one.solutions] == [found.node for found in other.solutions]
    costs, others = (dataclasses.asdict(found.costs) | {"seconds": 0, "compilations": 0} for found in (one, other))
    np.testing.assert_allclose(list(costs.values()), list(others.values()), rtol=1e-5)


SEARCHES = {
    "tree": (Tree("uct_rstar", simulations=6, expansions=7, branch=2), Budget(reward_tokens=40)),
    "chunk reset": (ChunkReset(chains=2, threshold=0.45, tries=2), Budget(forwards=40)),
    "refine": (Refine(chains=2, rounds=1), Budget()), "PATS": (Pats((1, 2), start=0), Budget()),
    "dual phase": (DualPhase(samples=4, batch=2), Budget(levels=4))}


@pytest.mark.parametrize("name", SEARCHES)
def test_both_ways_find_the_same(name):
    """One key, one tree: nodes, values, choice, reasons, warnings and the whole bill, in whatever batch."""
    strategy, budget = SEARCHES[name]
    compiled = searched(POLICY, MODEL, strategy, PROBLEMS, compiled=True, budget=budget)
    text = searched(POLICY, MODEL, strategy, PROBLEMS, budget=budget)
    for one, other in zip(compiled, text, strict=True):
        same(one, other)
    assert max(len(found.path(node.id)) for found in text for node in found.nodes) > 1
    assert any(node.value is None for found in text for node in found.nodes)  # what has not ended, or says what a sibling says


TREE = {"A": ("a", "b"), "a": ("a1", "a2"), "b": ("b1",), "B": ("c", "d"), "d": ("d1",)}
HAND = [Problem("p1", "A"), Problem("p2", "B")]


def scripted_reward():
    score = np.full(WORDS.vocab_size, 0.5)
    for word, value in SCORES.items():
        score[WORDS.encode(word)] = value
    return scripted_reward_model(score, of_previous=True)


REWARD = scripted_reward()


def write(problem, steps, rng):
    options = TREE[steps[-1] if steps else problem.prompt]
    text = options[rng.integers(len(options))]
    return StepSample(text, 2, "step" if text in TREE else "solution", -float(np.log(len(options))))


def test_a_tree_by_hand():
    """As in `test_tree`: 3 expansions of A and 2 of B, each of which draws 6 steps of 2 tokens; the reward model reads the
    prompts of 3 tokens once, and of each expansion what is said, once."""
    strategy = Tree("puct_openr", simulations=5, expansions=4, branch=6)
    first, second = searched(ScriptedTextPolicy(write), REWARD, strategy, HAND, aggregation="last")
    assert (first.costs.policy_tokens, second.costs.policy_tokens) == (3 * 12, 2 * 12)
    assert (first.costs.reward_tokens, second.costs.reward_tokens) == (3 + 5 * 2, 3 + 3 * 2)
    assert (first.costs.policy_forwards, first.costs.reward_forwards) == (3, 1 + 3)
    assert [first.steps(one.node) for one in first.solutions] == [("b", "b1"), ("a", "a1"), ("a", "a2")]
    assert second.steps(second.chosen) == ("d", "d1") and first.stopped_by == second.stopped_by == "simulations"
    np.testing.assert_allclose([one.value for one in first.solutions], [0.6, 0.3, 0.2], atol=1e-5)
    assert {node.text for node in first.nodes if node.kept} == {"a", "b"} and len(first.nodes) == 3 * 6
    assert read_searched(searched_row(first, "tree"))[1] == first
    for budget, stop in ((Budget(policy_tokens=12), "policy_tokens"), (Budget(levels=1), "levels"),
                         (Budget(seconds=1e-9), "seconds")):
        found = searched(ScriptedTextPolicy(write), REWARD, strategy, HAND, budget=budget)
        assert [one.stopped_by for one in found] == [stop] * 2 and [one.costs.policy_tokens for one in found] == [12, 12]
        assert found[0].steps(found[0].chosen) == ("a",) and not found[0].finished
        assert found[1].steps(found[1].chosen) == ("c",) and found[1].finished


class Family:
    """A published family's encoder: what a problem's encodings have in common is known only from some of them."""

    aggregation = "min"

    def encode(self, problem, steps):
        pieces = [WORDS.encode(problem + " " + problem), *(WORDS.encode(step) + [3] for step in steps)]
        return sum(pieces, []), [end - 1 for end in itertools.accumulate(map(len, pieces))][1:]


def test_what_is_not_delivered_is_drawn_again():
    """p1's policy delivers nothing in the first turn and a cut step in the second; then "a" (good), and "a1" (bad, drawn twice
    more, the third stands). Each delivered step is 2 tokens; p2 is as if it were alone."""
    def failing():
        calls = {}

        def some(problem, steps, rng):
            if problem.id != "p1":
                return write(problem, steps, rng)
            calls["p1"] = calls.get("p1", 0) + 1
            return (None, StepSample("b", 2, "cut"), StepSample("a", 2, "step"))[calls["p1"] - 1] if calls["p1"] <= 3 else (
                StepSample("a1", 2, "solution"))

        return ScriptedTextPolicy(some)

    strategy = ChunkReset(chains=1, threshold=0.45, tries=3)
    for encoder in (ENCODER, Family()):
        first, second = searched(failing(), REWARD, strategy, HAND, encoder=encoder)
        assert [(node.text, node.value is None, node.kept) for node in first.nodes] == [
            ("b", True, False), ("a", False, True), ("a1", False, False), ("a1", False, False), ("a1", False, True)]
        assert first.finished and first.steps(first.chosen) == ("a", "a1") and first.costs.policy_tokens == 5 * 2
        assert first.warnings == {"steps that did not end": 1} and first.stopped_by == "finished"
        assert first.costs.reward_tokens == (3 if encoder is ENCODER else 2) + 4 * 2
        [alone] = searched(failing(), REWARD, strategy, HAND[1:], encoder=encoder)
        same(second, alone)


def test_a_budget_that_the_prompts_exceed():
    for found in searched(POLICY, MODEL, SEARCHES["refine"][0], PROBLEMS, budget=Budget(flops=1.0)):
        assert not found.nodes and found.chosen is None and found.stopped_by == "flops" and found.costs.flops > 1


@pytest.mark.parametrize("name", SEARCHES)
def test_a_policy_that_delivers_nothing(name):
    for found in searched(ScriptedTextPolicy(lambda *_: None), MODEL, SEARCHES[name][0], PROBLEMS):
        assert not found.nodes and found.chosen is None and found.stopped_by == "finished"


def test_an_implicit_reward_model_reads_trees():
    model = ImplicitModel(tiny_language_model(1, CONFIG), tiny_language_model(2, CONFIG), 0.5)
    found = searched(ScriptedTextPolicy(lambda problem, steps, rng: StepSample(
        f"{'abcd'[rng.integers(4)]}1 {'abcd'[rng.integers(4)]}", 3, "step" if len(steps) < 2 else "solution")), model,
        SEARCHES["refine"][0], PROBLEMS)
    for one in found:
        paths = [(node, one.path(node.id)) for node in one.nodes if node.score is not None]
        assert len(paths) >= 4 and one.finished
        solutions = [Solution(one.problem, tuple(step.text for step in path)) for _, path in paths]
        whole = StepScorer(model, ENCODER).score(solutions)
        np.testing.assert_allclose([node.score for node, _ in paths], [scores[-1] for scores in whole], atol=1e-4)
