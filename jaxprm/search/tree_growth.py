"""How a tree grows: a node per problem gets its children, and a `Walker` goes on to the next; arithmetic without any model.

Nothing here chooses: what the children's scores lead to is the walker's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxprm.scoring.aggregation import Aggregation, aggregate
from jaxprm.search.growth import Candidates, Steps, no_steps, put_nodes
from jaxprm.search.nodes import NodeTree
from jaxprm.search.walk import NodeStats, ancestors, empty_stats


@runtime_checkable
class Walker(Protocol):
    """Which node is expanded next, for one problem at a time. A walk is a pytree with ``at`` int32[], the node to expand, and
    ``stopped`` bool[]."""

    @property
    def branch(self) -> int:
        """M, children that a turn can draw."""
        ...

    def first(self) -> Any:
        """The walk at the prompt, which is expanded first."""
        ...

    def width(self, walk) -> Int[Array, ""]:
        """How many of the M children are drawn."""
        ...

    def go_on(self, stats: NodeStats, walk, key: jax.Array, steps: int) -> tuple[NodeStats, Any]:
        """Numbers and walk after ``walk.at`` was expanded; no node is deeper than ``steps``."""
        ...

    def open(self, stats: NodeStats, walk) -> Bool[Array, " N"]:
        """Of the usable nodes that a step can follow, those that may still be expanded."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeNumbers:
    """What is known of B trees between turns."""

    steps: Steps
    stats: NodeStats
    walk: Any

    @property
    def stopped(self) -> Array | np.ndarray:
        return self.walk.stopped

    def tree(self) -> NodeTree:
        """The same as a result; numbers that lie on the host."""
        steps, stats = self.steps, self.stats
        return NodeTree(steps.tokens, steps.lengths, stats.parents, steps.scores, steps.values, stats.first_child >= 0,
                        stats.ended, steps.log_probs)


@dataclasses.dataclass(frozen=True)
class TreeGrowth:
    """A `Growth` of trees that a walker walks; the first key of a turn is the walker's.

    Attributes:
      walker: who walks.
      turns: how many nodes are expanded at most.
      max_steps: no node is deeper.
      aggregation: a node's value from the step scores of its path.
      signed: nodes are worth 2 v - 1 to the walker, with v the aggregated score of the path.
      normalised: a child's prior is the softmax of mean token log-probabilities over its siblings; else its own exp(mean).
      first_visit: children start with one visit.
    """

    walker: Walker
    turns: int
    max_steps: int
    aggregation: Aggregation
    signed: bool = False
    normalised: bool = False
    first_visit: bool = False

    first_key: ClassVar[int] = 1
    siblings: ClassVar[bool] = True

    @property
    def width(self) -> int:
        return self.walker.branch

    def first(self, problems: int, room: int) -> TreeNumbers:
        nodes = 1 + self.turns * self.width
        everywhere = lambda value: jnp.broadcast_to(value, (problems, *jnp.shape(value)))  # noqa: E731
        return TreeNumbers(no_steps(problems, nodes, room), jax.tree.map(everywhere, empty_stats(nodes)),
                           jax.tree.map(everywhere, self.walker.first()))

    def plan(self, numbers: TreeNumbers, active: Bool[Array, " B"]) -> tuple[Int[Array, "B D"], Bool[Array, "B D"]]:
        drawing = active[:, None] & (jnp.arange(self.width) < jax.vmap(self.walker.width)(numbers.walk)[:, None])
        return jnp.broadcast_to(numbers.walk.at[:, None], drawing.shape), drawing

    def path(self, numbers: TreeNumbers) -> Int[Array, "B A"]:
        """The path to each node to be expanded, from the first step down; A = ``max_steps`` places, -1 behind its end.

        In:  a node of depth 2, whose ancestors are [5, 2, 0, -1]
        Out: [2, 5, -1]
        """
        leaf, most = numbers.walk.at, self.max_steps
        upwards = jax.vmap(lambda parents, node: ancestors(parents, node, most))(numbers.stats.parents, leaf)
        depth, place = jnp.take_along_axis(numbers.steps.depth, leaf[:, None], axis=1), jnp.arange(most)
        downwards = jnp.take_along_axis(upwards, jnp.maximum(depth - 1 - place, 0), axis=1)
        return jnp.where(place < depth, downwards, -1)

    def grow(self, numbers: TreeNumbers, turn: Int[Array, ""], keys: jax.Array, active: Bool[Array, " B"],
             found: Candidates) -> TreeNumbers:
        """The children of ``walk.at`` for every active problem, and the walk from there."""
        steps, old, leaf, first = numbers.steps, numbers.stats, numbers.walk.at, 1 + turn * self.width
        path, place = self.path(numbers), jnp.arange(self.max_steps)
        depth = jnp.take_along_axis(steps.depth, leaf[:, None], axis=1)
        so_far = jnp.where(path < 0, 0, jnp.take_along_axis(steps.scores, jnp.maximum(path, 0), axis=1))
        scores = jnp.where(place == depth[..., None], found.scores[..., None], so_far[:, None])
        worth = aggregate(scores, place < depth[..., None] + found.scored[..., None], self.aggregation)
        values = jnp.where(found.usable, 2 * worth - 1 if self.signed else worth, 0.0)
        mean_log_probs = found.log_probs / jnp.maximum(found.lengths, 1)
        priors = jax.nn.softmax(mean_log_probs, where=found.usable, axis=1) if self.normalised else jnp.exp(mean_log_probs)

        put = functools.partial(put_nodes, first=first)
        sources, drawing = self.plan(numbers, active)
        deeper = jnp.broadcast_to(depth + 1, drawing.shape)
        first_child = jax.vmap(lambda row, node, go: row.at[node].set(jnp.where(go, first, row[node])))(
            old.first_child, leaf, active)
        stats = NodeStats(
            parents=put(old.parents, new=jnp.where(drawing, sources, -1)), first_child=first_child,
            values=put(old.values, new=values), priors=put(old.priors, new=jnp.where(found.usable, priors, 0.0)),
            visits=put(old.visits, new=found.usable & self.first_visit), means=put(old.means, new=values),
            usable=put(old.usable, new=found.usable), ended=put(old.ended, new=found.ended),
            final=put(old.final, new=found.ended | (deeper >= self.max_steps) | found.full), closed=old.closed)
        # A problem that has stopped walks on from nothing new; what comes of it is dropped.
        of_turn = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, turn), 0))(keys)
        walked = jax.vmap(functools.partial(self.walker.go_on, steps=self.max_steps))(stats, numbers.walk, of_turn)
        stats, walk = jax.tree.map(lambda new, old: jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old), walked,
                                   (stats, numbers.walk))
        return TreeNumbers(steps.put(first, deeper, worth, found), stats, walk)

    def open(self, numbers: TreeNumbers) -> Bool[Array, "B N"]:
        stats = numbers.stats
        return stats.usable & ~stats.final & jax.vmap(self.walker.open)(stats, numbers.walk)
