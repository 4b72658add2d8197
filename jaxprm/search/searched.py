"""What a search has found for a problem, on the host and as text: the whole tree, the answer, the bill; and its JSON form.

One row per problem. Its first fields are those of `jaxprm.records`, so that readers of solutions read the chosen one:

    {"id": "beam/p1", "problem": "1 + 1", "steps": ["so 2"], "scores": [0.9], "aggregate": 0.9, "finished": true, ...,
     "search": {"nodes": [{"id": 0, "parent": null, "text": "so 2", "score": 0.9, ...}], "costs": {...}, ...}}
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, Problem, Solution, parse_row, to_row


@dataclasses.dataclass(frozen=True)
class Node:
    """One step that was written.

    Attributes:
      id: its place in the list of nodes; parent: that of the node it continues, ``None`` at the first step.
      text: of the step, without its separator.
      tokens: that the policy drew for it.
      score: of the step, or of its beginning if it was rejected early; ``None`` if it was not scored (it did not end, or could
        not be read).
      value: of the path up to here, by which candidates are compared; ``None`` if the path cannot be used.
      kept: it survived the selection that followed it.
      finished: the solution ends here.
    """

    id: int
    parent: int | None
    text: str
    tokens: int
    score: float | None
    value: float | None
    kept: bool
    finished: bool


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a search cost.

    Attributes:
      policy_tokens: drawn, those of discarded candidates included.
      reward_tokens: read by the reward model.
      policy_forwards, reward_forwards: forward passes in which the problem took part; of an endpoint, requests.
      flops: of the models on this machine, prompts included.
      seconds: wall time, each problem of a batch being charged an equal share.
      compilations: of the batch, charged to its first problem.
    """

    policy_tokens: int = 0
    reward_tokens: int = 0
    policy_forwards: int = 0
    reward_forwards: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    compilations: int = 0

    def __add__(self, other: Costs) -> Costs:
        return Costs(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


@dataclasses.dataclass(frozen=True)
class Answered:
    """A path that has ended.

    Attributes:
      node: its last node.
      value: of the path.
      answer: final answer, ``None`` where there is none or nobody looked for one.
      correct: whether it is right; ``None`` = not graded.
    """

    node: int
    value: float
    answer: str | None = None
    correct: bool | None = None


@dataclasses.dataclass(frozen=True)
class Searched:
    """The outcome of a search for one problem.

    Attributes:
      problem: the problem.
      nodes: every step that was written, parents before children.
      solutions: the paths that have ended, those of the highest value first.
      chosen: last node of the chosen path: one of ``solutions`` if there are any, else the best that has not ended; ``None`` if
        no step could be used.
      costs: the bill.
      stopped_by: why the search ended: "finished" (nothing is left to continue), "steps", "context", or a limit of its budget.
      warnings: what went wrong on the way, counted.
    """

    problem: Problem
    nodes: tuple[Node, ...]
    solutions: tuple[Answered, ...]
    chosen: int | None
    costs: Costs
    stopped_by: str
    warnings: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the chosen path has ended by itself."""
        return self.chosen is not None and self.nodes[self.chosen].finished

    @property
    def answer(self) -> Answered | None:
        """The chosen solution, ``None`` if no path has ended."""
        return next((found for found in self.solutions if found.node == self.chosen), None)

    def path(self, node: int | None) -> list[Node]:
        """The nodes from the first step to ``node``; none for ``None``."""
        found = []
        while node is not None:
            found.append(self.nodes[node])
            node = found[-1].parent
        return found[::-1]

    def steps(self, node: int | None) -> tuple[str, ...]:
        """The texts of `path`, without that of a node that only ends the solution."""
        return tuple(step.text for step in self.path(node) if step.text or not step.finished)


def tree_warnings(nodes: Sequence[Node], cut: int = 0) -> Counter[str]:
    """What the policy did wrong, counted: ``cut`` steps that did not end, empty steps, steps that their path has already."""
    counts = Counter({"steps that did not end": cut})
    for node in nodes:
        if not node.text.strip():
            counts["empty steps"] += not node.finished  # a solution may end without a last step
            continue
        parent = node.parent
        while parent is not None and nodes[parent].text != node.text:
            parent = nodes[parent].parent
        counts["repeated steps"] += parent is not None
    return +counts


def searched_row(found: Searched, name: str) -> dict[str, Any]:
    """The JSON form; ``name``: of the search, part of the row's id."""
    answer, path = found.answer, found.path(found.chosen)
    solution = Solution(found.problem, found.steps(found.chosen), answer.answer if answer else None,
                        answer.correct if answer else None if not found.problem.answer else False, name)
    scores = [step.score for step in path if step.text or not step.finished]
    return to_row(LabeledSolution(f"{name}/{found.problem.id}", solution)) | {
        "scores": scores, "aggregate": path[-1].value if path else None, "finished": found.finished,
        "search": {"name": name, "chosen": found.chosen, "stopped_by": found.stopped_by,
                   "costs": dataclasses.asdict(found.costs), "warnings": dict(found.warnings),
                   "solutions": [dataclasses.asdict(one) for one in found.solutions],
                   "nodes": [dataclasses.asdict(node) for node in found.nodes]}}


def read_searched(row: Any, *, file=None, number: int = 1) -> tuple[str, Searched]:
    """The inverse of `searched_row`: (name of the search, what it found).

    Raises:
      InputError: the row is not of this form; it names file, row and field.
    """
    if not isinstance(row, dict) or not isinstance(row.get("search"), dict):
        raise InputError("is not a row of a search", file=file, row=number, field="search",
                         hint="give a file that `jaxprm search` has written")
    search = row["search"]
    # A problem that nothing was found for has no steps; the rest of its row is like any other.
    item, _ = parse_row(row | {"steps": row.get("steps") or ["-"]}, file=file, number=number, keep_empty=True)
    try:
        nodes = tuple(Node(**node) for node in search["nodes"])
        solutions = tuple(Answered(**one) for one in search["solutions"])
        found = Searched(item.solution.problem, nodes, solutions, search["chosen"], Costs(**search["costs"]),
                         search["stopped_by"], search["warnings"])
        _check(found)
        return str(search["name"]), found
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"is not what a search writes ({error})", file=file, row=number, field="search",
                         hint="the file was damaged, or written by another version") from None


def _check(found: Searched) -> None:
    for place, node in enumerate(found.nodes):
        if node.id != place or (node.parent is not None and not 0 <= node.parent < place):
            raise ValueError(f"node {place} is out of place")
        if any(value is not None and not math.isfinite(value) for value in (node.score, node.value)):
            raise ValueError(f"node {place} has a score that is not finite")
    for node in (*(one.node for one in found.solutions), *([] if found.chosen is None else [found.chosen])):
        if not 0 <= node < len(found.nodes):
            raise ValueError(f"there is no node {node}")
