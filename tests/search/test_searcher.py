"""`Searcher`: compiled and through text give one result; what a policy does wrong is counted and harms nothing else."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.generation.text import StepSample
from jaxprm.models import make_mesh
from jaxprm.models.heads import HeadConfig
from jaxprm.models.reward_model import PolicyRewardModel
from jaxprm.records import Problem
from jaxprm.search import Beam, Budget, Lookahead, Refine, searcher
from jaxprm.search.searched import read_searched, searched_row
from jaxprm.search.searcher import Searcher, SearchSettings, share_ids
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import tiny_config, tiny_language_model, tiny_reward_model, word_tokenizer
from jaxprm.testing.models import random_model
from jaxprm.testing.scripted_text import ScriptedTextPolicy

WORDS = word_tokenizer([f"w{i}" for i in range(11)])
CONFIG = tiny_config(vocab_size=WORDS.vocab_size, context=48, layers=1)
ENCODER = StepEncoder(StepFormat(), WORDS)
REWARD = tiny_reward_model(1, config=CONFIG)
PROBLEMS = [Problem("p1", "w1 w2"), Problem("p2", "w3"), Problem("p3", "w1 w2"), Problem("long", "w1 " * 60)]
SETTINGS = SearchSettings(Beam(2, 2), max_steps=4, batch_problems=4, seed=3)


def same(one, other):
    assert one.problem == other.problem and one.stopped_by == other.stopped_by
    assert one.warnings == other.warnings and one.chosen == other.chosen
    assert (one.costs.policy_tokens, one.costs.policy_forwards) == (other.costs.policy_tokens, other.costs.policy_forwards)
    assert len(one.nodes) == len(other.nodes)
    for a, b in zip(one.nodes, other.nodes):
        assert dataclasses.replace(a, score=None, value=None) == dataclasses.replace(b, score=None, value=None)
        np.testing.assert_allclose([np.nan if x is None else x for x in (a.score, a.value)],
                                   [np.nan if x is None else x for x in (b.score, b.value)], atol=2e-6)
    assert [found.node for found in one.solutions] == [found.node for found in other.solutions]


def test_both_ways_give_one_result_whatever_the_batch():
    policy = LocalTextPolicy(tiny_language_model(0, CONFIG), ENCODER, max_steps=4, max_step_tokens=5)
    searcher = Searcher(policy, REWARD, ENCODER, SETTINGS)
    assert searcher.compiled
    batches = []
    compiled = searcher.run(PROBLEMS, batches.append)
    assert [len(batch) for batch in batches] == [4]
    text = Searcher(policy, REWARD, ENCODER, dataclasses.replace(SETTINGS, batch_problems=2))
    text.compiled = False
    for one, other in zip(compiled[:3], text.run(PROBLEMS[2::-1])[::-1], strict=True):
        same(one, other)
        # Every token is read once: the prompt's, and those of each step that has ended; what is discarded is not read.
        prompt = len(ENCODER.encode_prompt(one.problem.prompt))
        scored = [node.tokens for node in one.nodes if node.score is not None]
        assert one.costs.reward_tokens == other.costs.reward_tokens == prompt + sum(scored)
        assert one.costs.reward_forwards == other.costs.reward_forwards
        np.testing.assert_allclose(one.costs.flops, other.costs.flops, rtol=1e-5)
    assert sum(found.warnings.get("steps that did not end", 0) for found in compiled)
    first, _, third, long = compiled
    assert len({len(node.text.split()) for found in compiled for node in found.nodes}) > 2
    assert any(found.solutions for found in compiled)
    assert [node.text for node in first.nodes] != [node.text for node in third.nodes]  # one text, two ids: own random numbers
    assert long.nodes == () and long.chosen is None and long.stopped_by == "context"
    assert sum(long.warnings.values()) == 1 and text.run(PROBLEMS[3:])[0].warnings == {"policy's context is full": 4}


def test_both_ways_look_ahead_alike():
    """What is drawn behind candidates decides, is counted, and leaves no trace in the tree; empty steps are steps."""
    strategy = Lookahead(Beam(2, 2), steps=2, greedy=False)
    policy = LocalTextPolicy(tiny_language_model(4, CONFIG), ENCODER, max_steps=5, max_step_tokens=9)
    settings = dataclasses.replace(SETTINGS, strategy=strategy, batch_problems=3, max_steps=3)
    searcher = Searcher(policy, REWARD, ENCODER, settings)
    compiled = searcher.run(PROBLEMS[:3])
    searcher.compiled, differ = False, 0
    for one, other in zip(compiled, searcher.run(PROBLEMS[:3]), strict=True):
        same(one, other)
        assert (one.costs.reward_tokens, one.costs.reward_forwards) == (other.costs.reward_tokens, other.costs.reward_forwards)
        np.testing.assert_allclose(one.costs.flops, other.costs.flops, rtol=1e-5)
        going = [node for node in one.nodes if node.score is not None and not node.finished]
        assert one.costs.policy_tokens - sum(node.tokens for node in one.nodes) >= len(going)
        differ += sum(abs(node.value - min(step.score for step in one.path(node.id))) > 1e-3 for node in going)
    assert differ and any("empty steps" in one.warnings for one in compiled)
    policy.max_steps = 4
    other = StepEncoder(StepFormat(prompt_prefix="w1 "), WORDS)
    with pytest.raises(InputError, match="field 'max_steps' = 4: must be at least 5"):
        Searcher(policy, REWARD, other, settings)


def test_a_scripted_policy_looks_ahead():
    """Paths grow by what was chosen, whatever was drawn behind it."""
    seen = []

    def write(name, steps, rng):
        seen.append(steps)
        return StepSample(f"w{rng.integers(3)}", 2, "solution" if len(steps) == 3 else "step")

    settings = dataclasses.replace(SETTINGS, strategy=Lookahead(Beam(2, 2), steps=2))
    found = run(write, settings)[0]
    assert found.finished and len(found.steps(found.chosen)) == 4 and max(map(len, seen)) == 3
    assert found.costs.policy_tokens > sum(node.tokens for node in found.nodes)
    alone = run(write, settings, problems=PROBLEMS[:1])[0]
    same(found, alone)


def test_a_policy_that_is_its_own_reward_model_reads_its_text_once():
    model = random_model(lambda: PolicyRewardModel(CONFIG, HeadConfig("scalar"), rngs=nnx.Rngs(0)), 0)
    policy = LocalTextPolicy(model.policy(), ENCODER, max_steps=4, max_step_tokens=5)
    own = Searcher(policy, model, ENCODER, SETTINGS)
    apart = Searcher(policy, model, ENCODER, SETTINGS)
    apart.compiled = False
    for one, other in zip(own.run(PROBLEMS[:3]), apart.run(PROBLEMS[:3]), strict=True):
        same(one, other)
        # The last token of each step that has ended, and nothing of the prompt.
        assert one.costs.reward_tokens == sum(node.score is not None for node in one.nodes)


def test_few_shapes_are_compiled_and_settings_reach_the_search(monkeypatch):
    """Twelve problems of 3 to 17 words: batches of two widths, each of which is one program."""
    settings = dataclasses.replace(SETTINGS, compaction=1, doublings=2)
    problems = [Problem(f"p{words}", "w1 " * words) for words in (3, 17, 5, 4, 9, 16, 6, 7, 11, 13, 8, 15)]
    calls, original = [], searcher.search

    def noted(*given, compaction, doublings, **how):
        calls.append((given[3].shape, compaction, doublings))
        return original(*given, **how)

    monkeypatch.setattr(searcher, "search", noted)
    policy = LocalTextPolicy(tiny_language_model(0, CONFIG), ENCODER, max_steps=4, max_step_tokens=5)
    run = Searcher(policy, REWARD, ENCODER, settings).run
    compiled = sum(found.costs.compilations for found in run(problems))
    assert calls == [((4, 16), 1, 2), ((4, 16), 1, 2), ((4, 20), 1, 2)] and 1 <= compiled <= 2
    assert not any(found.costs.compilations for found in run(problems[::-1]))


def steps_policy(write):
    return ScriptedTextPolicy(lambda problem, steps, rng: write(problem.id, steps, rng))


def run(write, settings=SETTINGS, problems=PROBLEMS[:2], **options):
    return Searcher(steps_policy(write), REWARD, ENCODER, settings, **options).run(problems)


def good(steps, rng):
    return StepSample(f"w{rng.integers(10)}", 2, "solution" if len(steps) == 2 else "step", -1.0)


@pytest.mark.parametrize(("bad", "warning", "stopped"), [
    (lambda steps, rng: StepSample("w1 w1", 5, "cut"), "steps that did not end", "finished"),
    (lambda steps, rng: StepSample("", 1, "step"), "empty steps", "steps"),
    (lambda steps, rng: StepSample("w7", 2, "step"), "repeated steps", "steps"),
    (lambda steps, rng: StepSample(f"w{len(steps)}", 2, "step"), None, "steps"),
    (lambda steps, rng: None, None, "finished"),
], ids=["never ends a step", "empty", "repeats itself", "never finishes", "gives nothing"])
def test_a_bad_policy_harms_no_other_problem(bad, warning, stopped):
    found, other = run(lambda name, steps, rng: (bad if name == "p1" else lambda *a: good(*a))(steps, rng))
    assert not found.finished and not found.solutions and found.answer is None and found.stopped_by == stopped
    assert warning is None or found.warnings[warning] >= 4
    assert other.finished and other.stopped_by == "finished" and len(other.steps(other.chosen)) == 3
    alone = run(lambda name, steps, rng: good(steps, rng), problems=PROBLEMS[1:2])[0]
    same(other, alone)
    if stopped == "steps":  # the best path is given, and is not passed off as an answer
        assert len(found.steps(found.chosen)) == 4


def test_an_end_without_a_step_closes_the_path():
    def write(name, steps, rng):
        return StepSample(f"w{len(steps)}", 2, "step") if len(steps) < 2 else StepSample("", 1, "solution")

    found = run(write)[0]
    assert found.finished and found.steps(found.chosen) == ("w0", "w1") and found.nodes[found.chosen].score is None
    assert found.nodes[found.chosen].value == found.nodes[found.nodes[found.chosen].parent].value and not found.warnings


@pytest.mark.parametrize(("budget", "levels"), [
    (Budget(policy_tokens=9), 2), (Budget(reward_tokens=5), 1), (Budget(forwards=6), 3), (Budget(levels=3), 3),
    (Budget(flops=1.0), 1), (Budget(seconds=1e-9), 1), (Budget(policy_tokens=10**6), 4)])
def test_a_budget_stops_the_search(budget, levels):
    """A level costs 4 rows x 2 tokens of policy and PRM, one forward of each (the PRM reads the prompt of 4 tokens before)."""
    settings = dataclasses.replace(SETTINGS, budget=budget)
    found = run(lambda name, steps, rng: StepSample(f"w{rng.integers(10)}", 2, "step"), settings)[0]
    assert found.stopped_by == ("steps" if levels == 4 else next(k for k, v in dataclasses.asdict(budget).items() if v))
    assert max(len(found.path(node.id)) for node in found.nodes) == levels and not found.finished
    assert found.costs.policy_tokens == 8 * levels and found.costs.reward_tokens == 4 + 8 * levels
    assert (found.costs.policy_forwards, found.costs.reward_forwards) == (levels, 1 + levels)


def test_votes_choose_among_what_has_ended():
    def write(name, steps, rng):
        return StepSample(f"w{min(int(rng.integers(4)), 1)}", 2, "solution")

    judge = lambda problem, steps: (steps[-1], steps[-1] == "w1")  # noqa: E731
    settings = dataclasses.replace(SETTINGS, strategy=Beam(4, 2), seed=1)
    found = run(write, settings, judge=judge)[0]
    answers = [one.answer for one in found.solutions]
    assert found.answer == found.solutions[0] and found.answer.value == max(one.value for one in found.solutions)
    voted = run(write, dataclasses.replace(settings, vote="majority"), judge=judge)[0]
    assert voted.answer.answer == max(set(answers), key=answers.count) and voted.answer.correct == (voted.answer.answer == "w1")
    assert voted.finished


def test_refusals(without_type_checks):
    policy = steps_policy(lambda *_: None)
    with pytest.raises(InputError, match="field 'vote' = 'majority': needs answers to vote on"):
        Searcher(policy, REWARD, ENCODER, dataclasses.replace(SETTINGS, vote="majority"))
    both = tiny_reward_model(0, HeadConfig("scalar", direction="gate"), CONFIG)
    with pytest.raises(InputError, match="reads whole solutions in both directions"):
        Searcher(policy, both, ENCODER, SETTINGS)
    for changes, field in ((dict(compaction=1), "compaction"), (dict(doublings=1), "doublings"),
                           (dict(budget=Budget(compilations=1)), "compilations")):
        with pytest.raises(InputError, match=f"field '{field}' = 1: .* which only a compiled search can"):
            Searcher(policy, REWARD, ENCODER, dataclasses.replace(SETTINGS, **changes))
    with pytest.raises(InputError, match=r"field 'mesh' = \(8, 1, 1\): splits problems over devices, which only a compiled"):
        Searcher(policy, REWARD, ENCODER, SETTINGS, mesh=make_mesh())
    local = LocalTextPolicy(tiny_language_model(0, CONFIG), ENCODER, max_steps=4, max_step_tokens=5)
    with pytest.raises(InputError, match="field 'batch_problems' = 4: the mesh splits problems into 8 equal parts"):
        Searcher(local, REWARD, ENCODER, SETTINGS, mesh=make_mesh())
    with pytest.raises(InputError, match="field 'compaction' = 1: is of level strategies"):
        Searcher(local, REWARD, ENCODER, dataclasses.replace(SETTINGS, strategy=Refine(), compaction=1))
    for field, value in (("max_steps", 0), ("batch_problems", 0), ("compaction", -1), ("doublings", -1), ("vote", "most"),
                         ("aggregation", "median")):
        with pytest.raises(InputError, match=f"field '{field}' = "):
            dataclasses.replace(SETTINGS, **{field: value})


def test_when_ids_are_shared():
    other = word_tokenizer([f"w{i}" for i in range(12)])
    assert share_ids(ENCODER, StepEncoder(StepFormat(readout="before", aggregation="prod"), WORDS))
    assert not share_ids(ENCODER, StepEncoder(StepFormat(), other))
    assert not share_ids(ENCODER, StepEncoder(StepFormat(prompt_prefix="w1 "), WORDS))


def test_searches_that_leave_nodes():
    """Refinements: the tree as nodes with texts, earlier drafts among them; costs and the answer are those of the search."""
    policy = LocalTextPolicy(tiny_language_model(0, CONFIG), ENCODER, max_steps=4, max_step_tokens=5)
    settings = dataclasses.replace(SETTINGS, strategy=Refine(chains=3, threshold=0.5, rounds=1))
    first, second, third, long = Searcher(policy, REWARD, ENCODER, settings).run(PROBLEMS)
    assert long.stopped_by == "context" and not long.nodes
    for found in (first, second, third):
        assert found.stopped_by == "finished" and found.costs.policy_tokens == sum(node.tokens for node in found.nodes)
        for node in found.nodes:
            assert node.parent is None or (node.parent < node.id and found.nodes[node.parent].value is not None)
            assert (node.value is None) == (not node.kept)  # steps that did not end
        values = [found.nodes[one.node].value for one in found.solutions]
        assert values == sorted(values, reverse=True) and all(found.nodes[one.node].finished for one in found.solutions)
        assert found.chosen == (found.solutions[0].node if found.solutions else found.chosen)
        assert read_searched(searched_row(found, "refine"))[1] == found
    alone = Searcher(policy, REWARD, ENCODER, settings).run(PROBLEMS[2:3])[0]
    assert [node.text for node in alone.nodes] == [node.text for node in third.nodes]
