"""Formats that say where the first wrong step is: ProcessBench, MR-GSM8K, Mr-Ben, BIG-Bench Mistake, StepVerify.

Steps before it count as right, steps behind it were not judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxprm.data.formats.base import Format, Row
from jaxprm.records import LabeledSolution


def first_error_ratings(steps: int, wrong: int) -> list[int | None]:
    """Ratings of a solution whose first error is at index ``wrong``, -1 = none."""
    return [1] * steps if wrong < 0 else [1] * wrong + [-1] + [None] * (steps - wrong - 1)


def _process_bench(row: Row) -> Iterator[LabeledSolution]:
    steps, label = row.texts("steps"), row.integer("label")
    wrong = -1 if label == -1 else row.index(label, len(steps), "label")
    yield row.solution(row.text("problem"), steps, ratings=first_error_ratings(len(steps), wrong), first_error=wrong,
                       id=row.identifier("id"), correct=row.flag_or_none("final_answer_correct"),
                       generator=row.text_or_none("generator"),
                       meta=row.rest("problem", "steps", "label", "id", "final_answer_correct", "generator"))


def _verdict(row: Row, field: str) -> bool:
    """'correct' or 'incorrect', as whole words: the one is a part of the other."""
    value = row.data.get(field)
    if isinstance(value, bool):
        return value
    words = {"correct": True, "true": True, "incorrect": False, "wrong": False, "false": False}
    word = row.text(field).strip().casefold()
    if word not in words:
        raise row.error("must be 'correct' or 'incorrect'", field, value=value)
    return words[word]


def _located(row: Row, steps: list[str], right: bool, field: str) -> int | None:
    """Index of the first error; -1 = the solution is right; None = wrong at a place that is not told."""
    value = row.data.get(field)
    text = "" if value is None else str(value)
    if right:
        if text.strip().casefold() not in ("", "n/a", "na", "none", "-1"):
            raise row.error("names an error in a solution that is said to be correct", field, value=value)
        return -1
    if text.strip().lstrip("-").isdigit():
        return row.index(int(text), len(steps), field)
    # Code is rated by line, and the field holds the line. It must occur once, or the place is a guess.
    places = [index for index, step in enumerate(steps) if text.strip() and step.strip() == text.strip()]
    return places[0] if len(places) == 1 else None


def _meta_reasoning(row: Row, names: dict[str, tuple[str, ...]]) -> Iterator[LabeledSolution]:
    steps = row.texts(*names["steps"])
    right = _verdict(row, names["verdict"][0])
    wrong = _located(row, steps, right, names["error"][0])
    options = row.text_or_none(*names["options"])
    problem = row.text(*names["problem"]) + (f"\n{options}" if options else "")
    answer_right = row.data.get(names["answer_verdict"][0])
    used = [name for group in names.values() for name in group]
    meta = row.rest(*used) | {"solution_correct": right, "first_error_raw": row.data.get(names["error"][0])}
    identifier, model = row.identifier(*names["id"]), row.text_or_none(*names["model"])
    yield row.solution(problem, steps, ratings=None if wrong is None else first_error_ratings(len(steps), wrong),
                       first_error=wrong, id=f"{identifier}/{model}" if model else identifier, problem_id=identifier,
                       answer=row.text_or_none(*names["answer"]), generator=model, meta=meta,
                       correct=None if answer_right is None else _verdict(row, names["answer_verdict"][0]))


_MR_GSM8K = {"id": ("uuid",), "problem": ("question",), "options": ("options",), "steps": ("model_output_steps",),
             "verdict": ("model_output_solution_correctness",), "error": ("model_output_solution_first_error_step",),
             "answer": ("ground_truth_answer",), "answer_verdict": ("model_output_answer_correctness",),
             "model": ("sampled_model", "model")}
_MR_BEN = {"id": ("Question_UUID", "uuid"), "problem": ("Question",), "options": ("Options",),
           "steps": ("Model_Solution_Steps",), "verdict": ("Model_Solution_Correctness",),
           "error": ("Model_Solution_First_Error_Step",), "answer": ("Ground_Truth_Answer_Modified", "Ground_Truth_Answer"),
           "answer_verdict": ("Model_Answer_Correctness",), "model": ("Sampled_Model",)}


def _big_bench(row: Row) -> Iterator[LabeledSolution]:
    steps, mistake = row.texts("steps"), row.data.get("mistake_index")
    if "mistake_index" not in row.data:
        raise row.error("is missing", "mistake_index", hint="null stands for a solution without a mistake")
    wrong = -1 if mistake is None else row.index(row.integer("mistake_index"), len(steps), "mistake_index")
    answer, target = row.text_or_none("answer"), row.text_or_none("target")
    yield row.solution(row.text("input"), steps, ratings=first_error_ratings(len(steps), wrong), first_error=wrong,
                       id=row.identifier("id"), answer=target, final_answer=answer, generator="PaLM 2-L (Unicorn)",
                       correct=None if answer is None or target is None else answer.strip() == target.strip(),
                       meta=row.rest("input", "steps", "mistake_index", "answer", "target", "id"))


def _step_verify(row: Row) -> Iterator[LabeledSolution]:
    problem, steps, identifier = row.text("problem"), row.texts("student_incorrect_solution"), row.identifier("id")
    number = row.text_or_none("incorrect_index")
    if number is None or not number.strip().isdigit():
        raise row.error("must be the number of a step", "incorrect_index", value=number)
    wrong = row.index(int(number), len(steps), "incorrect_index")
    reference = row.text_or_none("reference_solution")
    lines = [line for line in (reference or "").splitlines() if line.strip()]
    answer = lines.pop().removeprefix("####").strip() if lines and lines[-1].lstrip().startswith("####") else None
    meta = row.rest("problem", "student_incorrect_solution", "incorrect_index", "reference_solution", "incorrect_step", "id")
    yield row.solution(problem, steps, ratings=first_error_ratings(len(steps), wrong), first_error=wrong, answer=answer,
                       id=f"{identifier}/student", problem_id=identifier, correct=False, made_by="human (teachers)",
                       generator="simulated student (MathDial)", meta=meta)
    if lines:
        yield row.solution(problem, lines, ratings=[1] * len(lines), first_error=-1, answer=answer, final_answer=answer,
                           id=f"{identifier}/reference", problem_id=identifier, correct=True, generator="human",
                           made_by="human reference solution", meta={})


_ZERO, _ONE = {"after_error": "keep", "index_base": 0}, {"after_error": "keep", "index_base": 1}

FORMATS = (
    Format("processbench", "{problem, steps, label: first wrong step counted from 0, -1 = none}.",
           "Zheng et al. 2024, ProcessBench, arXiv 2412.06559; huggingface.co/datasets/Qwen/ProcessBench", "human",
           _process_bench, _ZERO),
    Format("mr-gsm8k", "Graded GSM8K solutions with the first wrong step counted from 1, N/A = none.",
           "Zeng et al. 2023, MR-GSM8K, arXiv 2312.17080 (github.com/dvlab-research/MR-GSM8K)", "human",
           lambda row: _meta_reasoning(row, _MR_GSM8K), _ONE),
    Format("mr-ben", "Graded solutions of several subjects with the first wrong step counted from 1 (code: the line itself).",
           "Zeng et al. 2024, MR-Ben, arXiv 2406.13975; huggingface.co/datasets/Randolphzeng/Mr-Ben", "human",
           lambda row: _meta_reasoning(row, _MR_BEN), _ONE),
    Format("bigbench-mistake", "{input, steps, answer, target, mistake_index counted from 0, null = no mistake}.",
           "Tyen et al. 2023, LLMs cannot find reasoning errors, arXiv 2311.08516 (github.com/WHGTyen/BIG-Bench-Mistake)",
           "human (Dyck languages: a program)", _big_bench, _ZERO),
    Format("stepverify", "A student's wrong solution with the first wrong step counted from 0, and the reference solution.",
           "Daheim et al. 2024, Stepwise Verification and Remediation of Student Reasoning Errors, arXiv 2407.09136 "
           "(github.com/eth-lre/verify-then-generate)", "human", _step_verify, _ZERO),
)
