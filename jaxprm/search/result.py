"""What a search leaves behind: a tree of steps as arrays, the chosen solution of each problem, and what it cost."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchTree:
    """Every step that was generated: level i holds the C candidates for step i of each of B problems.

    Attributes:
      tokens: int32[B, S, C, L], the step's ids including its separator or end token, padded with 0.
      lengths: int32[B, S, C], 0 = no node here.
      parents: int32[B, S, C], candidate of level i - 1 that the step continues, -1 at level 0.
      scores: float32[B, S, C], the reward model's score of the step.
      values: float32[B, S, C], aggregated score of the path up to here; -inf where there is no usable node.
      kept: bool[B, S, C], survived selection.
      finished: bool[B, S, C], the solution ends here.
    """

    tokens: Int[Array | np.ndarray, "B S C L"]
    lengths: Int[Array | np.ndarray, "B S C"]
    parents: Int[Array | np.ndarray, "B S C"]
    scores: Float[Array | np.ndarray, "B S C"]
    values: Float[Array | np.ndarray, "B S C"]
    kept: Bool[Array | np.ndarray, "B S C"]
    finished: Bool[Array | np.ndarray, "B S C"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for B problems.

    Attributes:
      tree: all nodes.
      level, candidate: int32[B], the chosen node: the best finished one, else the best unfinished one.
      value: float32[B], its value.
      finished: bool[B], whether the chosen solution ended by itself. An unfinished one is never passed off as finished.
      policy_tokens: int32[B], tokens drawn, those of discarded candidates included.
      reward_tokens: int32[B], tokens the reward model read: the prompt once, and every new step once.
      levels: int32[], levels that were run.
    """

    tree: SearchTree
    level: Int[Array | np.ndarray, " B"]
    candidate: Int[Array | np.ndarray, " B"]
    value: Float[Array | np.ndarray, " B"]
    finished: Bool[Array | np.ndarray, " B"]
    policy_tokens: Int[Array | np.ndarray, " B"]
    reward_tokens: Int[Array | np.ndarray, " B"]
    levels: Int[Array | np.ndarray, ""]


def chosen_path(tree: SearchTree, problem: int, level: int, candidate: int) -> list[tuple[int, int]]:
    """(level, candidate) of the nodes from the first step to a node; the tree must be on the host (`jax.device_get`)."""
    path = []
    while level >= 0:
        path.append((level, candidate))
        candidate = int(tree.parents[problem, level, candidate])
        level -= 1
    return path[::-1]


def chosen_ids(result: SearchResult, problem: int) -> list[int]:
    """Token ids of a problem's chosen solution, as the policy wrote them; the result must be on the host."""
    tree = result.tree
    ids: list[int] = []
    for level, candidate in chosen_path(tree, problem, int(result.level[problem]), int(result.candidate[problem])):
        ids += tree.tokens[problem, level, candidate, : tree.lengths[problem, level, candidate]].tolist()
    return ids
