"""Formats that judge every step, or list all wrong ones: PRMBench, Socratic-PRMBench, DeltaBench, PARC."""

from __future__ import annotations

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
    name = row.name("modified_process", "process", "steps") or "modified_process"
    steps = [entry if isinstance(entry, str) else None for entry in row.items(name)]
    if None in steps:  # steps may be objects that also name the pattern of reasoning
        steps = [part.text("text", "content", "step") for part in row.children(name)]
    ratings = _from_wrong_steps(row, row.items("error_steps"), len(steps), "error_steps")
    used = ("modified_process", "process", "steps", "modified_question", "question", "original_process", "original_question",
            "error_steps", "idx", "id")
    yield row.solution(row.text("modified_question", "question", "original_question", "problem"), steps, ratings=ratings,
                       id=row.identifier("idx", "id"), meta=row.rest(*used))


def _delta_bench(row: Row) -> Iterator[LabeledSolution]:
    sections = [part.text("content", "section") for part in row.children("sections")]
    wrong = sorted({*row.items("idea_error_section_numbers"), *row.items("error_section_numbers")})
    ratings = _from_wrong_steps(row, wrong, len(sections), "error_section_numbers")
    # A long answer is right or wrong as a whole; "wrong" without a section tells nothing about the sections.
    unlocated = row.data.get("evaluation_label") == 1 and not wrong
    used = ("sections", "sections_content", "section_content", "long_cot", "question", "answer", "id",
            "idea_error_section_numbers", "error_section_numbers")
    yield row.solution(row.text("question"), sections, ratings=None if unlocated else ratings,
                       first_error=None if unlocated else "compute", id=row.identifier("id"), answer=row.text_or_none("answer"),
                       generator=row.text_or_none("model", "generator"),
                       meta=row.rest(*used) | {"idea_error_sections": row.data["idea_error_section_numbers"]})


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
    Format("socratic-prmbench", "As PRMBench, by pattern of reasoning; steps may be objects with a pattern and a text.",
           "Li et al. 2025, Socratic-PRMBench, arXiv 2505.23474", "language models, checked by humans", _socratic, _ALL),
    Format("deltabench", "Sections of long chains of thought; two lists of wrong sections (idea, calculation), from 1.",
           "He et al. 2025, DeltaBench, arXiv 2502.19361 (github.com/OpenStellarTeam/DeltaBench)", "human", _delta_bench, _ALL),
    Format("parc", "Every step judged, errors that follow from earlier ones included; step numbers from 1.",
           "Mukherjee et al. 2025, Premise-Augmented Reasoning Chains, arXiv 2502.02362 (github.com/SagnikMukherjee/PARC)",
           "language models, checked by humans", _parc, _ALL),
)
