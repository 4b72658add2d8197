"""Chats in which the user writes steps and the assistant judges them: RLHFlow, and FoVer's training form."""

from __future__ import annotations

from collections.abc import Iterator

from jaxprm.data.formats.base import Format, Row
from jaxprm.data.formats.marked import separate_problem
from jaxprm.records import LabeledSolution


def _turns(row: Row, good: str, bad: str) -> tuple[list[str], list[int]]:
    """(contents of the user turns, a rating per turn); the turns must alternate and end with a judgement."""
    steps, ratings = [], []
    turns = row.children("conversations", "messages")
    if len(turns) % 2:
        raise row.error(f"has {len(turns)} turns", "conversations", hint="every step needs a judgement behind it")
    for index, turn in enumerate(turns):
        role, content = turn.text("role", "from"), turn.text("content", "value")
        expected = ("user", "human") if index % 2 == 0 else ("assistant", "gpt")
        if role not in expected:
            raise turn.error(f"must be '{expected[0]}' in turn {index + 1}", "role", value=role)
        if index % 2 == 0:
            steps.append(content)
        elif content.strip() in (good, bad):
            ratings.append(1 if content.strip() == good else -1)
        else:
            raise turn.error(f"must be '{good}' or '{bad}'", "content", value=content)
    if not steps:
        raise row.error("is empty", "conversations", value=[])
    return steps, ratings


def _rlhflow(row: Row) -> Iterator[LabeledSolution]:
    steps, ratings = _turns(row, "+", "-")
    problem, steps[0] = separate_problem(row, steps[0], "conversations[0].content")
    yield row.solution(problem, [step.strip() for step in steps], ratings=ratings, id=row.identifier("id"),
                       meta=row.rest("conversations", "messages", "id"))


def _fover(row: Row) -> Iterator[LabeledSolution]:
    problem, steps, marks = row.text("problem", "question"), row.texts("solution_steps"), row.items("error_labels")
    for index, mark in enumerate(marks):
        if mark is not None and not isinstance(mark, bool):
            raise row.error("must be true, false or null", f"error_labels[{index}]", value=mark)
    # Against its name, true means that the step is correct.
    ratings = [None if mark is None else (1 if mark else -1) for mark in marks]
    yield row.solution(problem, steps, ratings=ratings, id=row.identifier("id"), answer=row.text_or_none("y_true", "answer"),
                       # The last three, whose names are the file's, say the same again in prompts.
                       meta=row.rest("problem", "question", "solution_steps", "error_labels", "id", "y_true", "answer",
                                     "messages", "messages_for_prediction", "problem_witout_definition"))


FORMATS = (
    Format("rlhflow", "Chat: the user writes the problem with step 1, then a step per turn; the assistant answers + or -.",
           "Xiong et al. 2024, RLHFlow math-rm; huggingface.co/datasets/RLHFlow/Mistral-PRM-Data, Deepseek-PRM-Data",
           "Monte-Carlo rollouts", _rlhflow, {"after_error": "keep", "problems": None}),
    Format("fover", "{problem, solution_steps, error_labels}; true in error_labels means that the step is correct.",
           "Kamoi et al. 2025, FoVer, arXiv 2505.15960 (github.com/psunlpgroup/FoVer)", "formal verification (Z3, Isabelle)",
           _fover, {"after_error": "keep"}),
)
