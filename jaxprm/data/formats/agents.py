"""Trajectories of LLM agents: AgentPRM, AgentProcessBench, ToolComp, Who&When."""

from __future__ import annotations

import json
from collections.abc import Iterator

from jaxprm.data.formats.base import Format, Row
from jaxprm.data.formats.rows import Fields
from jaxprm.records import LabeledSolution


def _content(message: Fields) -> str:
    """A message as text: its content (a text, or parts with texts) and its tool calls as JSON."""
    content = message.data.get("content")
    if isinstance(content, list):
        content = "\n".join(part.text_or_none("text") or "" for part in message.children("content"))
    elif content is not None and not isinstance(content, str):
        raise message.error("must be a text or a list of parts", "content", value=content)
    parts = [content.strip()] if content and content.strip() else []
    for call in message.children("tool_calls") if message.name("tool_calls") else ():
        body = call.data.get("function") or call.data
        parts.append(json.dumps({key: body[key] for key in ("name", "arguments") if key in body}, ensure_ascii=False))
    return "\n".join(parts)


def _agent_prm(row: Row) -> Iterator[LabeledSolution]:
    value = row.number_of("qestimate")
    if not 0 <= value <= 1:
        raise row.error("must be in [0, 1]", "qestimate", value=value, hint="map returns in [-1, 1] by (q + 1) / 2 first")
    yield row.solution(row.text("state"), [row.text("reason_action")], soft=[value], id=row.identifier("id"),
                       meta=row.rest("state", "reason_action", "qestimate", "id"))


def _agent_process_bench(row: Row) -> Iterator[LabeledSolution]:
    messages = row.children("messages")
    roles = [message.text("role") for message in messages]
    first = next((index for index, role in enumerate(roles) if role == "assistant"), None)
    if first is None:
        raise row.error("has no message of the assistant", "messages")
    # A step is a message of the assistant and what comes back (results of tools, the user), up to its next message.
    steps: list[str] = []
    step_of: dict[int, int] = {}
    for index in range(first, len(messages)):
        text = _content(messages[index])
        if roles[index] == "assistant":
            step_of[index] = len(steps)
            steps.append(text or "(no text)")
        elif text:
            steps[-1] += f"\n[{roles[index]}] {text}"
    given = row.data.get("step_labels")
    if isinstance(given, list):
        given = dict(enumerate(given))
    if not isinstance(given, dict):
        raise row.error("must be an object of message numbers and labels", "step_labels", value=given)
    ratings: list[int | None] = [None] * len(steps)
    for key, rating in given.items():
        text = str(key)
        if not text.isdigit() or int(text) - row.settings.index_base not in step_of:
            raise row.error("is not the number of a message of the assistant", f"step_labels[{key}]",
                            hint="messages are counted from index_base, the system's and the user's included")
        if rating is not None and (isinstance(rating, bool) or rating not in (-1, 0, 1)):
            raise row.error("must be -1, 0, 1 or null", f"step_labels[{key}]", value=rating)
        ratings[step_of[int(text) - row.settings.index_base]] = rating
    problem = "\n\n".join(text for text in map(_content, messages[:first]) if text)
    final = row.data.get("final_label")
    yield row.solution(problem, steps, ratings=ratings, id=row.identifier("total_index", "record_id", "id"),
                       problem_id=row.text_or_none("query_index"), correct={1: True, -1: False}.get(final),
                       generator=row.text_or_none("model", "generator"),
                       meta={name: row.data[name] for name in ("data_source", "final_label") if row.name(name)})


def _tool_step(fields: Fields) -> str:
    """One ReAct step, or the plan in front of them, as text."""
    if fields.name("action plan", "action_plan"):
        return "Action Plan: " + _text_of(fields, "action plan", "action_plan")
    names = ("thought", "action", "action_input", "observation")
    parts = [f"{name.replace('_', ' ').title()}: {_text_of(fields, name)}" for name in names if fields.name(name)]
    if not parts:
        raise fields.error("has neither a thought nor an action plan", hint="is this the process supervision file?")
    return "\n".join(parts)


