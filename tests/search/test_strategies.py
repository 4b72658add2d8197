"""Selection by hand, against published searches, and where settings must coincide; no model takes part."""

import dataclasses
import functools
import hashlib
import itertools
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.search import (DVTS, STRATEGIES, Beam, BestOfN, Distinct, EarlyRejection, EntropyBranching, Greedy, Level,
                           Lookahead, Particle, Rebase, ValueGuided)
from jaxprm.search.strategies import apportion, particle_weights
from jaxprm.search.strategies.base import best_first
from jaxprm.search.strategies.sampling import inverse_cdf

KEYS = jax.random.split(jax.random.key(0), 2)
SELECT = jax.jit(lambda strategy, keys, level: strategy.select(keys, level), static_argnums=0)
VALUE = jax.jit(lambda strategy, level: strategy.value(level), static_argnums=0)
SURVIVORS = jax.jit(lambda strategy, level, drawing: strategy.survivors(level, drawing), static_argnums=0)
SHARE = jax.jit(lambda values, budget, temperature: apportion(values, best_first(KEYS[:1], values), budget, temperature))
WEIGHTS = jax.jit(lambda values: particle_weights(values))
DRAWN = jax.jit(inverse_cdf)


def level(values, *, finished=None, first=None, scores=None, steps=None, state=None, number=0, **entropies):
    """A level from lists; one problem is given twice."""
    wide, pair = len(values), lambda x, kind=np.float32: jnp.asarray(np.array([x, x], kind))
    zeros = [0.0] * wide
    return Level(pair(values), pair(scores or [[0.0] * 3] * wide), pair(steps or [1] * wide, np.int32),
                 pair(finished or [False] * wide, bool), pair(range(wide) if first is None else first, np.int32),
                 pair(entropies.get("entropy", zeros)), pair(entropies.get("next_entropy", zeros)), pair(zeros),
                 jnp.asarray(np.int32(number)), None if state is None else pair(state, np.int32))


def rows(strategy, found):
    """Parents of the rows that are alive, None for the others; both problems agree."""
    selection = SELECT(strategy, KEYS, found)
    parents, alive = np.asarray(selection.parents), np.asarray(selection.alive)
    np.testing.assert_array_equal(*alive)
    return [int(parent) if there else None for parent, there in zip(parents[0], alive[0])]


NONE = -np.inf


@pytest.mark.parametrize("options, taken, expected", [
    # candidates .9 (finished), .8, .8 (a copy of the one before), .7 (finished), .6, unusable
    (dict(), 0, [0, None, None, 1, 1, 1]),
    (dict(finished="leave"), 0, [1, 1, 1, 4, 4, 4]),
    (dict(finished="leave", duplicates="allow"), 0, [1, 1, 1, 2, 2, 2]),
    (dict(finished="leave", duplicates="merge"), 0, [1, 1, 1, 4, 4, 4]),
    (dict(finished="shrink"), 0, [None] * 3 + [1, 1, 1]),
    (dict(finished="shrink"), 1, [None] * 6)])
def test_options_of_a_beam(options, taken, expected):
    found = level([.9, .8, .8, .7, .6, NONE], finished=[True, False, False, True, False, False],
                  first=[0, 1, 1, 3, 4, 5], state=taken)
    assert rows(Beam(2, 3, **options), found) == expected


def test_a_beam_of_copies():
    """Nothing but copies: they are kept last, or not kept twice."""
    found = level([.5] * 4, first=[0] * 4, state=0)
    assert rows(Beam(2, 2), found) == [0, 0, 1, 1] and rows(Beam(2, 2, duplicates="merge"), found) == [0, 0, None, None]
    assert rows(Distinct(Beam(2, 2, duplicates="allow")), found) == [0, 0, None, None]
    assert rows(Distinct(Rebase(4)), level([.5] * 4, first=[0] * 4, state=4)) == [0, 0, 0, 0]


