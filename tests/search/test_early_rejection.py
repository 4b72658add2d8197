"""Early rejection through text: the results of the compiled search, and those of beginnings scored by hand."""

import dataclasses

import numpy as np
import pytest

from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.generation.text import StepSample
from jaxprm.records import Problem
from jaxprm.search import Beam, Distinct, EarlyRejection, Lookahead, ValueGuided
from jaxprm.search.searcher import Searcher, SearchSettings
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import scripted_reward_model, tiny_config, tiny_language_model, tiny_reward_model, word_tokenizer
from jaxprm.testing.scripted_text import ScriptedTextPolicy, _ScriptedSession

WORDS = word_tokenizer([f"w{i}" for i in range(11)])
CONFIG = tiny_config(vocab_size=WORDS.vocab_size, context=48, layers=1)
ENCODER = StepEncoder(StepFormat(readout="before"), WORDS)
PROBLEMS = [Problem("p1", "w1 w2"), Problem("p2", "w3"), Problem("p3", "w1 w2")]


def test_both_ways_reject_alike():
    """In and around other wrappers: trees, choices and counts are equal; a rejected step has the score of its beginning."""
    strategy = Lookahead(ValueGuided(EarlyRejection(Distinct(Beam(2, 4)), tokens=2, keep=0.5), mean=0.5), steps=1)
    policy = LocalTextPolicy(tiny_language_model(4, CONFIG), ENCODER, max_steps=4, max_step_tokens=7)
    searcher = Searcher(policy, tiny_reward_model(1, config=CONFIG), ENCODER,
                        SearchSettings(strategy, max_steps=3, batch_problems=3, seed=3))
    compiled, kinds = searcher.run(PROBLEMS), set()
    assert searcher.compiled
    searcher.compiled = False
    for one, other in zip(compiled, searcher.run(PROBLEMS), strict=True):
        assert (one.stopped_by, one.warnings, one.chosen) == (other.stopped_by, other.warnings, other.chosen)
        for name in ("policy_tokens", "reward_tokens", "policy_forwards", "reward_forwards"):
            assert getattr(one.costs, name) == getattr(other.costs, name)
        np.testing.assert_allclose(one.costs.flops, other.costs.flops, rtol=1e-5)
        assert [found.node for found in one.solutions] == [found.node for found in other.solutions]
        for a, b in zip(one.nodes, other.nodes, strict=True):
            assert dataclasses.replace(a, score=None, value=None) == dataclasses.replace(b, score=None, value=None)
            for x, y in ((a.score, b.score), (a.value, b.value)):
                assert (x is None) == (y is None) and (x is None or abs(x - y) < 2e-6)
            kinds.add(("short" if a.tokens <= 2 else "long", a.score is not None, a.value is not None))
        rejected = sum(node.value is None and node.tokens <= 2 for node in one.nodes)
        assert rejected >= len(one.nodes) // 2 - 1
        assert one.warnings.get("steps that did not end", 0) <= len(one.nodes) - rejected
    assert {("short", True, False), ("short", True, True), ("long", True, True), ("long", False, False)} <= kinds


def run(write, encoder=ENCODER, strategy=EarlyRejection(Beam(1, 4), tokens=2, keep=0.5)):
    """A step is worth a tenth of its last word: w7 is worth .7."""
    score = np.full(WORDS.vocab_size, 0.5)
    for number in range(1, 10):
        score[WORDS.token_id(f"w{number}")] = number / 10
    settings = SearchSettings(strategy, max_steps=2, aggregation="last")
    return Searcher(ScriptedTextPolicy(write), scripted_reward_model(score), encoder, settings).run(PROBLEMS[:1])[0]


def test_the_best_beginnings_are_completed():
    steps = iter(["w9 w1 w9", "w2 w8 w6", "w5 w5 w5", "w7", "w1 w9 w9", "w2", "w9 w4 w9", "w3"])
    ending = lambda path: "solution" if path else "step"  # noqa: E731
    found = run(lambda problem, path, rng: StepSample(text := next(steps), len(text.split()) + 1, ending(path)))
    assert [node.text for node in found.nodes] == ["w9 w1", "w2 w8 w6", "w5 w5", "w7", "w1 w9 w9", "w2", "w9 w4 w9", "w3"]
    np.testing.assert_allclose([node.score for node in found.nodes], [0.1, 0.6, 0.5, 0.7, 0.9, 0.2, 0.9, 0.3], atol=1e-5)
    values = [node.value for node in found.nodes]
    assert [value and round(value, 5) for value in values] == [None, 0.6, None, 0.7, 0.9, None, 0.9, None]
    assert found.steps(found.chosen) == ("w7", "w1 w9 w9") and not found.warnings
    assert [node.finished for node in found.nodes[4:]] == [True, False, True, False]  # a step that had ended competes as it is
    assert found.costs.policy_tokens == (2 + 4 + 2 + 2) + (4 + 2 + 4 + 2)
    assert found.costs.reward_tokens == 4 + found.costs.policy_tokens
    assert found.costs.policy_forwards == 4 and found.costs.reward_forwards == 1 + 4


@pytest.mark.parametrize(("whole", "score"), [(StepSample("w8 w8 w8 w8", 9, "cut"), None), (None, None)])
def test_what_cannot_be_judged_or_completed(whole, score):
    """A step without an end is not used though it survived; a path without a step does not compete."""
    steps = iter([whole, StepSample("w1 w4 w3", 4, "step"), StepSample("w1 w3 w3", 4, "step"), whole])
    found = run(lambda problem, path, rng: None if path else next(steps))
    if whole is None:
        assert [(node.text, node.value is None) for node in found.nodes] == [("w1 w4 w3", False), ("w1 w3", True)]
    else:
        assert [(node.tokens, node.score, node.value) for node in found.nodes][::3] == [(9, None, None)] * 2
        assert found.warnings == {"steps that did not end": 2} and found.chosen is None


def test_a_beginning_that_is_never_completed_is_not_used(monkeypatch):
    """As where an endpoint fails between the two parts: what was drawn and read is counted, and nothing else."""
    draw = _ScriptedSession.sample
    monkeypatch.setattr(_ScriptedSession, "sample", lambda self, *given: [
        [None if given[-1].rest else sample for sample in row] for row in draw(self, *given)])
    found = run(lambda problem, path, rng: StepSample("w1 w4 w3", 4, "step"))
    assert [(node.text, node.value, node.kept) for node in found.nodes] == [("w1 w4", None, False)] * 4
    assert found.chosen is None and found.stopped_by == "finished" and not found.warnings
    assert (found.costs.policy_tokens, found.costs.reward_tokens) == (8, 4 + 8)
