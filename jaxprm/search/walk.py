"""How a tree search moves: selection and backup on the numbers of one problem's tree, without any model.

A tree is arrays over nodes, as in mctx; node 0 is the prompt, and the M children of a node stand side by side:

    first_child  [1, -1, 4, -1, -1, -1, -1]      M = 3: node 0 has children 1 2 3, node 2 has 4 5 6
    parents      [-1, 0, 0, 0, 2, 2, 2]
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.search.bounds import Children
from jaxprm.search.variants import TO_THE_END, TreeVariant


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NodeStats:
    """What selection reads and backup writes.

    Attributes:
      parents: int32[N], -1 for the prompt and where there is no node.
      first_child: int32[N], -1 = has not been expanded.
      values: float32[N], what the node is worth by itself, in the variant's scale; 0 for the prompt.
      priors: float32[N].
      visits: int32[N], values brought back through the node.
      means: float32[N], the node's worth by what was brought back; its own value before that.
      usable: bool[N], the step has ended and is not a copy of a sibling.
      ended: bool[N], the solution ends here.
      final: bool[N], no step can follow: the solution has ended, or has no step or no room left.
      closed: bool[N], nothing is left to find here.
    """

    parents: Int[Array | np.ndarray, "*B N"]
    first_child: Int[Array | np.ndarray, "*B N"]
    values: Float[Array | np.ndarray, "*B N"]
    priors: Float[Array | np.ndarray, "*B N"]
    visits: Int[Array | np.ndarray, "*B N"]
    means: Float[Array | np.ndarray, "*B N"]
    usable: Bool[Array | np.ndarray, "*B N"]
    ended: Bool[Array | np.ndarray, "*B N"]
    final: Bool[Array | np.ndarray, "*B N"]
    closed: Bool[Array | np.ndarray, "*B N"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Walk:
    """Where a problem's simulation stands.

    Attributes:
      at: int32[], the node; the one to expand next if the search has not ``stopped``.
      fresh: int32[], the node that this simulation expanded first, -1 = none yet.
      level: int32[], levels below it.
      best_child: int32[], its child on the way, -1 = none yet.
      seen: float32[], best mean met below that child.
      moves, simulations: int32[], counted from the start.
      stopped: bool[], no simulation is left.
    """

    at: Int[Array | np.ndarray, "*B"]
    fresh: Int[Array | np.ndarray, "*B"]
    level: Int[Array | np.ndarray, "*B"]
    best_child: Int[Array | np.ndarray, "*B"]
    seen: Float[Array | np.ndarray, "*B"]
    moves: Int[Array | np.ndarray, "*B"]
    simulations: Int[Array | np.ndarray, "*B"]
    stopped: Bool[Array | np.ndarray, "*B"]


def empty_stats(nodes: int) -> NodeStats:
    """A prompt and room for ``nodes - 1`` steps."""
    none, zero, false = jnp.full((nodes,), -1, jnp.int32), jnp.zeros((nodes,), jnp.int32), jnp.zeros((nodes,), bool)
    worth = jnp.zeros((nodes,))
    return NodeStats(none, none, worth, worth, zero, worth, false, false, false, false)


def first_walk() -> Walk:
    """A simulation that stands at the prompt."""
    zero, none = jnp.int32(0), jnp.int32(-1)
    return Walk(zero, none, zero, none, jnp.float32(-jnp.inf), zero, zero, jnp.asarray(False))


def ancestors(parents: Int[Array, " N"], node: Int[Array, ""], steps: int) -> Int[Array, " A"]:
    """The node and all above it, A = steps + 1 places, -1 behind the prompt.

    In:  parents [-1, 0, 0, 2], node 3, steps 3
    Out: [3, 2, 0, -1]
    """

    def up(node, _):
        return jnp.where(node < 0, -1, parents[node]), node

    return jax.lax.scan(up, node, length=steps + 1)[1]


def bring_back(stats: NodeStats, node: Int[Array, ""], value: Float[Array, ""], steps: int) -> NodeStats:
    """Counts a visit of the node and of all above it, and takes the value into their means."""
    path = ancestors(stats.parents, node, steps)
    path = jnp.where(path < 0, stats.parents.shape[0], path)  # out of range: dropped
    visits = stats.visits.at[path].add(1, mode="drop")
    mean = stats.means + (value - stats.means) / jnp.maximum(visits, 1)
    on_path = jnp.zeros_like(stats.usable).at[path].set(True, mode="drop")
    return dataclasses.replace(stats, visits=visits, means=jnp.where(on_path, mean, stats.means))


def bring_back_means(stats: NodeStats, node: Int[Array, ""], branch: int, steps: int) -> NodeStats:
    """Counts a visit of the node and of all above it; from the node up, means become those of the children by visits."""
    path = ancestors(stats.parents, node, steps)

    def up(carry, node):
        visits, means = carry
        children = jnp.maximum(stats.first_child[node], 0) + jnp.arange(branch)
        weights = jnp.where(stats.first_child[node] >= 0, visits[children], 0)
        total = weights.sum()
        mean = jnp.where(total > 0, (weights * means[children]).sum() / jnp.maximum(total, 1), means[node])
        place = jnp.where(node < 0, visits.shape[0], node)
        return (visits.at[place].add(1, mode="drop"), means.at[place].set(mean, mode="drop")), None

    (visits, means), _ = jax.lax.scan(up, (stats.visits, stats.means), path)
    return dataclasses.replace(stats, visits=visits, means=means)


def bring_back_ended(stats: NodeStats, node: Int[Array, ""], variant: TreeVariant, branch: int, steps: int) -> NodeStats:
    """For variants that close: children of a node just expanded that go no further bring their values back."""
    for child in range(branch):
        at = stats.first_child[node] + child
        over = stats.usable[at] & (stats.first_child[node] >= 0) & stats.final[at]
        new = bring_back(stats, at, _worth(stats, at, variant, ~stats.ended[at]), steps)
        new = dataclasses.replace(new, closed=new.closed.at[at].set(True))
        stats = _either(over, new, stats)
    return stats


def advance(stats: NodeStats, walk: Walk, key: jax.Array, variant: TreeVariant, *, branch: int, steps: int,
            simulations: int) -> tuple[NodeStats, Walk]:
    """Moves on until a node must be expanded (``walk.at``) or the search for this problem has stopped.

    All of it is arithmetic on the tree: simulations that meet only known nodes cost no model call.

    Args:
      key: of random choices.
      branch: M, children per node.
      steps: no node is deeper.
      simulations: after so many the search stops.
    """

    def going(carry):
        stats, walk = carry
        known = stats.final[walk.at] | (stats.first_child[walk.at] >= 0) | _far(walk, variant)
        return ~walk.stopped & known

    def body(carry):
        stats, walk = carry
        open_children, far = _open_children(stats, walk.at, branch), _far(walk, variant)
        stuck = (stats.first_child[walk.at] >= 0) & ~open_children.any() & ~far
        arrived = stats.final[walk.at] | stuck | far
        there = _finish(stats, walk, stuck, variant, branch, steps, simulations)
        on_the_way = stats, _move(stats, walk, open_children, key, variant, simulations)
        return _either(arrived, there, on_the_way)

    return jax.lax.while_loop(going, body, (stats, walk))


def _either(condition: Bool[Array, ""], one, other):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def _far(walk: Walk, variant: TreeVariant) -> Bool[Array, ""]:
    if variant.levels == TO_THE_END:
        return jnp.asarray(False)
    return (walk.fresh >= 0) & (walk.level >= variant.levels)


def _open_children(stats: NodeStats, node: Int[Array, ""], branch: int) -> Bool[Array, " M"]:
    children = jnp.maximum(stats.first_child[node], 0) + jnp.arange(branch)
    return stats.usable[children] & ~stats.closed[children]


def _worth(stats: NodeStats, node: Int[Array, ""], variant: TreeVariant, unfinished: Bool[Array, ""]) -> Float[Array, ""]:
    """What a solution that stops at the node brings back."""
    if variant.unfinished is None:
        return stats.values[node]
    return jnp.where(unfinished, variant.unfinished, stats.values[node])


def _move(stats: NodeStats, walk: Walk, open_children: Bool[Array, " M"], key: jax.Array, variant: TreeVariant,
          simulations: int) -> Walk:
    """One level down, to the child that the bound (or, below the first new node, ``variant.follow``) says."""
    at = jnp.maximum(stats.first_child[walk.at], 0) + jnp.arange(open_children.shape[0])
    below = walk.fresh >= 0
    children = Children(stats.visits[walk.at], stats.visits[at], stats.means[at], stats.priors[at],
                        walk.simulations.astype(jnp.float32) / simulations)
    wish = variant.bound(children)
    if variant.follow == "best":
        wish = jnp.where(below, stats.means[at], wish)
    elif variant.follow == "random":
        wish = jnp.where(below, jax.random.uniform(jax.random.fold_in(key, walk.moves), wish.shape), wish)
    child = at[jnp.argmax(jnp.where(open_children, wish, -jnp.inf))]
    level = walk.level + below
    return dataclasses.replace(
        walk, at=child, level=level, best_child=jnp.where(below & (level == 1), child, walk.best_child),
        seen=jnp.where(level >= 2, jnp.maximum(walk.seen, stats.means[child]), walk.seen), moves=walk.moves + 1)


def _finish(stats: NodeStats, walk: Walk, stuck: Bool[Array, ""], variant: TreeVariant, branch: int, steps: int,
            simulations: int) -> tuple[NodeStats, Walk]:
    """Brings a value back from where the simulation has arrived; the next one starts at the prompt."""
    node = walk.at
    enough = jnp.asarray(False)
    if variant.enough is not None:
        enough = (walk.fresh < 0) & stats.ended[node] & (stats.values[node] >= variant.enough)
    if variant.mix is not None:
        new = _mixed(stats, walk, variant.mix)
        new = bring_back_means(new, jnp.where(walk.fresh < 0, node, walk.fresh), branch, steps)
    else:
        unfinished = stuck | (stats.final[node] & ~stats.ended[node])
        new = bring_back(stats, node, _worth(stats, node, variant, unfinished), steps)
    if variant.closes:
        # Nothing is left below: the node is closed, and this simulation brings nothing back.
        close = dataclasses.replace(stats, closed=stats.closed.at[node].set(True))
        new = _either(stuck, close, new)
    if variant.enough is not None:
        new = _either(enough, stats, new)
    done = walk.simulations + 1
    stopped = (done >= simulations) | enough | (stuck & (node == 0))
    start = first_walk()
    return new, dataclasses.replace(start, moves=walk.moves, simulations=done, stopped=stopped)


def _mixed(stats: NodeStats, walk: Walk, mix: float) -> NodeStats:
    """The best new child takes in what was seen below it, and counts as visited."""
    child = jnp.where(walk.best_child < 0, stats.means.shape[0], walk.best_child)
    own = stats.means[walk.best_child]
    mean = jnp.where(jnp.isfinite(walk.seen), own * (1 - mix) + walk.seen * mix, own)
    return dataclasses.replace(stats, means=stats.means.at[child].set(mean, mode="drop"),
                               visits=stats.visits.at[child].add(1, mode="drop"))


@dataclasses.dataclass(frozen=True)
class TreeWalk:
    """Monte-Carlo tree search as a `Walker`: simulations of a variant, ``branch`` children for each node that they expand."""

    variant: TreeVariant
    branch: int
    simulations: int

    def first(self) -> Walk:
        return first_walk()

    def width(self, walk: Walk) -> Int[Array, ""]:
        return jnp.int32(self.branch)

    def open(self, stats: NodeStats, walk: Walk) -> Bool[Array, " N"]:
        return (stats.first_child < 0) & ~stats.closed

    def go_on(self, stats: NodeStats, walk: Walk, key: jax.Array, steps: int) -> tuple[NodeStats, Walk]:
        if self.variant.closes:
            stats = bring_back_ended(stats, walk.at, self.variant, self.branch, steps)
        walk = dataclasses.replace(walk, fresh=jnp.where(walk.fresh < 0, walk.at, walk.fresh))
        return advance(stats, walk, key, self.variant, branch=self.branch, steps=steps, simulations=self.simulations)