def test_ties():
    """Equal values: the first, or any of them; a better one is never passed over."""
    found = level([.5, .7, .5, .5], state=0)
    assert rows(Beam(2, 2), found) == [1, 1, 0, 0]
    seen = [np.asarray(SELECT(Beam(2, 2, ties="random"), jax.random.split(jax.random.key(seed), 2), found).parents)
            for seed in range(20)]
    assert (np.stack(seen)[..., 0] == 1).all() and set(np.stack(seen)[..., 2].ravel()) == {0, 2, 3}


def test_settings_that_coincide():
    """A beam of width 1 is greedy; DVTS with one subtree is its beam; REBASE at T = inf is uniform, at T -> 0 greedy."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        values, finished = rng.permutation([.1, .2, .3, .4, .5, NONE]).tolist(), (rng.random(6) < .3).tolist()
        texts = rng.integers(0, 4, 6).tolist()
        first = [texts.index(text) for text in texts]
        found = functools.partial(level, values, finished=finished)
        assert rows(Beam(1, 6), found(state=0)) == rows(Greedy(6), found())
        assert rows(DVTS(1, Beam(2, 3)), found(first=first, state=[0])) == rows(Beam(2, 3), found(first=first, state=0))
        going = [candidate for candidate in range(6) if values[candidate] > NONE and not finished[candidate]]
        share = rows(Rebase(6, temperature=float("inf")), found(state=6))
        counts = [share.count(candidate) for candidate in going]
        assert max(counts) - min(counts) <= 1
        cold = rows(Rebase(6, temperature=1e-3), found(state=6))
        assert set(cold) - {None} == {max(going, key=values.__getitem__)}


def test_subtrees_are_apart():
    """Three subtrees of two: each keeps its best, whatever the others hold; copies count within a subtree only."""
    found = functools.partial(level, [.1, .2, .9, .8, .5, .5], first=[0, 1, 2, 3, 1, 4], state=[0, 0, 0])
    assert rows(DVTS(3, Beam(1, 2)), found()) == [1, 1, 2, 2, 4, 4]
    assert rows(DVTS(3, Beam(1, 2)), found(finished=[False, True, False, False, False, False])) == [1, None, 2, 2, 4, 4]


def test_best_of_n_and_entropy_branching_by_hand():
    found = level([.5, NONE, .7, .6], finished=[False, False, True, False], next_entropy=[.2, 9, 9, 1.5],
                  entropy=[1.1, 0, 0, .9])
    assert rows(BestOfN(4), found) == [0, None, 2, 3]
    fork = EntropyBranching(paths=4, branches=2, threshold=1.0)
    assert rows(fork, found) == [3, 3, 0, None] and fork.first_rows == 2
    assert rows(dataclasses.replace(fork, reading="step"), found) == [3, 0, 0, None]
    assert rows(EntropyBranching(paths=4, branches=4, threshold=0.1), found) == [3, 3, 3, 3]


def test_values_by_hand():
    """Scores .4, .8: mean .6, last .8, progress .4; of the single step .9 from s_0 = .5 on .4."""
    found = level([.1, .2, .3], scores=[[.4, .8, 0], [.9, 0, 0], [0, 0, 0]], steps=[2, 1, 0])
    for weights, expected in ((dict(), [.8, .9, .3]), (dict(mean=2.0), [1.2 + .8, 1.8 + .9, .3]),
                              (dict(progress=5.0), [.8 + 2.0, .9 + 2.0, .3]),
                              (dict(last=0.0, progress=1.0, start=0.2), [.4, .7, .3])):
        np.testing.assert_allclose(VALUE(ValueGuided(Beam(), **weights), found)[0], expected, atol=1e-6)


def test_survivors_by_hand():
    """Half of five drawing rows is three: the best, and of the equal ones the first."""
    found, drawing = level([.5, .9, .5, .5, .1, 1.0]), jnp.asarray(np.array([[True] * 5 + [False]] * 2))
    half, all_ = EarlyRejection(Beam(), tokens=1, keep=0.5), EarlyRejection(Beam(), keep=1.0)
    assert np.asarray(SURVIVORS(half, found, drawing))[0].tolist() == [True, True, True, False, False, False]
    assert np.asarray(SURVIVORS(all_, found, drawing))[0].tolist() == [True] * 5 + [False]
    assert half.most_survivors(6) == 3 and all_.most_survivors(6) == 6


def golden(shared, name, kind):
    cases = json.loads((shared / "fixtures/golden" / f"{name}.json").read_text())["cases"]
    return [(case["inputs"], case["outputs"]) for case in cases if case["inputs"]["kind"] == kind]


def test_apportionment_equals_the_published_one_wherever_that_keeps_its_budget(shared):
    """The published order of ties is the reverse of ours, so candidates are given in reverse."""
    cases = [(case, out) for case, out in golden(shared, "rebase", "allocate") if case["truncate_ratio"] is None]
    assert len(cases) > 40
    for case, out in cases:
        values, count = np.full((1, 64), NONE, np.float32), len(case["scores"])
        values[0, :count] = case["scores"][::-1]
        widths = SHARE(values, np.array([case["budget"]], np.int32), np.float32(case["temperature"]))
        widths = np.asarray(widths)[0, :count][::-1]
        assert widths.tolist() == out["exact_arithmetic_widths"]
        assert widths.sum() == case["budget"]
        if out["sum_equals_budget"]:
            assert widths.tolist() == out["widths"]


@hypothesis.given(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8), st.integers(0, 8), st.integers(0, 300),
                  st.sampled_from([0.01, 0.05, 0.2, 5.0, float("inf")]))
def test_apportionment_always_sums_to_the_budget(values, usable, budget, temperature):
    values = np.where(np.arange(8) < usable, np.array(values, np.float32), -np.inf).astype(np.float32)[None]
    widths = np.asarray(SHARE(values, np.array([budget], np.int32), np.float32(temperature)))[0]
    assert widths.sum() == (budget if usable else 0) and (widths >= 0).all() and not widths[usable:].any()
    assert (np.diff(widths[np.argsort(-values[0, :usable], kind="stable")]) <= 1).all()  # the better never gets less (by ceil)


def uniform(text):
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def replay(select, wide, world, levels, state=None, first=None):
    """A search of a published scripted environment, by our selection: texts of all nodes, of the finished ones, and the last
    rows with their values. A text's j-th continuation within a level has a name of its own; ``first`` rows draw first steps."""
    texts, alive, done, values = [""] * wide, [row < (first or wide) for row in range(wide)], [False] * wide, [NONE] * wide
    nodes, found = [], []
    for number in range(levels):
        seen = {}
        for row in range(wide):
            if alive[row] and not done[row]:
                j = seen[texts[row]] = seen.get(texts[row], -1) + 1
                texts[row] = world.child(texts[row], j)
                values[row], done[row] = world.score(texts[row]), world.ends(texts[row])
                nodes.append(texts[row])
                found += [texts[row]] * done[row]
            elif not alive[row]:
                values[row], done[row] = NONE, False
        parents, alive, state = select(level(values, finished=done, number=number, state=state))
        texts, values, done = ([x[parent] for parent in parents] for x in (texts, values, done))
        if not any(going and not ended for going, ended in zip(alive, done)):
            break
    return nodes, found, [(text, value) for text, value, going in zip(texts, values, alive) if going]


