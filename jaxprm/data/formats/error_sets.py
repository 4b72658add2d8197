"""Formats that judge every step, or list all wrong ones: PRMBench, Socratic-PRMBench, DeltaBench, PARC."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from jaxprm.data.formats.base import Format, Row
from jaxprm.records import LabeledSolution


def _from_wrong_steps(row: Row, numbers: list, steps: int, field: str) -> list[int]:
    """Ratings from the list of all wrong steps, by their numbers in the file."""
    ratings = [1] * steps
    for index, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, int):
            raise row.error("must be a whole number", f"{field}[{index}]", value=number)
        ratings[row.index(number, steps, f"{field}[{index}]")] = -1
    return ratings


def _prm_bench(row: Row) -> Iterator[LabeledSolution]:
    steps = row.texts("modified_process")
    field = row.name("error_steps") or "error_steps"
    ratings = _from_wrong_steps(row, row.items(field), len(steps), field)
    used = ("modified_process", "modified_question", "question", "original_process", "original_question", "error_steps", "idx")
    identifier = row.identifier("idx", "id")
    meta = row.rest(*used) | ({"idx": row.data["idx"]} if row.name("idx") else {})
    problem, original = row.text("modified_question", "question", "original_question"), row.text_or_none("original_question")
    if original is not None and original != problem:  # some edits are of the question
        meta["original_question"] = original
    yield row.solution(problem, steps, ratings=ratings, id=identifier, meta=meta)


def _prm_bench_original(row: Row) -> Iterator[LabeledSolution]:
    steps, identifier = row.texts("original_process"), row.identifier("idx", "id")
    yield row.solution(row.text("original_question", "question"), steps, ratings=[1] * len(steps), first_error=-1,
                       id=f"{identifier}/original", problem_id=identifier, meta={"idx": identifier})


def _socratic(row: Row) -> Iterator[LabeledSolution]:
    steps, numbers = row.texts("modified_process"), row.items("error_steps")
    # Every solution of this set was edited to hold an error: an empty list does not say "none", but not where.
    ratings = _from_wrong_steps(row, numbers, len(steps), "error_steps") if numbers else None
    used = ("modified_process", "modified_question", "question", "original_process", "original_question", "error_steps")
    yield row.solution(row.text("modified_question", "question", "original_question"), steps, ratings=ratings,
                       first_error="compute" if numbers else None, id=row.identifier("idx", "id"), meta=row.rest(*used))


def _sections(row: Row) -> list[str]:
    """The sections of a long answer: a list of objects, or (in the table) one text with "section1: " ... before each."""
    if isinstance(row.data.get("sections"), list):
        return [part.text("content", "section") for part in row.children("sections")]
    name = row.name("sections_content", "section_content") or "sections"
    text, sections, start = row.text(name), [], 0
    marks = [re.search(r"^\s*section1:", text)]
    while marks[-1] is not None:
        start = marks[-1].end()
        following = re.compile(rf"\nsection{len(marks) + 1}:").search(text, start)
        sections.append(text[start:following.start() if following else len(text)].strip())
        marks.append(following)
    if not sections:
        raise row.error("does not begin with 'section1:'", name, value=text)
    return sections


def _numbers(row: Row, *names: str) -> list:
    """A list, or the same as text, which a table holds."""
    name = row.name(*names)
    if name is None or not isinstance(row.data[name], str):
        return row.items(*names)
    try:
        return list(json.loads(row.data[name]))
    except (ValueError, TypeError):
        raise row.error("must be a list of numbers", name, value=row.data[name]) from None


def _delta_bench(row: Row) -> Iterator[LabeledSolution]:
    sections = _sections(row)
    unuseful = ("reason_unuseful_section_numbers", "idea_error_section_numbers")  # the names of the file and of early code
    false = ("reason_error_section_numbers", "error_section_numbers")
    lists = [_numbers(row, *unuseful), _numbers(row, *false)]
    wrong = [number for index, number in enumerate(lists[0] + lists[1]) if number not in (lists[0] + lists[1])[:index]]
    ratings = _from_wrong_steps(row, wrong, len(sections), row.name(*false) or false[0])
    # A long answer is right or wrong as a whole; "wrong" without a section tells nothing about the sections.
    unlocated = row.data.get("evaluation_label") == 1 and not wrong
    used = ("sections", "sections_content", "section_content", "long_cot", "question", "answer", "id", *unuseful, *false)
    yield row.solution(row.text("question"), sections, ratings=None if unlocated else ratings,
                       first_error=None if unlocated else "compute", id=row.identifier("id"), answer=row.text_or_none("answer"),
                       generator=row.text_or_none("model", "generator"),
                       meta=row.rest(*used) | {"unuseful_sections": lists[0]})


def _parc(row: Row) -> Iterator[LabeledSolution]:
    steps = row.texts("steps")
    ratings: list[int | None] = [None] * len(steps)
    kinds: list[list[str]] = [[] for _ in steps]
    annotation = row.child("error_annotation")
    if annotation.name("error_annotations"):
        annotation = annotation.child("error_annotations")
    for part in annotation.children("step_level"):
        index = row.index(part.integer("step_number"), len(steps), "step_number")
        if ratings[index] is not None:
            raise part.error("is judged twice", "step_number", value=part.data["step_number"])
        ratings[index] = -1 if part.flag_or_none("has_error") else 1
        kinds[index] = [error.text("error_type") for error in part.children("errors")] if part.name("errors") else []
    answer, final = row.text_or_none("ground_truth_answer"), row.text_or_none("model_answer")
    used = ("question", "steps", "error_annotation", "ground_truth_answer", "model_answer", "is_correct", "id")
    yield row.solution(row.text("question"), steps, ratings=ratings, id=row.identifier("id"), answer=answer,
                       final_answer=final, correct=row.flag_or_none("is_correct"),
                       meta=row.rest(*used) | {"error_types": kinds})


_ALL = {"after_error": "keep", "index_base": 1}
_PRMBENCH = "Song et al. 2025, PRMBench, arXiv 2501.03124; huggingface.co/datasets/hitsmy/PRMBench_Preview"

FORMATS = (
    Format("prmbench", "A solution edited to hold one kind of error; error_steps lists all wrong steps, counted from 1.",
           _PRMBENCH, "GPT-4o edits, filtered by humans", _prm_bench, _ALL),
    Format("prmbench-original", "The solutions that PRMBench was edited from, all steps right.", _PRMBENCH,
           "human (PRM800K)", _prm_bench_original, {}),
    Format("socratic-prmbench", "As PRMBench, by pattern of reasoning; an empty error_steps = the error is not located.",
           "Li et al. 2025, Socratic-PRMBench, arXiv 2505.23474 (github.com/Xiang-Li-oss/Socratic-PRMBench)",
           "language models, checked by humans", _socratic, _ALL),
    Format("deltabench", "Sections of long chains of thought; two lists of wrong sections (of no use, false), from 1.",
           "He et al. 2025, DeltaBench, arXiv 2502.19361 (github.com/OpenStellarTeam/DeltaBench)", "human", _delta_bench, _ALL),
    Format("parc", "Every step judged, errors that follow from earlier ones included; step numbers from 1.",
           "Mukherjee et al. 2025, Premise-Augmented Reasoning Chains, arXiv 2502.02362 (github.com/SagnikMukherjee/PARC)",
           "language models, checked by humans", _parc, _ALL),
)
