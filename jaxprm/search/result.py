"""What a search leaves behind: a tree of steps as arrays, the chosen solution of each problem, and what it cost."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.search.searched import Costs

STOPS = ("running", "finished", "steps", "context", "policy_tokens", "reward_tokens", "forwards", "flops", "levels", "seconds",
         "compilations")
"""Why a problem stopped, by code: no path is left to continue (all have ended or were discarded), ``max_steps`` was reached, no
path has room for another step in the models' contexts, or the named limit of the `Budget` was reached."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchTree:
    """Every step that was generated: level i holds the C candidates for step i of each of B problems.

    A finished path that a strategy keeps is a node of every later level of its problem, without new tokens.

    Attributes:
      tokens: int32[B, S, C, L], the step's ids including its separator or end token, padded with 0.
      lengths: int32[B, S, C], 0 = no new step here.
      parents: int32[B, S, C], candidate of level i - 1 that the step continues, -1 at level 0 and where there is no node.
      scores: float32[B, S, C], the reward model's score of the step.
      values: float32[B, S, C], value of the path up to here, by which candidates are compared; -inf where there is no usable
        node.
      kept: bool[B, S, C], survived selection.
      finished: bool[B, S, C], the solution ends here.
      log_probs: float32[B, S, C], sum over the step's tokens under the sampling distribution, nats.
      entropy: float32[B, S, C], mean entropy (nats) of the policy at the step's tokens; 0 for strategies that do not read it.
    """

    tokens: Int[Array | np.ndarray, "B S C L"]
    lengths: Int[Array | np.ndarray, "B S C"]
    parents: Int[Array | np.ndarray, "B S C"]
    scores: Float[Array | np.ndarray, "B S C"]
    values: Float[Array | np.ndarray, "B S C"]
    kept: Bool[Array | np.ndarray, "B S C"]
    finished: Bool[Array | np.ndarray, "B S C"]
    log_probs: Float[Array | np.ndarray, "B S C"]
    entropy: Float[Array | np.ndarray, "B S C"]


@dataclasses.dataclass(frozen=True)
class SearchCosts:
    """What a search cost, per problem; time and compilations are those of the whole call.

    Attributes:
      policy_tokens: int[B], tokens drawn, those of discarded candidates included.
      reward_tokens: int[B], tokens the reward model read: the prompt once, and every new step once.
      policy_forwards, reward_forwards: int[B], forward passes in which a row of the problem took part: one for the prompt;
        the policy's one per token of the longest step of each level, the reward model's one per level.
      flops: float[B], of both models, as `read_flops` counts them.
      seconds: wall time.
      compilations: programs that were compiled for this call.
    """

    policy_tokens: Int[np.ndarray, " B"]
    reward_tokens: Int[np.ndarray, " B"]
    policy_forwards: Int[np.ndarray, " B"]
    reward_forwards: Int[np.ndarray, " B"]
    flops: Float[np.ndarray, " B"]
    seconds: float
    compilations: int

    def of(self, row: int, shares: int) -> Costs:
        """The bill of one of ``shares`` problems that share the wall time; the first one pays for compilations."""
        names = ("policy_tokens", "reward_tokens", "policy_forwards", "reward_forwards")
        counts = (int(getattr(self, name)[row]) for name in names)
        return Costs(*counts, float(self.flops[row]), self.seconds / shares, self.compilations if row == 0 else 0)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for B problems, on the host.

    Attributes:
      tree: all nodes.
      level, candidate: int32[B], the chosen node: the best finished one, else the best of the deepest unfinished ones.
      value: float32[B], its value; -inf where there is no usable node.
      finished: bool[B], whether the chosen solution ended by itself. An unfinished one is never passed off as finished.
      levels: int32[B], levels that were run for the problem.
      stopped: int32[B], why it stopped, an index of `STOPS`.
      costs: what it cost.
    """

    tree: SearchTree
    level: Int[np.ndarray, " B"]
    candidate: Int[np.ndarray, " B"]
    value: Float[np.ndarray, " B"]
    finished: Bool[np.ndarray, " B"]
    levels: Int[np.ndarray, " B"]
    stopped: Int[np.ndarray, " B"]
    costs: SearchCosts

    def stopped_by(self, problem: int) -> str:
        """Why a problem stopped, one of `STOPS`."""
        return STOPS[int(self.stopped[problem])]


def chosen_path(tree: SearchTree, problem: int, level: int, candidate: int) -> list[tuple[int, int]]:
    """(level, candidate) of the nodes from the first step to a node; the tree must be on the host."""
    path = []
    while level >= 0:
        path.append((level, candidate))
        candidate = int(tree.parents[problem, level, candidate])
        level -= 1
    return path[::-1]


def steps_of(tree: SearchTree, problem: int, level: int, candidate: int) -> list[list[int]]:
    """Token ids of each step of the path to a node, as the policy wrote them."""
    nodes = [(problem, *node) for node in chosen_path(tree, problem, level, candidate)]
    return [tree.tokens[node][: tree.lengths[node]].tolist() for node in nodes if tree.lengths[node]]


def chosen_ids(result: SearchResult, problem: int) -> list[int]:
    """Token ids of a problem's chosen solution, as the policy wrote them."""
    return sum(steps_of(result.tree, problem, int(result.level[problem]), int(result.candidate[problem])), [])


def solutions(tree: SearchTree, problem: int) -> list[tuple[int, int]]:
    """(level, candidate) of every path that has ended, the best first; ties in the order in which they were found."""
    values = tree.values[problem]
    ended = np.argwhere(tree.finished[problem] & (tree.lengths[problem] > 0) & (values > -np.inf))
    order = np.argsort(-values[tuple(ended.T)], kind="stable")
    return [(int(level), int(candidate)) for level, candidate in ended[order]]


def best_place(ranked: Float[np.ndarray, "S C"], ended: Bool[np.ndarray, "S C"],
               pool: Bool[np.ndarray, "S C"] | None = None) -> tuple[int, int]:
    """(level, candidate) of a problem's answer: of the candidates that have ended the best, else of the deepest ones the best.

    Args:
      ranked: -inf where there is no candidate; ties go to the one that came first.
      ended: which candidates have ended.
      pool: the candidates to choose among, where there are any.
    """
    usable = ranked > -np.inf
    if not usable.any():
        return len(ranked) - 1, 0  # of no value; a search that ends early has no step there
    if pool is not None and (usable & pool).any():
        usable = usable & pool
    if (usable & ended).any():
        usable = usable & ended
    else:
        usable = usable & (np.arange(len(ranked)) == np.flatnonzero(usable.any(1))[-1])[:, None]
    level, candidate = np.unravel_index(np.argmax(np.where(usable, ranked, -np.inf)), ranked.shape)
    return int(level), int(candidate)
