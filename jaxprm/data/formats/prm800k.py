"""PRM800K in its native form: trees of rated candidate steps.

A row is one labelling session. At every position of the solution there are candidate completions with a rating (-1, 0, 1 or
null); ``chosen_completion`` says which of them the solution went on with, and is null where the labeller wrote the step (then
``human_completion`` holds it) or where the session ended. Phase 1 has several candidates per position; in phase 2 a solution is
rated step by step until its first error, whose position has one candidate that nobody chose.

    positions   0: [a*, b]   1: [c, d] + human h*   2: [e*]          (* = taken)
    trajectory  a h e
    alternatives    b;   a c;   a d                                  (prefix of what was taken + one candidate)
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxprm.data.formats.base import COMPUTE, Format, Row
from jaxprm.data.formats.rows import Fields
from jaxprm.records import LabeledSolution

_Step = tuple[str, int | None]  # text, rating


def _candidate(fields: Fields) -> _Step:
    rating = fields.data.get("rating")
    if rating is not None and (isinstance(rating, bool) or rating not in (-1, 0, 1)):
        raise fields.error("must be -1, 0, 1 or null", "rating", value=rating)
    return fields.text("text"), None if rating is None else int(rating)


def _taken(position: Fields, candidates: list[_Step], last: bool) -> tuple[_Step | None, int | None, bool]:
    """(the step that the solution went on with, its index among the candidates, whether the labeller wrote it)."""
    chosen = position.data.get("chosen_completion")
    if chosen is not None:
        if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(candidates):
            raise position.error(f"is not one of the {len(candidates)} completions", "chosen_completion", value=chosen)
        return candidates[chosen], chosen, False
    if position.name("human_completion"):
        text, rating = _candidate(position.child("human_completion"))
        return (text, 1 if rating is None else rating), None, True  # labellers write a step only to get on: it counts as good
    if not last:
        raise position.error("is null, no human_completion is given, and the solution goes on", "chosen_completion",
                             value=None, hint="what the later steps follow is unknown")
    return (candidates[0], 0, False) if len(candidates) == 1 else (None, None, False)


def _read(row: Row, *, alternatives: bool) -> Iterator[LabeledSolution]:
    question, label = row.child("question"), row.child("label")
    problem, answer = question.text("problem"), question.text_or_none("ground_truth_answer")
    finish = label.text_or_none("finish_reason")
    identifier, generation = row.identifier("id"), row.data.get("generation")
    shared = {"problem_id": identifier, "answer": answer, "generator": "GPT-4 finetune (PRM800K)"}
    about = {"finish_reason": finish, "labeler": row.text_or_none("labeler"), "generation": generation}
    about = {name: value for name, value in about.items() if value is not None}

    path: list[_Step] = []
    human, siblings = [], []
    positions = label.children("steps")
    for depth, position in enumerate(positions):
        completions = position.children("completions") if position.name("completions") else []
        candidates = [_candidate(fields) for fields in completions]
        taken, index, written = _taken(position, candidates, depth == len(positions) - 1)
        siblings.append([candidate for at, candidate in enumerate(candidates) if at != index])
        human.append(written)
        if taken is None:
            break
        path.append(taken)
    if not path and not any(siblings):
        raise row.error("has no steps", "label.steps", hint="sessions that ended before the first step carry no labels")

    if path:
        meta = dict(about)
        if any(human):
            meta["human_written"] = [step for step, written in enumerate(human) if written]
        if not alternatives and any(siblings):
            meta["alternatives"] = [[{"text": text, "rating": rating} for text, rating in options] for options in siblings]
        yield row.solution(problem, [text for text, _ in path], ratings=[rating for _, rating in path], first_error=COMPUTE,
                           id=f"{identifier}/chosen" if alternatives else identifier, meta=meta, **shared)
    if not alternatives:
        return
    for depth, options in enumerate(siblings):
        for number, (text, rating) in enumerate(options):
            steps = [*path[:depth], (text, rating)]
            # An alternative that is right says nothing of what would follow: only an error is known.
            item = row.solution(problem, [text for text, _ in steps], ratings=[rating for _, rating in steps], first_error=None,
                                id=f"{identifier}/{depth}.{number}", meta=about | {"depth": depth}, **shared)
            yield item


_CITATION = "Lightman et al. 2023, Let's Verify Step by Step, arXiv 2305.20050; github.com/openai/prm800k (MIT)"
_DEFAULTS = {"neutral": "good", "after_error": "keep"}

PRM800K = Format(
    "prm800k", "Trees of rated steps; one solution per session, the path that was taken, with the other candidates in meta.",
    _CITATION, "human", lambda row: _read(row, alternatives=False), _DEFAULTS)
PRM800K_ALTERNATIVES = Format(
    "prm800k-alternatives", "As prm800k, and one more solution per candidate that was not taken: prefix + candidate.",
    _CITATION, "human", lambda row: _read(row, alternatives=True), _DEFAULTS)
FORMATS = (PRM800K, PRM800K_ALTERNATIVES)