def selected(strategy):
    """A strategy's selection for `replay`."""
    def select(found):
        selection = SELECT(strategy, KEYS, found)
        return (np.asarray(selection.parents)[0].tolist(), np.asarray(selection.alive)[0].tolist(),
                np.asarray(selection.state)[0].tolist())
    return select


@dataclasses.dataclass
class World:
    """A scripted environment of the golden files; each says how it is made."""

    case: dict
    separator: str
    leaf: str
    after: str = ""

    def child(self, text, j):
        if self.separator == ".":
            return f"{text or 'r'}.{j}"
        return f"{text}{self.separator}s{j}{self.after}" if text else f"s{j}{self.after}"

    def score(self, text):
        newest = uniform(self.case["seed"] + "S" + text + ("\n\n" if self.after else ""))
        before = text.rpartition(self.separator)[0]
        return min(newest, self.score(before)) if self.case.get("agg_strategy") == "min" and before else newest

    def ends(self, text):
        steps = text.count(self.after or self.separator) + (self.separator == "/")
        return uniform(self.case["seed"] + ("L" if self.separator == "." else "E") + text) < self.case[self.leaf] or (
            steps >= self.case["max_depth"])


def test_rebase_equals_the_published_search(shared):
    cases = [(case, out) for case, out in golden(shared, "rebase", "search") if case["truncate_ratio"] is None]
    for case, out in cases:
        strategy = Rebase(case["width"], case["temperature"])
        nodes, leaves, _ = replay(selected(strategy), case["width"], World(case, ".", "leaf_prob"), case["max_depth"],
                                  state=case["width"])
        assert sorted(nodes) == sorted(path for path, *_ in out["nodes"] if path != "r")
        assert sorted(leaves) == sorted(path for path, _ in out["answers"])
    assert cases


