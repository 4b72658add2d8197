"""What searches leave behind whose paths do not grow level by level: a flat list of nodes per problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.models.reward_model import RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.records import Problem
from jaxprm.scoring.aggregation import Aggregation
from jaxprm.search.growth import Growth
from jaxprm.search.result import SearchCosts
from jaxprm.search.searched import Answered, Node, Searched, tree_warnings


NODE_STRATEGIES: dict[str, type[NodeStrategy]] = {}
"""Name -> class of every strategy whose searches leave nodes, filled as the classes are defined."""


class NodeStrategy:
    """Base of strategies that do not work level by level: frozen dataclasses, static in a compiled search. Subclasses with a
    ``name`` enter `NODE_STRATEGIES`; ``entropies`` and ``lookahead`` are those of level strategies."""

    name: ClassVar[str] = ""
    entropies: ClassVar[bool] = False
    lookahead: ClassVar[int] = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.name:
            NODE_STRATEGIES[cls.name] = cls

    def growth(self, max_steps: int, aggregation: Aggregation) -> Growth:
        """How its trees grow, whoever writes and reads the steps."""
        raise NotImplementedError

    def result(self, numbers, why: Sequence[str], costs: SearchCosts) -> NodeResult:
        """The outcome: from the numbers of its `growth`, on the host, and why each problem stopped, as `why_stopped` says it
        ("turns" = as many as there can be)."""
        raise NotImplementedError

    def search(self, policy: LanguageModel, reward_model: RewardModel, key: jax.Array, prompts: Int[Array | np.ndarray, "B P"],
               lengths: Int[Array | np.ndarray, " B"], **settings: Any) -> NodeResult:
        """Searches B problems in one compiled program; ``settings`` are the keyword arguments of `tree_search`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class NodeTree:
    """The trees of B problems, on the host; node 0 is the prompt, nodes stand in the order in which they were sampled.

    Attributes:
      tokens: int32[B, N, L], the step's ids including its separator or end token, padded with 0.
      lengths: int32[B, N], 0 = no node here (and for the prompt).
      parents: int32[B, N], -1 for the prompt and where there is no node.
      scores: float32[B, N], the reward model's score of the step; 0 where it read none: a step that did not end, that says the
        same as a sibling sampled with it, or a bare end token.
      values: float32[B, N], aggregated score of the path up to here; -inf where there is no usable node.
      kept: bool[B, N], the search went on from here.
      finished: bool[B, N], the solution ends here.
      log_probs: float32[B, N], sum over the step's tokens under the sampling distribution, nats.
    """

    tokens: Int[np.ndarray, "B N L"]
    lengths: Int[np.ndarray, "B N"]
    parents: Int[np.ndarray, "B N"]
    scores: Float[np.ndarray, "B N"]
    values: Float[np.ndarray, "B N"]
    kept: Bool[np.ndarray, "B N"]
    finished: Bool[np.ndarray, "B N"]
    log_probs: Float[np.ndarray, "B N"]

    def path(self, problem: int, node: int) -> list[int]:
        """Nodes from the first step to a node."""
        path = []
        while node > 0:
            path.append(node)
            node = int(self.parents[problem, node])
        return path[::-1]

    def steps(self, problem: int, node: int) -> list[list[int]]:
        """Token ids of each step of the path to a node, as the policy wrote them."""
        return [self.tokens[problem, at, : self.lengths[problem, at]].tolist() for at in self.path(problem, node)]

    def solutions(self, problem: int) -> list[int]:
        """Nodes at which a solution ends, the best first; ties in the order in which they were found."""
        ended = np.flatnonzero(self.finished[problem])
        return ended[np.argsort(-self.values[problem, ended], kind="stable")].tolist()


@dataclasses.dataclass(frozen=True)
class Said:
    """What a node says: its text without the separator, and the tokens drawn for it; ``cut``: the step did not end; ``bare``:
    it is an end without a step."""

    text: str
    tokens: int
    cut: bool
    bare: bool


@dataclasses.dataclass(frozen=True)
class NodeResult:
    """The outcome of a search for B problems, on the host.

    Attributes:
      tree: all nodes.
      node: int32[B], the best node at which a solution ends, else the best of the deepest usable ones, else 0 (the prompt).
      value: float32[B], its value; -inf for the prompt.
      finished: bool[B], whether the chosen solution ended by itself. An unfinished one is never passed off as finished.
      stopped: why the search for each problem stopped; the names are those of the search.
      costs: what it cost.
    """

    tree: NodeTree
    node: Int[np.ndarray, " B"]
    value: Float[np.ndarray, " B"]
    finished: Bool[np.ndarray, " B"]
    stopped: tuple[str, ...]
    costs: SearchCosts

    def stopped_by(self, problem: int) -> str:
        """Why the search for a problem stopped."""
        return self.stopped[problem]

    def searched(self, row: int, problem: Problem, said: Mapping[int, Said], shares: int) -> Searched:
        """One problem as nodes with texts. Steps that say the same as a sibling drawn with them are nodes without a score and a
        value.

        Args:
          row: of the problem.
          said: what each node says, in their order.
          shares: problems among which the wall time is divided.
        """
        tree, nodes = self.tree, []
        at: dict[int, int] = {0: -1}  # node of the tree -> place in the list
        for node, one in said.items():
            value, finished = float(tree.values[row, node]), bool(tree.finished[row, node])
            usable = value > -np.inf
            parent, at[node] = at[int(tree.parents[row, node])], len(nodes)
            nodes.append(Node(len(nodes), None if parent < 0 else parent, one.text, one.tokens,
                              float(tree.scores[row, node]) if usable and not one.bare else None, value if usable else None,
                              bool(tree.kept[row, node]), finished))
        ended = tuple(Answered(at[node], nodes[at[node]].value) for node in tree.solutions(row))
        chosen = at[int(self.node[row])]
        return Searched(problem, tuple(nodes), ended, None if chosen < 0 else chosen, self.costs.of(row, shares),
                        self.stopped_by(row), dict(tree_warnings(nodes, sum(one.cut for one in said.values()))))

    def chosen_ids(self, problem: int) -> list[int]:
        """Token ids of a problem's chosen solution, as the policy wrote them."""
        return sum(self.tree.steps(problem, int(self.node[problem])), [])


def best_nodes(tree: NodeTree, depth: Int[np.ndarray, "B N"]) -> Int[np.ndarray, " B"]:
    """`NodeResult.node`; ties go to the node sampled first."""
    usable = tree.values > -np.inf
    deepest = depth == np.max(depth * usable, axis=1, keepdims=True)
    candidates = np.where(tree.finished.any(1, keepdims=True), tree.finished, usable & deepest)
    return np.argmax(np.where(candidates, tree.values, -np.inf), axis=1).astype(np.int32)