def _text_of(fields: Fields, *names: str) -> str:
    name = fields.name(*names)
    return fields.child(name).text("text") if isinstance(fields.data.get(name), dict) else fields.text(*names)


def _tool_comp(row: Row) -> Iterator[LabeledSolution]:
    history = row.data.get("history")
    if isinstance(history, str):
        try:
            history = json.loads(history or "[]")
        except ValueError:
            raise row.error("is not JSON", "history", value=history) from None
    if history is not None and (not isinstance(history, list) or any(not isinstance(entry, dict) for entry in history)):
        raise row.error("must be a list of steps", "history", value=history)
    before = [_tool_step(Fields(entry, row.file, row.number, f"history[{index}]."))
              for index, entry in enumerate(history or ())]
    identifier = row.identifier("id", "uuid")
    for side, rating in (("preferred", 1), ("dispreferred", -1)):
        steps = [*before, _tool_step(row.child(side))]
        # The history was corrected by the annotator before this step, and not rated: its steps stay without a label.
        yield row.solution(row.text("prompt"), steps, ratings=[None] * len(before) + [rating],
                           first_error=None if rating > 0 else len(before), id=f"{identifier}/{side}", problem_id=identifier,
                           made_by="human, by pairs", meta={"pair": identifier, "side": side})


def _who_and_when(row: Row) -> Iterator[LabeledSolution]:
    messages = row.children("history")
    speakers = [message.text_or_none("name") or message.text("role") for message in messages]
    steps = [f"{speaker}: {_content(message)}" for speaker, message in zip(speakers, messages)]
    number = row.text_or_none("mistake_step")
    if number is None or not number.strip().isdigit():
        raise row.error("must be the number of a message", "mistake_step", value=number)
    wrong = row.index(int(number), len(steps), "mistake_step")
    agent = row.text_or_none("mistake_agent")
    meta = {name: row.data[name] for name in ("mistake_reason", "level") if row.name(name)} | {"mistake_agent": agent}
    if agent is not None and agent.casefold() not in speakers[wrong].casefold():
        meta["mistake_speaker"] = speakers[wrong]  # the row contradicts itself: who is blamed did not write that message
    # One decisive error is named; nothing is said of the other messages.
    ratings = [None] * len(steps)
    ratings[wrong] = -1
    yield row.solution(row.text("question"), steps, ratings=ratings, first_error=wrong,
                       id=row.identifier("question_ID", "id"), answer=row.text_or_none("ground_truth", "groundtruth"),
                       correct=False, meta=meta)


FORMATS = (
    Format("agentprm", "{state, reason_action, qestimate in [0, 1]}; the state is the problem, the action its one step.",
           "Choudhury 2025, Process Reward Models for LLM Agents, arXiv 2502.10325 (github.com/sanjibanc/agent_prm)",
           "Monte-Carlo rollouts", _agent_prm, {"after_error": "keep", "bad_at_most": 0.0}),
    Format("agentprocessbench", "{messages, step_labels: {number of the assistant's message: -1, 0 or 1}}; 0 = neutral.",
           "AgentProcessBench 2026, arXiv 2603.14465; huggingface.co/datasets/LulaCola/AgentProcessBench (MIT)", "human",
           _agent_process_bench, {"neutral": "ignore", "after_error": "keep", "index_base": 0}),
    Format("toolcomp", "{prompt, history, preferred, dispreferred}: two candidates for the next ReAct step; two solutions.",
           "Nath et al. 2025, ToolComp, arXiv 2501.01290 (github.com/vaskar-open-source-research/toolcomp)", "human",
           _tool_comp, {"after_error": "keep"}),
    Format("who-and-when", "{question, history, mistake_step as text, from 0}: the decisive error of a failed run.",
           "Zhang et al. 2025, Which Agent Causes Task Failures and When, arXiv 2505.00212 "
           "(github.com/mingyin1/Agents_Failure_Attribution)", "human", _who_and_when,
           {"after_error": "keep", "index_base": 0}),
)