def test_dvts_equals_the_published_search(shared):
    """search-and-learn emits all candidates of each subtree's last step; the best of them is its answer if it is finished."""
    checked = 0
    for case, out in golden(shared, "search_and_learn", "dvts"):
        world, width = World(case, "\n\n", "eos_prob", "."), case["beam_width"]
        subtrees = case["n"] // width
        if case["lookahead"] == 0 and world.ends(out["pred"]):
            _, _, last = replay(selected(DVTS(subtrees, Beam(1, width))), case["n"], world, case["num_iterations"],
                                state=[0] * subtrees)
            assert {text for text, _ in last} <= set(out["completions"]) and len(last) == subtrees
            assert max(last, key=lambda row: row[1])[0] == out["pred"]
            checked += 1
    assert checked


def test_a_beam_that_finished_paths_leave_equals_the_published_search(shared):
    """search-and-learn stops at n finished solutions; ours goes on, so its are among ours."""
    checked = 0
    for case, out in golden(shared, "search_and_learn", "beam_search"):
        if case["lookahead"] == 0 and case["num_iterations"] > 1 and case["agg_strategy"] != "prod":
            world, width = World(case, "\n\n", "eos_prob", "."), case["beam_width"]
            beam = Beam(case["n"] // width, width, finished="leave", duplicates="allow")
            _, found, _ = replay(selected(beam), case["n"], world, case["num_iterations"], state=0)
            assert set(out["completions"]) <= set(found)
            checked += 1
    assert checked


def test_particle_weights_and_filtering_equal_its_hub(shared):
    """Of particle Gibbs, which is no strategy of ours, the first sweep is particle filtering with its share of the budget."""
    for case, out in golden(shared, "its_hub", "particle_weights"):
        weights = WEIGHTS(np.array([case["scores"]], np.float32))[0]
        np.testing.assert_allclose(weights, out["probabilities"], rtol=1e-4, atol=1e-7)
    cases = [*golden(shared, "its_hub", "particle_filtering"), *golden(shared, "its_hub", "particle_gibbs")]
    assert len(cases) >= 7
    for case, out in cases:
        count, numbers, history = case["budget"] // case["num_iterations"], itertools.count(), []

        def select(found, seed=case["seed"], count=count, numbers=numbers, history=history):
            weights = WEIGHTS(found.values)
            history.append(np.asarray(weights)[0])
            drawn = np.array([uniform(f"{seed}R{next(numbers)}") for _ in range(count)], np.float32)
            return np.asarray(DRAWN(weights, np.stack([drawn] * 2)))[0].tolist(), [True] * count, None

        _, _, last = replay(select, count, World(case, "/", "stop_prob"), 50)
        assert [text for text, _ in last] == out["responses"][0]
        for weights, expected in zip(history, out["softmax_history"]):
            np.testing.assert_allclose(weights, expected["probabilities"], rtol=1e-4, atol=1e-6)
        if case["selection_method"] == "argmax" and case["num_iterations"] == 1:
            assert last[int(np.argmax([value for _, value in last]))][0] == out["selected"]


def test_a_beam_finds_what_its_hub_finds(shared):
    """There ``budget / beam_width`` first steps are drawn, and a finished path is in the beam once for each of its rows, so
    that copies of one can fill it; ours holds it once, and the other places go on: it finds the same or better. Where no path
    ends early the beams are the same."""
    cases = golden(shared, "its_hub", "beam_search")
    for case, out in cases:
        width, expansions = case["beam_width"], case["budget"] // case["beam_width"]
        beam = Beam(width, expansions, duplicates="allow")
        nodes, _, last = replay(selected(beam), case["budget"], World(case, "/", "stop_prob"), 50, state=0, first=expansions)
        text, value = max(last, key=lambda row: row[1])
        if width == 1 or not case["stop_prob"]:
            assert text == out["selected"] and {text for text, _ in last} == set(out["responses"])
            assert len(nodes) == out["prm_scored"]
        np.testing.assert_array_less(max(out["scores"]) - 1e-6, value)
    assert len(cases) >= 5


def test_resampling_follows_the_weights():
    """Systematic: C w particles each, up to rounding; hot: equal shares; cold: the best alone; the unusable never."""
    values = [.9, .6, NONE, .2] * 4
    weights = np.asarray(WEIGHTS(np.array([values], np.float32)))[0]
    hot = Particle(16, temperature=1e6, resampling="systematic")
    for strategy, expected in ((Particle(16, resampling="systematic"), 16 * weights), (hot, [4 / 3, 4 / 3, 0, 4 / 3] * 4)):
        counts = np.bincount(rows(strategy, level(values)), minlength=16)
        assert (np.abs(counts - expected) < 1 + 1e-4).all() and not counts[2::4].any()
    assert set(rows(Particle(16, temperature=1e-3), level([.9, .6, NONE, .2, .95] + [.9] * 11))) == {4}
    assert rows(Particle(16), level([NONE] * 16)) == [None] * 16


def test_a_sampled_answer_follows_the_weights():
    """Odds 1.5 and 1 / 1.5: the first in 9 of 13 cases; at temperature 1/2 in 81 of 97."""
    keys, values = jax.random.split(jax.random.key(0), 2000), np.tile(np.array([.6, .4, NONE], np.float32), (2000, 1))
    for temperature, share in ((1.0, 9 / 13), (0.5, 81 / 97)):
        chosen = np.asarray(Particle(choose="sample", temperature=temperature).rank(keys, values)).argmax(1)
        assert abs((chosen == 0).mean() - share) < 0.04 and (chosen < 2).all()
    assert Particle().rank(keys, values) is values


def test_every_strategy_has_a_name_and_refuses_bad_settings(without_type_checks):
    assert set(STRATEGIES) == {"best_of_n", "greedy", "beam", "dvts", "rebase", "particle", "entropy_branching", "lookahead",
                               "value_guided", "early_rejection", "distinct"}
    for build, field in ((lambda: BestOfN(0), "samples"), (lambda: Greedy(0), "samples"), (lambda: DVTS(0), "subtrees"),
                         (lambda: Rebase(0), "width"), (lambda: Rebase(temperature=0.0), "temperature"),
                         (lambda: Particle(temperature=-1.0), "temperature"),
                         (lambda: Particle(resampling="none"), "resampling"),
                         (lambda: EntropyBranching(2, 3), "branches"), (lambda: EntropyBranching(threshold=-1.0), "threshold"),
                         (lambda: Lookahead(Beam(), 0), "steps"), (lambda: Lookahead(Lookahead(Beam())), "strategy"),
                         (lambda: ValueGuided(Beam(), last=0.0), "mean"), (lambda: EarlyRejection(Beam(), keep=0.0), "keep"),
                         (lambda: EarlyRejection(EarlyRejection(Beam())), "strategy")):
        with pytest.raises(InputError, match=f"field '{field}'"):
            build()
