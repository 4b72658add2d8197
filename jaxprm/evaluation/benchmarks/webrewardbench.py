"""WebRewardBench: rank the expert's next action of a web task above rejected ones; numbers in `jaxprm.metrics.webreward`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from jaxprm.data.formats.rows import Fields, read_rows
from jaxprm.data.rows import located
from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import twins
from jaxprm.evaluation.benchmarks.base import Benchmark, EvaluateOptions, Evaluation, Item, Number, ReadPolicies, Scores
from jaxprm.metrics import GroupStatistic, statistic_of_sums
from jaxprm.metrics.webreward import WebChoice, task_columns, web_reward_of_sums
from jaxprm.records import Problem, Solution, StepLabels

NAMES = ("MRR", "step accuracy", "task accuracy")


def read(files: Sequence[str | os.PathLike], policies: ReadPolicies) -> list[Item]:
    """Every candidate of every step as an item, whose last step is the candidate.

    How a text for a reward model is made of a row is our own reading: the problem is the intent, the page's address and its
    text; the steps are the thoughts and actions so far (all of them; the published prompt keeps the last ten) and then the
    candidate's. Checklists and screenshots are not read.

    Raises:
      InputError: a row that cannot be read, or without a chosen and a rejected action.
    """
    del policies  # nothing here is rated
    items = []
    for path in map(located, files):
        before = len(items)
        for number, row in read_rows(path):
            if not isinstance(row, dict):
                raise InputError(f"a row must be a JSON object, not {type(row).__name__}", file=path, row=number)
            items += _candidates(Fields(row, path, number))
        if len(items) == before:
            raise InputError("has no rows", file=path)
    return items


def _candidates(row: Fields) -> list[Item]:
    task, place = row.text_or_none("task_id"), row.integer("step_id")
    if task is None:
        raise row.error("is missing", "task_id")
    thoughts, actions = (row.texts(name) if row.name(name) else [] for name in ("thought_history", "action_history"))
    if len(thoughts) < place or len(actions) < place:
        raise row.error(f"has {min(len(thoughts), len(actions))} entries before step {place}", "action_history")
    history = [_step(*pair) for pair in zip(thoughts[:place], actions[:place])]
    page = [row.text_or_none("current_url", "start_url"), row.text_or_none("text_observation")]
    prompt = "\n\n".join(text for text in (row.text("intent"), *page) if text)
    sides = [(side, candidate) for side in ("chosen", "rejected") for candidate in row.children(side)]
    chosen = [candidate for side, candidate in sides if side == "chosen"][:1]  # the published evaluation reads the first one
    rejected = [candidate for side, candidate in sides if side == "rejected"]
    if not chosen or not rejected:
        raise row.error("needs at least one action", "rejected" if chosen else "chosen")
    items = []
    for rank, candidate in enumerate(chosen + rejected):
        steps = (*history, _step(candidate.text("thought"), candidate.text("action")))
        labels = (None,) * place + (float(rank == 0),)
        items.append(Item(
            f"{task}/{place}/" + (f"rejected{rank}" if rank else "chosen"), task,
            Solution(Problem(task, prompt), steps), StepLabels(labels, place if rank else None, "expert's action or not"),
            row.text_or_none("source_name"), {"step": place, "chosen": rank == 0}, file=os.fspath(row.file), row=row.number))
    return items


def _step(thought: str, action: str) -> str:
    return f"Thought: {thought}\nAction: {action}"


def evaluate(items: Sequence[Item], scores: Scores, options: EvaluateOptions) -> Evaluation:
    """MRR, step accuracy and task accuracy of the scores of the last steps, overall and per source.

    Steps of which candidates are missing (too long for a model) are left out, and counted in the settings; their tasks are
    judged by the others.
    """
    steps: dict[tuple[str, int], dict[str, list]] = {}
    for item, row in zip(items, scores, strict=True):
        side = "chosen" if item.meta["chosen"] else "rejected"
        step = steps.setdefault((item.group, item.meta["step"]), {"chosen": [], "rejected": [], "kind": [item.kind]})
        step[side].append(float(row[-1]))
    whole = {place: step for place, step in steps.items() if step["chosen"] and step["rejected"]}
    if not whole:
        raise InputError("has no step with a chosen and a rejected action", field="webrewardbench")
    choices = [(WebChoice(task, step["chosen"][0], step["rejected"]), step["kind"][0]) for (task, _), step in whole.items()]
    compared = _statistics([choice for choice, _ in choices])
    numbers: dict[str, Number] = {name: options.interval(statistic) for name, statistic in compared.items()}
    kinds = sorted({kind for _, kind in choices if kind is not None})
    table: dict[str, dict[str, Number]] = {}
    for kind in kinds if len(kinds) > 1 else ():
        of_kind = _statistics([choice for choice, of in choices if of == kind])
        table[kind] = {name: options.interval(statistic) for name, statistic in of_kind.items()}
    chance = np.mean([sum(1 / rank for rank in range(1, 2 + len(choice.rejected))) / (1 + len(choice.rejected))
                      for choice, _ in choices])
    settings = {"tasks": len(compared["MRR"].groups), "steps": len(whole), "left_out_steps": len(steps) - len(whole),
                "mrr_of_a_random_order": float(chance)}
    return Evaluation(numbers, {"by source": table} if table else {}, compared=compared, settings=settings)


def _statistics(choices: Sequence[WebChoice]) -> dict[str, GroupStatistic]:
    tasks, columns = task_columns(choices)
    return {name: statistic_of_sums(columns, lambda sums, place=place: web_reward_of_sums(sums)[..., place], tasks)
            for place, name in enumerate(NAMES)}


WEBREWARDBENCH = Benchmark(
    name="webrewardbench",
    title="WebRewardBench",
    citation="Chae et al. 2025, Web-Shepherd, arXiv 2505.15277; huggingface.co/datasets/LangAGI-Lab/WebRewardBench "
             "(evaluation: github.com/kyle8581/Web-Shepherd)",
    description="Rank the expert's next action of a web task above (usually four) rejected ones; ties count against the model. "
                "Whole tasks count if every step is right.",
    data="JSON lines with the data set's fields: task_id, step_id, intent, current_url, text_observation, thought_history, "
         "action_history, chosen and rejected (lists of {thought, action}), source_name. Images and checklists are not read.",
    headline="MRR: mean of 1 / rank of the expert's action",
    read=read, evaluate=evaluate, twin=twins.webrewardbench, thresholds=())
