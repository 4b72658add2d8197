"""A page that shows searches: numbers with intervals, and each problem's tree, to be unfolded, coloured by score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxprm.evaluation.searches import SearchSummary
from jaxprm.metrics import Interval
from jaxprm.progress import duration
from jaxprm.reports.pages import render_page
from jaxprm.search.searched import Node, Searched


@dataclasses.dataclass(frozen=True)
class Branch:
    """A place in the drawn tree: nodes that say the same behind the same steps.

    Attributes:
      node: the first of them, or the one on the chosen path; count: how many they are.
      children: whether anything is unfolded below it; leave: places that end with it, for a flat list of opening and closing.
      chosen: it is on the chosen path; tip: it is the end of it; kept, finished: one of its nodes was, or is.
      steps: nodes below it.
    """

    node: Node
    count: int
    children: bool
    chosen: bool
    tip: bool
    kept: bool
    finished: bool
    steps: int
    leave: int = 0


def branches(found: Searched) -> list[Branch]:
    """The tree of a search in the order of drawing: the best branch first, children behind their parent.

    ``leave`` of a leaf says how many open places (itself not counted) are closed behind it.
    """
    chosen = {node.id for node in found.path(found.chosen)}
    children: dict[int | None, list[Node]] = {}
    for node in found.nodes:
        children.setdefault(node.parent, []).append(node)
    below = [0] * len(found.nodes)
    for node in reversed(found.nodes):
        if node.parent is not None:
            below[node.parent] += 1 + below[node.id]

    def groups(parents: Sequence[int | None]) -> list[list[Node]]:
        same: dict[str, list[Node]] = {}
        for parent in parents:
            for node in children.get(parent, ()):
                same.setdefault(node.text, []).append(node)
        best = lambda nodes: max(-np.inf if node.value is None else node.value for node in nodes)  # noqa: E731
        return sorted(same.values(), key=lambda nodes: (not any(node.id in chosen for node in nodes), -best(nodes)))

    drawn: list[Branch] = []
    # Depth first with a list of its own: trees may be deeper than Python's stack. None = the place above is complete.
    stack: list[list[Node] | None] = groups([None])[::-1]
    while stack:
        nodes = stack.pop()
        if nodes is None:
            drawn[-1] = dataclasses.replace(drawn[-1], leave=drawn[-1].leave + 1)
            continue
        inner = groups([node.id for node in nodes])
        first = next((node for node in nodes if node.id in chosen), nodes[0])
        drawn.append(Branch(first, len(nodes), bool(inner), first.id in chosen, first.id == found.chosen,
                            any(node.kept for node in nodes), any(node.finished for node in nodes),
                            sum(below[node.id] for node in nodes)))
        if inner:
            stack += [None, *inner[::-1]]
    return drawn


def render_searches(found: Mapping[str, Sequence[Searched]], summaries: Mapping[str, SearchSummary], *,
                    differences: Mapping[str, Interval] | None = None, title: str = "Search", limit: int = 50) -> str:
    """One self-contained HTML page; all texts are escaped.

    Args:
      found: search -> what it found, for the same problems in the same order.
      summaries: search -> its numbers.
      differences: search -> its accuracy minus that of the first search.
      title: heading of the page.
      limit: at most so many problems are drawn, the first ones; the page says how many it leaves out.
    """
    problems = list(zip(*found.values(), strict=True))
    shown = [{"problem": one[0].problem, "searches": list(zip(found, one, map(branches, one)))} for one in problems[:limit]]
    return render_page("search.html.j2", title=title, problems=shown, omitted=max(len(problems) - limit, 0),
                       rows=list(_rows(summaries, differences or {})))


def _rows(summaries: Mapping[str, SearchSummary], differences: Mapping[str, Interval]) -> Iterator[dict]:
    for name, summary in summaries.items():
        yield {"name": name, "accuracy": _percent(summary.accuracy), "any_right": _percent(summary.any_right),
               "difference": _percent(differences[name], signed=True) if name in differences else ("–", ""),
               "finished": _percent(summary.finished), "policy_tokens": _number(summary.policy_tokens),
               "reward_tokens": _number(summary.reward_tokens), "flops": f"{summary.costs.flops:.3g}",
               "time": duration(summary.costs.seconds), "compilations": summary.costs.compilations,
               "graded": summary.graded, "problems": summary.problems,
               "stopped": _counts(summary.stopped), "warnings": _counts(summary.warnings)}


def _percent(value: Interval, signed: bool = False) -> tuple[str, str]:
    if np.isnan(value.mean):
        return "–", ""
    sign = "+" if signed else ""
    return f"{100 * value.mean:{sign}.1f} %", f"[{100 * value.low:{sign}.1f}, {100 * value.high:{sign}.1f}]"


def _number(value: Interval) -> tuple[str, str]:
    return f"{value.mean:,.0f}", f"[{value.low:,.0f}, {value.high:,.0f}]"


def _counts(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
