"""The bounds of tree searches against recorded numbers of the published implementations."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.search.bounds import Children, PuctAlphaMath, PuctOpenR, UctReSTMCTS, UctRStar, UctRStarMath
from jaxprm.search.variants import VARIANTS, TreeVariant
from jaxprm.search.walk import bring_back, bring_back_means, empty_stats


def children(parent_visits, visits, means, priors=None, progress=0.0):
    priors = np.zeros(len(visits)) if priors is None else priors
    return Children(jnp.int32(parent_visits), jnp.asarray(visits, jnp.int32), jnp.asarray(means, jnp.float32),
                    jnp.asarray(priors, jnp.float32), jnp.float32(progress))


def star(count):
    """A prompt and its children."""
    return dataclasses.replace(empty_stats(1 + count), parents=np.array([-1] + [0] * count, np.int32))


@pytest.fixture(scope="module")
def golden(shared):
    cases = json.loads((shared / "fixtures" / "golden" / "tree_search.json").read_text())["cases"]
    return lambda kind: [(case["inputs"], case["outputs"]) for case in cases if case["inputs"]["kind"] == kind]


def test_puct_of_openr(golden):
    cases = golden("openr_puct")
    assert len(cases) >= 4
    for given, expected in cases:
        visits, sums = np.array(given["child_visits"]), np.array(given["child_value_sums"])
        means = np.where(visits > 0, sums / np.maximum(visits, 1), given["child_initial_values"])
        bound = PuctOpenR(given["pb_c_base"], given["pb_c_init"])
        found = jax.jit(bound)(children(given["parent_visits"], visits, means, given["priors"]))
        np.testing.assert_allclose(found, expected["scores"], rtol=1e-5)
        assert int(jnp.argmax(found)) == expected["selected"]


def test_uct_of_rstar(golden):
    cases = golden("rstar_uct")
    assert {given["scheduler"] for given, _ in cases} >= {"const", "lin"}
    for given, expected in cases:
        visits, sums = np.array(given["visits"]), np.array(given["reward_sums"])
        bound = UctRStar(given["exploration_weight"], given["scheduler"])
        progress = given["rollout_id"] / given["num_rollouts"]
        np.testing.assert_allclose(bound.weight(progress), expected["weight"], rtol=1e-5)
        found = jax.jit(bound)(children(given["parent_visits"], visits, sums / np.maximum(visits, 1), progress=progress))
        np.testing.assert_allclose(found, expected["uct"], rtol=1e-5)
        assert int(jnp.argmax(found)) == expected["selected"]
    np.testing.assert_allclose(UctRStar(2.0, "exp").weight(0.5), 2 * 0.1**0.5, rtol=1e-6)


def test_puct_of_rstar_math(golden):
    """Values brought back one by one, through the same backup that the search uses: a root and its children."""
    cases, back = golden("rstar_math_puct"), jax.jit(bring_back, static_argnames="steps")
    assert len(cases) >= 4
    for given, expected in cases:
        stats = star(given["num_children"])
        for child, value in given["updates"]:
            stats = back(stats, jnp.int32(1 + child), jnp.float32(value), steps=1)
        np.testing.assert_array_equal(stats.visits, [expected["parent_visits"], *expected["visits"]])
        np.testing.assert_allclose(stats.means[1:], expected["q"], atol=1e-6)
        found = jax.jit(UctRStarMath())(children(stats.visits[0], stats.visits[1:], stats.means[1:]))
        np.testing.assert_allclose(found, expected["puct"], rtol=1e-5, atol=1e-6)


def test_uct_and_backup_of_rest_mcts(golden):
    cases, back = golden("rest_mcts_uct"), jax.jit(bring_back_means, static_argnames=("branch", "steps"))
    assert any(visits == 0 for given, _ in cases for _, visits in given["children"])
    for given, expected in cases:
        values, visits = np.array(given["children"]).T
        bound = UctReSTMCTS(given["exploration_constant"], given["INF"])
        found = jax.jit(bound)(children(given["parent_visits"], visits, values))
        np.testing.assert_allclose(found, expected["uct_recomputed_by_us"], rtol=1e-5)
        assert int(jnp.argmax(found)) == expected["selected"]
        stats = dataclasses.replace(
            star(len(values)), first_child=np.array([1] + [-1] * len(values), np.int32),
            visits=np.array([given["parent_visits"], *visits], np.int32), means=np.array([0, *values], np.float32))
        stats = back(stats, jnp.int32(0), branch=len(values), steps=1)
        assert stats.visits[0] == expected["parent_visits_after"]
        np.testing.assert_allclose(stats.means[0], expected["parent_V_after_backprop"], rtol=1e-5)


def test_puct_of_alphamath():
    """Q + c P sqrt(N_parent) / (1 + N): .5 + 1.5 * .4 * 3 / 3 = 1.1, and without visits 0 + 1.5 * .2 * 3 / 1 = .9."""
    np.testing.assert_allclose(PuctAlphaMath()(children(9, [2, 0], [0.5, 0.7], [0.4, 0.2])), [1.1, 0.9], rtol=1e-6)


@pytest.mark.parametrize("make, field", [
    (lambda: PuctOpenR(base=0.0), "base"), (lambda: PuctOpenR(init=-1.0), "init"),
    (lambda: PuctAlphaMath(float("nan")), "exploration"), (lambda: UctRStar(1.0, "cosine"), "schedule"),
    (lambda: UctRStarMath(-0.1), "exploration"), (lambda: UctReSTMCTS(bonus=float("inf")), "bonus"),
    (lambda: TreeVariant(PuctOpenR(), levels=-2), "levels"), (lambda: TreeVariant(PuctOpenR(), follow="worst"), "follow"),
    (lambda: TreeVariant(PuctOpenR(), mix=1.5), "mix"), (lambda: TreeVariant(PuctOpenR(), mix=0.5, first_visit=True), "mix"),
    (lambda: TreeVariant(PuctOpenR(), closes=True), "closes")])
def test_bad_settings_are_refused(make, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        make()


def test_variants_have_published_constants():
    assert VARIANTS["puct_openr"].bound == PuctOpenR(19652, 1.25) and VARIANTS["uct_rstar_math"].bound.exploration == 2
    rest = VARIANTS["uct_rest_mcts"]
    assert (rest.bound.exploration, rest.mix, rest.enough, rest.levels) == (0.7, 0.5, 0.9, 4)
