"""Labelled solutions as rows of other projects' formats.

Other formats can say less than ours. What a format cannot say is refused unless a setting tells how to say it: soft labels
where labels are yes or no (`WriteSettings.round_at`), steps that nobody judged (`WriteSettings.unjudged`). A step that holds
the format's own tag is never written: no reader could tell it from the end of a step.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

from jaxprm.data.formats.marked import STEP_ONE
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, to_row

_TAG = "ки"


@dataclasses.dataclass(frozen=True)
class WriteSettings:
    """How to say what a format has no words for.

    Attributes:
      round_at: labels from this value on are written as right, lower ones as wrong; ``None`` = soft labels are refused where
        the format has none.
      unjudged: steps without a label: "refuse" the row, or "cut" it before the first of them.
      number_steps: write "Step k: " in front of every step that does not begin so.
    """

    round_at: float | None = None
    unjudged: Literal["refuse", "cut"] = "refuse"
    number_steps: bool = False

    def __post_init__(self):
        if self.round_at is not None and not 0 < self.round_at <= 1:
            raise InputError("must be in (0, 1]", field="round_at", value=self.round_at)
        if self.unjudged not in ("refuse", "cut"):
            raise InputError("must be one of refuse, cut", field="unjudged", value=self.unjudged)


@dataclasses.dataclass(frozen=True)
class Writer:
    """``row(item, settings)`` gives the JSON object of a solution, or raises `InputError` if the format cannot say it."""

    name: str
    description: str
    row: Callable[[LabeledSolution, WriteSettings], dict[str, Any]]


def _error(item: LabeledSolution, message: str, field: str, hint: str, **value) -> InputError:
    return InputError(f"solution '{item.id}' {message}", field=field, hint=hint, **value)


def _judged(item: LabeledSolution, settings: WriteSettings, *, soft: bool) -> tuple[list[str], list[float]]:
    """The steps to be written and a label for each."""
    if item.labels is None:
        raise _error(item, "has no labels", "labels", "this format needs one per step")
    steps, values = list(item.solution.steps), list(item.labels.values)
    missing = next((index for index, value in enumerate(values) if value is None), len(values))
    if missing < len(values) and (settings.unjudged == "refuse" or not missing):
        raise _error(item, "has a step without a label", f"labels[{missing}]",
                     "unjudged = cut (--unjudged cut) writes the steps before it" if missing else "no step could be kept",
                     value=None)
    steps, values = steps[:missing], values[:missing]
    if settings.round_at is not None:
        values = [1.0 if value >= settings.round_at else 0.0 for value in values]
    between = next((index for index, value in enumerate(values) if value not in (0.0, 1.0)), None)
    if between is not None and not soft:
        raise _error(item, "has a soft label", f"labels[{between}]",
                     "round_at (--round-at 0.5) says from which value on a step is right", value=values[between])
    return _numbered(steps) if settings.number_steps else steps, values


def _numbered(steps: list[str]) -> list[str]:
    """Every step begins with its number, those that do so already as they are."""
    return [step if re.match(rf"\s*Step {index}\s*:", step) else f"Step {index}: {step}" for index, step in enumerate(steps, 1)]


def _trl(item: LabeledSolution, settings: WriteSettings) -> dict[str, Any]:
    # TRL cuts labels to whole numbers in training (0.7 becomes 0), so that soft ones would silently turn into "wrong".
    steps, values = _judged(item, settings, soft=False)
    return {"prompt": item.solution.problem.prompt, "completions": steps, "labels": [value == 1.0 for value in values]}


def _start_is_found(item: LabeledSolution, problem: str, step: str) -> None:
    """Formats that write problem and first step as one text must let a reader find the step again."""
    starts = [match.start() for match in STEP_ONE.finditer(f"{problem} {step}")]
    if starts != [len(problem) + 1]:
        raise _error(item, "would not show where the problem ends and the first step begins", "steps[0]",
                     "number_steps (--number-steps) puts 'Step 1:' there" if not starts else
                     "'Step 1:' occurs elsewhere in problem or first step", value=step)


def _rlhflow(item: LabeledSolution, settings: WriteSettings) -> dict[str, Any]:
    steps, values = _judged(item, settings, soft=False)
    problem = item.solution.problem.prompt.strip()
    steps = [step.strip() for step in steps]
    _start_is_found(item, problem, steps[0])
    turns = []
    for step, value in zip([f"{problem} {steps[0]}", *steps[1:]], values):
        turns += [{"role": "user", "content": step}, {"role": "assistant", "content": "+" if value == 1.0 else "-"}]
    return {"conversations": turns}


def _math_shepherd(item: LabeledSolution, settings: WriteSettings) -> dict[str, Any]:
    steps, values = _judged(item, settings, soft=False)
    problem = item.solution.problem.prompt.strip()
    steps = [step.strip() for step in steps]
    for index, text in enumerate([problem, *steps]):
        if _TAG in text:
            raise _error(item, f"holds the format's tag {_TAG!r} in its text", f"steps[{index - 1}]" if index else "problem",
                         "a reader could not tell it from the end of a step", value=text)
    _start_is_found(item, problem, steps[0])
    marks = ["+" if value == 1.0 else "-" for value in values]
    text = [f"{problem} " + "\n".join(f"{step} {mark}" for step, mark in zip(steps, column))
            for column in ([_TAG] * len(steps), marks)]
    return {"input": text[0], "label": text[1], "task": str(item.solution.problem.meta.get("task", ""))}


def _process_bench(item: LabeledSolution, settings: WriteSettings) -> dict[str, Any]:
    solution = item.solution
    if item.labels is None or item.labels.first_error is None:
        raise _error(item, "has an unknown first error", "first_error", "ProcessBench needs its index, or -1", value=None)
    steps = _numbered(list(solution.steps)) if settings.number_steps else list(solution.steps)
    return {"id": item.id, "generator": solution.generator, "problem": solution.problem.prompt, "steps": steps,
            "final_answer_correct": solution.correct, "label": item.labels.first_error}


def _own(item: LabeledSolution, settings: WriteSettings) -> dict[str, Any]:
    if settings != WriteSettings():
        raise InputError("has no effect on our own format, which can say everything", field="round_at, unjudged, number_steps",
                         hint="leave the option out")
    return to_row(item)


WRITERS: dict[str, Writer] = {writer.name: writer for writer in (
    Writer("jaxprm", "our own rows, without loss", _own),
    Writer("trl", "{prompt, completions, labels}: TRL's stepwise supervision", _trl),
    Writer("rlhflow", "chat of steps and judgements", _rlhflow),
    Writer("math-shepherd", "one text with a tag behind every step", _math_shepherd),
    Writer("processbench", "{id, generator, problem, steps, final_answer_correct, label}", _process_bench),
)}
