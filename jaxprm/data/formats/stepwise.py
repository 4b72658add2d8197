"""Formats with a list of steps and a list of labels: TRL, ActPRM, UnPRM, ThinkPRM, and text that is still to be cut."""

from __future__ import annotations

from collections.abc import Iterator

from jaxprm.data.formats.base import COMPUTE, Format, Row
from jaxprm.data.formats.marked import mark_value
from jaxprm.records import LabeledSolution


def _trl(row: Row) -> Iterator[LabeledSolution]:
    name = row.name("labels", "label") or "labels"
    marks = row.items(name)
    # Numbers between 0 and 1 stay soft labels (TRL itself cuts them to whole numbers: 0.7 would become 0).
    values = [mark_value(row, mark, f"{name}[{index}]") for index, mark in enumerate(marks)]
    steps = row.texts("completions")
    if len(marks) != len(steps):
        raise row.error(f"has {len(marks)} labels for {len(steps)} steps", name)
    yield row.solution(row.text("prompt"), steps, soft=values, id=row.identifier("id"), answer=row.text_or_none("answer"),
                       meta=row.rest("prompt", "completions", "labels", "label", "id", "answer"))


def _actprm(row: Row) -> Iterator[LabeledSolution]:
    problem, steps, field = row.text("question", "problem"), row.texts("steps"), row.settings.label_field
    meta = row.rest("question", "problem", "steps", field, "id")
    label = row.data.get(field)
    if isinstance(label, int) and not isinstance(label, bool):  # the place of the first error; -1 = none
        wrong = -1 if label == -1 else row.index(label, len(steps), field)
        ratings = [1] * len(steps) if wrong < 0 else [1] * wrong + [-1] + [None] * (len(steps) - wrong - 1)
        yield row.solution(problem, steps, ratings=ratings, first_error=wrong, id=row.identifier("id"), meta=meta)
        return
    marks = row.items(field)
    if len(marks) > len(steps):
        raise row.error(f"has {len(marks)} labels for {len(steps)} steps", field)
    # -100 = not judged; a list that ends early was cut behind the first error.
    values = [None if mark == -100 else mark_value(row, mark, f"{field}[{index}]") for index, mark in enumerate(marks)]
    values += [None] * (len(steps) - len(marks))
    yield row.solution(problem, steps, soft=values, first_error=COMPUTE, id=row.identifier("id"), meta=meta)


def _steps_with_labels(row: Row) -> Iterator[LabeledSolution]:
    parts = row.children("steps_with_labels")
    values = [mark_value(row, part.data.get("label"), f"steps_with_labels[{index}].label") for index, part in enumerate(parts)]
    yield row.solution(row.text("question", "problem"), [part.text("step", "text") for part in parts], soft=values,
                       id=row.identifier("id"), meta=row.rest("question", "problem", "steps_with_labels", "id"))


def _text(row: Row) -> Iterator[LabeledSolution]:
    from jaxprm.steps.segmenters import find_segmenter  # the room below takes a moment to load; few formats need it

    text = row.text("solution", "response", "completion", "output", "text")
    steps = [step.strip() for step in find_segmenter(row.settings.segmenter)(text)]
    yield row.solution(row.text("problem", "question", "prompt", "instruction"), [step for step in steps if step],
                       id=row.identifier("id"), answer=row.text_or_none("answer", "ground_truth"),
                       correct=row.flag_or_none("final_correct", "correct"), generator=row.text_or_none("generator", "model"),
                       meta={})


FORMATS = (
    Format("trl", "Stepwise supervision: {prompt, completions: steps, labels: one boolean or number in [0, 1] per step}.",
           "TRL's stepwise supervision type (huggingface.co/docs/trl, until 1.13)", "as in the file", _trl,
           {"after_error": "keep", "bad_at_most": 0.0}),
    Format("actprm", "{question, steps, labels}; -100 or a list that ends early = not judged; a number = first error from 0.",
           "Duan et al. 2025, Efficient Process Reward Model Training via Active Learning, arXiv 2504.10559 "
           "(github.com/sail-sg/ActivePRM)", "ensemble and judge", _actprm,
           {"after_error": "keep", "index_base": 0, "bad_at_most": 0.0, "label_field": "labels"}),
    Format("thinkprm", "{question, steps_with_labels: [{step, label: +, -, 1 or 0}]}.",
           "Khalifa et al. 2025, Process Reward Models That Think, arXiv 2504.16828 (github.com/mukhal/ThinkPRM)",
           "as in the file", _steps_with_labels, {"after_error": "keep", "bad_at_most": 0.0}),
    Format("text", "{problem, solution as one text} without labels, cut into steps by --segmenter [default: lines].",
           "jaxprm.steps.segmenters", "not labelled", _text, {"segmenter": "newline"}),
)
