"""Search trees and prefixes with values: OmegaPRM (OpenR), ReST-MCTS*, rStar-Math pairs, HRM."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jaxprm.data.formats.base import COMPUTE, Format, Row
from jaxprm.data.formats.rows import Fields
from jaxprm.records import LabeledSolution

_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")
_END_OF_STEP = "<end_of_step>"


def _value(fields: Fields, *names: str) -> float | None:
    """A value in [0, 1]; null = not estimated."""
    name = fields.name(*names)
    if name is None:
        return None
    value = fields.number_of(name)
    if not 0 <= value <= 1:
        raise fields.error("must be in [0, 1]", name, value=value)
    return float(value)


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in _BLANK_LINE.split(text) if part.strip()]


def _omega_flat(row: Row) -> Iterator[LabeledSolution]:
    name = row.name("reasoning_steps", "states")
    if name is not None and isinstance(row.data[name], dict):
        raise row.error("holds a tree, not a list of prefixes", name, hint="the format 'omegaprm-tree' reads it")
    problem, identifier = row.text("question", "problem", "q"), row.identifier("id")
    states: dict[tuple[str, ...], float | None] = {}
    for state in row.children("reasoning_steps", "states"):
        # Prefixes begin with the question, as OpenR writes them. That one alone is the root: its value is no step's.
        prefix = state.text("solution_prefix", "state").strip().removeprefix(problem.strip())
        if steps := tuple(_paragraphs(prefix)):
            states[steps] = _value(state, "mc_value", "mcs")
    if not states:
        raise row.error("has no prefix with a step", "reasoning_steps")
    # A prefix that another one goes on from is told by the longer one's labels.
    inner = {steps[:length] for steps in states for length in range(1, len(steps))}
    for number, steps in enumerate(steps for steps in states if steps not in inner):
        values = [states.get(steps[:length]) for length in range(1, len(steps) + 1)]
        yield row.solution(problem, steps, soft=values, first_error=COMPUTE, id=f"{identifier}/{number}", problem_id=identifier,
                           answer=row.text_or_none("final_answer", "answer"), meta={})


def _omega_tree(row: Row) -> Iterator[LabeledSolution]:
    problem, identifier = row.text("question", "problem"), row.identifier("id")
    answer = row.text_or_none("final_answer", "answer")
    # Depth first with a list of its own: trees may be deeper than Python's stack.
    stack = [(row.child("reasoning_steps", "tree"), (), ())]
    number = 0
    while stack:
        node, steps, values = stack.pop()
        text = (node.text_or_none("text") or "").strip()
        # The root holds the problem. A node may hold several steps (the binary search jumps over them, and a correct rollout is
        # one node): its value is that of the last one.
        if text != problem.strip() and (parts := _paragraphs(text)):
            steps, values = (*steps, *parts), (*values, *[None] * (len(parts) - 1), _value(node, "mc_value"))
        children = node.children("children") if node.name("children") else []
        if children:
            stack.extend((child, steps, values) for child in reversed(children))
        elif steps:
            yield row.solution(problem, steps, soft=values, id=f"{identifier}/{number}", problem_id=identifier, answer=answer,
                               meta={})
            number += 1
    if not number:
        raise row.error("has no step", "reasoning_steps")


def _rest_mcts(row: Row) -> Iterator[LabeledSolution]:
    text = row.text("prompt_answer")
    head, found, solution = text.partition("\nSolution:")
    if not found or not head.strip():
        raise row.error("must read 'Problem: ... Solution: ...'", "prompt_answer", value=text)
    steps = [line.strip() for line in solution.splitlines() if line.strip()]
    # One value, that of the whole prefix: it is the last step's.
    values = [None] * (len(steps) - 1) + [_value(row, "label")] if steps else []
    yield row.solution(head.strip().removeprefix("Problem:").strip(), steps, soft=values, id=row.identifier("id"), meta={})


def _marked_steps(text: str) -> list[str]:
    return [part.strip() for part in text.split(_END_OF_STEP) if part.strip()]


def _rstar(row: Row) -> Iterator[LabeledSolution]:
    names = ("pos_count", "neg_count", "step_margin")
    about = {name: row.data[name] for name in names if row.name(name)}
    identifier = row.identifier("id")
    if row.name("chosen_step"):
        prefix, sides = row.text("prefix"), (row.text("chosen_step"), row.text("rejected_step"))
        problem = row.text_or_none("question", "problem")
        if problem is None and row.settings.problems is not None:
            found = row.settings.problems.split(prefix)
            problem, prefix = found if found else (None, prefix)
        elif problem is not None:
            prefix = prefix.strip().removeprefix(problem.strip())
        elif _END_OF_STEP not in prefix:
            problem, prefix = prefix.strip(), ""
        if problem is None:
            raise row.error("holds the problem and steps, with nothing between them", "prefix", value=prefix,
                            hint="give the file with the original problems (--problems)")
        before = _marked_steps(prefix)
    else:
        problem, before, sides = row.text("prompt"), [], (row.text("pos"), row.text("neg"))
    for name, text, rating in zip(("pos", "neg"), sides, (1, -1)):
        steps = [*before, *_marked_steps(text)]
        if not steps:
            raise row.error("has no step", name, value=text)
        # A preference between siblings: it speaks of the last step only, and of nothing before it.
        yield row.solution(problem, steps, ratings=[None] * (len(steps) - 1) + [rating], id=f"{identifier}/{name}",
                           first_error=None if rating > 0 else len(steps) - 1, problem_id=identifier,
                           meta=about | {"pair": identifier, "side": name})


def _hrm(row: Row) -> Iterator[LabeledSolution]:
    previous = row.data.get(row.name("previous_steps", "previous steps") or "previous_steps") or []
    if isinstance(previous, str):
        previous = [line for line in previous.splitlines() if line.strip()]
    elif not isinstance(previous, list) or any(not isinstance(step, str) for step in previous):
        raise row.error("must be a text or a list of texts", "previous_steps", value=previous)
    current = row.text("current_step", "current step")
    yield row.solution(row.text("question", "problem"), [*previous, current],
                       soft=[None] * len(previous) + [_value(row, "label")], id=row.identifier("id"),
                       meta=row.rest("question", "problem", "previous_steps", "previous steps", "current_step", "current step",
                                     "label", "id"))


_SOFT = {"after_error": "keep", "bad_at_most": 0.0}
_OMEGA = "Luo et al. 2024, OmegaPRM, arXiv 2406.06592; as written by OpenR (github.com/openreasoner/openr)"

FORMATS = (
    Format("omegaprm", "{question, reasoning_steps: [{solution_prefix, mc_value}]}; one solution per longest prefix.",
           _OMEGA, "Monte-Carlo rollouts (OmegaPRM)", _omega_flat, _SOFT),
    Format("omegaprm-tree", "{question, reasoning_steps: {text, mc_value, children}}; one solution per leaf.",
           _OMEGA, "Monte-Carlo rollouts (OmegaPRM)", _omega_tree, _SOFT),
    Format("rest-mcts", "{prompt_answer: 'Problem: ... Solution: steps by line', label: value of the whole prefix}.",
           "Zhang et al. 2024, ReST-MCTS*, arXiv 2406.03816 (github.com/THUDM/ReST-MCTS)", "tree search", _rest_mcts, _SOFT),
    Format("rstar-math", "Pairs {prompt, pos, neg} or {prefix, chosen_step, rejected_step}; two solutions, last step judged.",
           "Guan et al. 2025, rStar-Math, arXiv 2501.04519 (github.com/microsoft/rStar)", "tree search, by pairs", _rstar,
           {"after_error": "keep", "problems": None}),
    Format("hrm", "{question, previous_steps, current_step, label of the current (or merged) step}.",
           "Wang et al. 2025, Towards Hierarchical Multi-Step Reward Models, arXiv 2503.13551 "
           "(github.com/tengwang0318/hierarchial_reward_model)", "tree search", _hrm, _SOFT),
)
