"""Searches on meshes of 8 simulated devices find what one device finds, in buffers that are used again."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.models import auto_axes, make_mesh, mesh_scope, on_mesh
from jaxprm.records import Problem
from jaxprm.search import Budget, Pats, Rebase, engine, search
from jaxprm.search.searcher import Searcher, SearchSettings
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import tiny_config, tiny_language_model, tiny_reward_model, word_tokenizer

WORDS = word_tokenizer([f"w{i}" for i in range(19)])
ENCODER = StepEncoder(StepFormat(), WORDS)
CONFIG = tiny_config(vocab_size=WORDS.vocab_size, layers=1, heads=4, kv_heads=4, head_dim=4)
MODELS = tiny_language_model(1, CONFIG), tiny_reward_model(2, config=CONFIG)
RNG = np.random.default_rng(0)
PROMPTS = RNG.integers(4, 20, (8, 4)).astype(np.int32), RNG.integers(2, 5, 8).astype(np.int32)
KEYS = jax.random.split(jax.random.key(3), 8)
RUN = functools.partial(search, max_steps=3, max_step_tokens=4, separator_id=ENCODER.separator_id, end_id=ENCODER.end_id,
                        aggregation="prod")


@pytest.fixture(scope="module")
def alone():
    return RUN(*MODELS, KEYS, *PROMPTS, Rebase(4))


@pytest.fixture
def reused(monkeypatch):
    """Of each call of the level loop: the shape of a cache's part on one device, and whether all caches stay where they lay, in
    buffers that were given up."""
    seen, run = [], engine._run

    def addresses(buffers):
        return [shard.data.unsafe_buffer_pointer() for buffer in buffers for shard in buffer.addressable_shards]

    def watched(models, state, buffers, *rest):
        given = jax.tree.leaves(buffers)
        before, part = addresses(given), given[0].sharding.shard_shape(given[0].shape)
        found = run(models, state, buffers, *rest)
        left = jax.tree.leaves(engine._apart(found[0])[1])
        seen.append((part[:2], addresses(left) == before and all(buffer.is_deleted() for buffer in given)))
        return found

    monkeypatch.setattr(engine, "_run", watched)
    return seen


@pytest.mark.parametrize("sizes, how, part", [((8, 1, 1), dict(budget=Budget(seconds=1e9)), (4, 4)),
                                              ((2, 1, 4), dict(compaction=1, doublings=1), (8, 1))],
                         ids=["data", "data-tensor"])
def test_levels_on_a_mesh(sizes, how, part, alone, reused):
    """The same keys, the same tokens. Problems are split over data, heads over tensor: ``part``, rows and heads of a device."""
    mesh = auto_axes(make_mesh(*sizes))
    with mesh_scope(mesh):
        found = RUN(*(on_mesh(model, mesh) for model in MODELS), KEYS, *PROMPTS, Rebase(4), **how)
    for name in ("tokens", "lengths", "parents", "kept", "finished"):
        np.testing.assert_array_equal(getattr(found.tree, name), getattr(alone.tree, name))
    for name in ("scores", "values", "log_probs"):
        np.testing.assert_allclose(getattr(found.tree, name), getattr(alone.tree, name), atol=1e-5)
    for name in ("levels", "stopped", "level", "candidate", "finished"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    for name in ("policy_tokens", "reward_tokens", "policy_forwards", "reward_forwards"):
        np.testing.assert_array_equal(getattr(found.costs, name), getattr(alone.costs, name))
    assert reused and all(place == part and again for place, again in reused)
    assert len(set(alone.levels.tolist())) > 1 and alone.tree.kept.any() and alone.finished.any()


def test_caches_of_one_device_are_used_again(alone, reused):
    """Level by level, as with a limit on wall time."""
    again = RUN(*MODELS, KEYS, *PROMPTS, Rebase(4), budget=Budget(seconds=1e9))
    assert reused == [((32, 4), True)] * (int(alone.levels.max()) - 1) and again.costs.compilations <= 2
    np.testing.assert_array_equal(again.tree.tokens, alone.tree.tokens)


def test_the_compiled_program_gives_its_caches_back(monkeypatch, without_type_checks):
    """XLA's own account of the program: the caches that come out lie in the memory of those that went in."""
    seen, run = [], engine._run

    def watched(models, state, buffers, *rest):
        program = run.lower(models, state, buffers, *rest).compile()
        seen.append((program.memory_analysis().alias_size_in_bytes, sum(x.nbytes for x in jax.tree.leaves(buffers))))
        return run(models, state, buffers, *rest)

    monkeypatch.setattr(engine, "_run", watched)
    RUN(*MODELS, KEYS, *PROMPTS, Rebase(4), budget=Budget(seconds=1e9))
    assert seen and all(aliased >= caches > 0 for aliased, caches in seen)


def test_a_searcher_on_a_mesh():
    """Any of our meshes will do; a search over nodes runs there, too, and wants as many problems as the mesh can split."""
    policy = LocalTextPolicy(MODELS[0], ENCODER, max_steps=2, max_step_tokens=4)
    settings = SearchSettings(Pats((1, 2), start=0), max_steps=2, batch_problems=4)
    problems = [Problem("p1", "w1 w2"), Problem("p2", "w3"), Problem("p3", "w1 w2 w5")]
    run = functools.partial(Searcher, policy, MODELS[1], ENCODER, settings)
    for one, other in zip(run().run(problems), run(mesh=make_mesh(2, 2, 2)).run(problems), strict=True):
        assert len(one.nodes) == len(other.nodes) > 1 and one.chosen == other.chosen and one.stopped_by == other.stopped_by
        for a, b in zip(one.nodes, other.nodes):
            assert dataclasses.replace(a, score=None, value=None) == dataclasses.replace(b, score=None, value=None)
            np.testing.assert_allclose(*([x or 0.0 for x in (node.score, node.value)] for node in (a, b)), atol=1e-5)


def test_what_a_mesh_does_not_split_is_one_line():
    mesh = make_mesh(4, 1, 2)
    with mesh_scope(mesh), pytest.raises(InputError, match="field 'mesh': searches do not run with Explicit axes"):
        RUN(*MODELS, KEYS, *PROMPTS, Rebase(4))
    with mesh_scope(auto_axes(mesh)), pytest.raises(InputError, match="field 'prompts' = 6: the mesh splits problems into 4"):
        RUN(*MODELS, KEYS[:6], *(x[:6] for x in PROMPTS), Rebase(4))
