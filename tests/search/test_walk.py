"""How tree searches move, on trees without models: against plain recursive code of each system, and by hand."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.search.variants import VARIANTS
from jaxprm.search.walk import NodeStats, TreeWalk, ancestors, empty_stats

BRANCH, STEPS = 3, 4


@dataclasses.dataclass
class Node:
    """A node of the plain code; ``game(name)`` says what its children are."""

    name: str
    value: float = 0.0
    prior: float = 0.0
    usable: bool = True
    ended: bool = False
    parent: "Node | None" = None
    children: "list[Node] | None" = None
    visits: int = 0
    total: float = 0.0  # sum of values brought back, or V of ReST-MCTS*
    closed: bool = False

    @property
    def depth(self):
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def final(self):
        return self.ended or self.depth >= STEPS

    @property
    def mean(self):
        return self.total / self.visits


class OutOfBudget(Exception):
    pass


class Plain:
    """Tree search as the published code does it: objects, recursion, float64."""

    def __init__(self, name, game, simulations, expansions, draws):
        self.name, self.game, self.simulations, self.limit, self.draws = name, game, simulations, expansions, draws
        self.root, self.order, self.done, self.moves = Node(""), [], 0, 0
        self.signed = VARIANTS[name].signed

    def run(self):
        stopped = False
        try:
            while self.done < self.simulations and not stopped:
                stopped = getattr(self, self.name)()
                self.done += 1
        except OutOfBudget:
            pass
        return self

    def expand(self, node):
        if len(self.order) == self.limit:
            raise OutOfBudget
        self.order.append(node)
        node.children = []
        for index, (value, prior, usable, ended) in enumerate(self.game(node.name)):
            value = 2 * value - 1 if self.signed else value
            node.children.append(Node(f"{node.name}/{index}", value, prior, usable, ended, node))

    def usable(self, node):
        return [child for child in node.children if child.usable]

    def back(self, node, value):
        while node is not None:
            node.visits, node.total, node = node.visits + 1, node.total + value, node.parent

    def puct_openr(self):
        node = self.root
        while not node.final:
            if node.children is None:
                self.expand(node)
            if not self.usable(node):
                break
            def score(c):
                scale = math.log((c.parent.visits + 19653) / 19652) + 1.25
                return (c.mean if c.visits else c.value) + scale * math.sqrt(c.parent.visits) / (1 + c.visits) * c.prior
            node = max(self.usable(node), key=score)
            self.moves += 1
        self.back(node, node.value)

    def uct_rstar(self):
        node, fresh = self.root, False
        while not node.final:
            if node.children is None:
                self.expand(node)
                fresh = True
            children = self.usable(node)
            if not children:
                break
            if fresh:
                draws = self.draws(len(self.order) - 1, self.moves)
                node = max(children, key=lambda c: draws[int(c.name[-1])])
            elif any(not c.visits for c in children):
                node = next(c for c in children if not c.visits)
            else:
                node = max(children, key=lambda c: c.mean + 2 * math.sqrt(math.log(c.parent.visits) / c.visits))
            self.moves += 1
        self.back(node, node.value if node.ended else 0.0)

    def uct_rstar_math(self):
        node = self.root
        while not node.final:
            if node.children is None:
                self.expand(node)
                for child in node.children:
                    child.visits, child.total = int(child.usable), child.value
            if not self.usable(node):
                break
            log = math.log(max(node.visits, 1))
            node = max(self.usable(node), key=lambda c: c.mean + 2 * math.sqrt(log / c.visits))
            self.moves += 1
        self.back(node, node.value if node.ended else -1.0)

    def puct_alphamath(self):
        node = self.root
        while node.children is not None:
            open_ = [c for c in self.usable(node) if not c.closed]
            if not open_:
                node.closed = True
                return node is self.root
            def score(c):
                return (c.mean if c.visits else 0) + 1.5 * c.prior * math.sqrt(c.parent.visits) / (1 + c.visits)
            node = max(open_, key=score)
        self.expand(node)
        for child in self.usable(node):
            if child.final:
                child.closed = True
                self.back(child, child.value if child.ended else -1.0)
        self.back(node, node.value)
        return False

    def uct_rest_mcts(self):
        node = self.root
        while node.children and self.usable(node):
            def score(c):
                return c.value + (0.7 * math.sqrt(2 * math.log(c.parent.visits) / c.visits) if c.visits else 1.0)
            node = max(self.usable(node), key=score)
        if node.ended and node.value >= 0.9:
            return True
        if not node.final and node.children is None:
            self.expand(node)
            if self.usable(node):
                roll = at = max(self.usable(node), key=lambda c: c.value)
                seen = []
                for _ in range(3):
                    if at.final:
                        break
                    self.expand(at)
                    if not self.usable(at):
                        break
                    at = max(self.usable(at), key=lambda c: c.value)
                    seen.append(at.value)
                if seen:
                    roll.value = 0.5 * roll.value + 0.5 * max(seen)
                roll.visits += 1
        while node is not None:
            node.visits += 1
            visits = sum(c.visits for c in node.children or [])
            if visits:
                node.value = sum(c.value * c.visits for c in node.children) / visits
            node = node.parent
        return False


def random_game(seed):
    def game(name):
        rng = np.random.default_rng([seed, *name.encode()])
        value, prior = rng.uniform(0.05, 0.95, BRANCH), rng.dirichlet(np.ones(BRANCH))
        usable, ended = rng.uniform(size=BRANCH) < 0.85, rng.uniform(size=BRANCH) < 0.3
        return list(zip(value.tolist(), prior.tolist(), usable.tolist(), (ended & usable).tolist()))
    return game


@functools.cache
def program(walker, steps):
    return jax.jit(functools.partial(walker.go_on, steps=steps))


def walk_through(variant, game, simulations, expansions, branch=BRANCH, steps=STEPS):
    """A search with children from ``game`` in place of models: stats, names of nodes, expanded nodes in order, the walk."""
    walker = TreeWalk(variant, branch, simulations)
    stats, walk = empty_stats(1 + expansions * branch), walker.first()
    arrays = {name: np.array(value) for name, value in vars(stats).items()}
    names, order = {0: ""}, []
    for turn in range(expansions):
        at, first = int(walk.at), 1 + turn * branch
        order.append(names[at])
        arrays["first_child"][at] = first
        for index, (value, prior, usable, ended) in enumerate(game(names[at])):
            node = first + index
            names[node] = f"{names[at]}/{index}"
            value = (2 * value - 1 if variant.signed else value) * usable
            final = ended or names[node].count("/") >= steps
            for field, new in (("parents", at), ("values", value), ("means", value), ("priors", prior), ("usable", usable),
                               ("ended", ended), ("final", final), ("visits", usable and variant.first_visit)):
                arrays[field][node] = new
        stats, walk = program(walker, steps)(NodeStats(**arrays), walk, jax.random.key(turn))
        arrays = {name: np.array(value) for name, value in vars(stats).items()}
        if walk.stopped:
            break
    return NodeStats(**arrays), names, order, walk


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_plain_code(name):
    """Random trees with dead ends and copies: the same nodes are expanded in the same order, with the same visits and means."""
    draws = lambda turn, move: np.asarray(jax.random.uniform(jax.random.fold_in(jax.random.key(turn), move), (BRANCH,)))  # noqa: E731
    most = 0
    for seed in range(12):
        plain = Plain(name, random_game(seed), 12, 6, draws).run()
        stats, names, order, walk = walk_through(VARIANTS[name], random_game(seed), 12, 6)
        assert order == [node.name for node in plain.order]
        nodes = {node.name: node for parent in plain.order for node in parent.children} | {"": plain.root}
        most = max(most, len(order))
        for index, label in names.items():
            node = nodes[label]
            assert stats.visits[index] == node.visits, (seed, label)
            if node.visits:
                mean = node.value if name == "uct_rest_mcts" else node.mean
                np.testing.assert_allclose(stats.means[index], mean, atol=2e-5, err_msg=f"{seed} {label}")
        if len(order) < 6:  # not cut off in the middle of a simulation
            assert int(walk.simulations) == plain.done and bool(walk.stopped)
    assert most == 6


SMALL = {"": [("a", 0.9), ("b", 0.7)], "/0": [("a1", 0.3), ("a2", 0.2)], "/1": [("b1", 0.6), ("copy", 0.6)]}


def small_game(name):
    """a .9 -> a1 .3, a2 .2; b .7 -> b1 .6 (sampled twice). Priors are equal among siblings."""
    children = SMALL[name]
    return [(value, 1.0 if label == "b1" else 0.5, label != "copy", len(label) == 2) for label, value in children]


@pytest.mark.parametrize("name, simulations, visits, means", [
    # 1: a (.9 > .7), a1: .3        2: a .3 + 1.25/2 * .5 = .61, b .7 + 1.25 * .5 = 1.33: b, b1: .6
    # 3: sqrt 2: a .74, b 1.04: b   4: sqrt 3: a .84, b .96: b
    # 5: sqrt 4: a .925, b .9125: a, there a1 .3 + 1.25/2 * .5 = .61, a2 .2 + 1.25 * .5 = .83: a2, .2
    ("puct_openr", 5, dict(root=5, a=2, b=3, a1=1, a2=1, b1=3), dict(root=0.46, a=0.25, b=0.6)),
    # 1: the prompt, 0.   2: a, with a1 -.4, a2 -.6 and its own .8: means a -.2/3, root -.05 after 4
    # 3: a -.067 + .75 * 2/4 = .31, b .75 * 2 = 1.5: b, with b1 .2 and its own .4
    # 4: a .39, b .3 + .75 * 2.45/3 = .91: nothing is left below b. 5: nor below a. 6: nor at all.
    ("puct_alphamath", 9, dict(root=6, a=3, b=2, a1=1, a2=1, b1=1), dict(root=0.4 / 6, a=-0.2 / 3, b=0.3)),
    # 1: the prompt; ahead a, a1: a = (.9 + .3)/2 = .6        2: a .6, b .7 + 1: b; b1 is the best there
    # 3: a and b both .6 + .7 sqrt(2 ln 2): a, then a1 .3 + 1 before a2: a is the mean of what was visited there, .3
    ("uct_rest_mcts", 3, dict(root=3, a=2, b=1, a1=1, a2=0, b1=1), dict(root=0.4, a=0.3, b=0.6)),
])
def test_by_hand(name, simulations, visits, means):
    stats, names, _, walk = walk_through(VARIANTS[name], small_game, simulations, 3, branch=2, steps=3)
    label = lambda node: SMALL[names[node][:-2]][int(names[node][-1])][0] if node else "root"  # noqa: E731
    found = {label(node): node for node in names}
    assert {key: int(stats.visits[found[key]]) for key in visits} == visits
    np.testing.assert_allclose([stats.means[found[key]] for key in means], list(means.values()), atol=1e-5)
    assert walk.stopped and walk.simulations == (6 if name == "puct_alphamath" else simulations)


def test_a_solution_worth_enough_ends_the_search():
    """ReST-MCTS* with an end worth .3 enough: the third simulation arrives at a1 and stops, and brings nothing back."""
    variant = dataclasses.replace(VARIANTS["uct_rest_mcts"], enough=0.3)
    stats, _, _, walk = walk_through(variant, small_game, 9, 3, branch=2, steps=3)
    assert walk.stopped and walk.simulations == 3 and stats.visits[0] == 2


def test_a_prompt_without_usable_steps_stops():
    stats, _, order, walk = walk_through(VARIANTS["puct_openr"], lambda name: [(0.5, 0.5, False, False)] * 2, 9, 3, branch=2)
    assert walk.stopped and order == [""] and walk.simulations == 1


def test_ancestors_worked_example():
    parents = jnp.asarray([-1, 0, 0, 2], jnp.int32)
    assert ancestors(parents, jnp.int32(3), 3).tolist() == [3, 2, 0, -1]
