"""Formats with all steps in one text, each closed by a tag: Math-Shepherd, OpenRLHF, ER-PRM, OpenR / MATH-APS.

Where problem and first step are one text, the problem ends where "Step 1:" begins; rows without that need the list of problems
(`ReadSettings.problems`), and are refused without it rather than cut by guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jaxprm.data.formats.base import Format, Row
from jaxprm.records import LabeledSolution

STEP_ONE = re.compile(r"(?:(?<=\s)|^)Step 1\s*:")
"""Where the first step begins in a text that starts with the problem."""


def separate_problem(row: Row, text: str, field: str) -> tuple[str, str]:
    """``problem step`` -> (problem, first step).

    Raises:
      InputError: neither a known problem nor exactly one "Step 1:" tells where the step begins.
    """
    if row.settings.problems is not None:
        found = row.settings.problems.split(text)
        if found is None:
            raise row.error("does not begin with one of the known problems", field, value=text,
                            hint="the file of --problems must hold the problems of this set, word for word")
        return found
    starts = [match.start() for match in STEP_ONE.finditer(text)]
    if len(starts) != 1 or not text[:starts[0]].strip():
        reason = "has no 'Step 1:'" if not starts else "has more than one 'Step 1:'" if len(starts) > 1 else "has no problem"
        raise row.error(f"{reason}, so that the problem cannot be told from the first step", field, value=text,
                        hint="give the file with the original problems (--problems)")
    return text[:starts[0]].strip(), text[starts[0]:].strip()


def mark_value(row: Row, mark, field: str) -> float | None:
    """A label as files write it: '+', '-', a boolean, or a number in [0, 1]; null = not judged."""
    if isinstance(mark, str) and mark.strip() in ("+", "-"):
        return 1.0 if mark.strip() == "+" else 0.0
    if isinstance(mark, bool | int | float) and 0 <= mark <= 1:
        return float(mark)
    if mark is None:
        return None
    raise row.error("must be '+', '-', or a number from 0 to 1", field, value=mark)


def _pieces(row: Row, text: str, tag: str, field: str) -> list[str]:
    """The texts before each tag; what stands behind the last tag must be white space, or it is a step without a label."""
    *pieces, tail = text.split(tag)
    if not pieces:
        raise row.error(f"has no step tag {tag!r}", field, value=text, hint="another tag is given with --step-tag")
    if tail.strip():
        raise row.error("has text behind the last step tag, a step without a label", field, value=tail)
    return pieces


def _match_count(row: Row, pieces: Sequence[str], marks: Sequence, field: str) -> None:
    if len(pieces) != len(marks):
        raise row.error(f"has {len(marks)} labels for {len(pieces)} step tags", field,
                        hint="a step that contains the tag itself, or a broken row")


def _shepherd(row: Row) -> Iterator[LabeledSolution]:
    text, labels, tag = row.text("input"), row.text("label"), row.settings.step_tag
    # input  q Step 1: .. ки\nStep 2: .. ки        A tag that the label text still has belongs to a step's own text.
    # label  q Step 1: .. +\nStep 2: .. -
    pieces, ratings, start, position = [], [], 0, 0
    while (found := text.find(tag, position)) >= 0:
        between = text[position:found]
        if not labels.startswith(between, start):
            break
        start += len(between)
        position = found + len(tag)
        if labels.startswith(tag, start):
            start += len(tag)
            pieces.append(between + tag)
            ratings.append(None)  # joined to the next piece below
        elif labels[start:start + 1] in ("+", "-"):
            ratings.append(1 if labels[start] == "+" else -1)
            pieces.append(between)
            start += 1
        else:
            break
    if found >= 0 or labels[start:].strip() != text[position:].strip():
        raise row.error(f"is not the input with every {tag!r} replaced by + or -", "label", value=labels[start:start + 40],
                        hint="the numbers of steps and labels differ, or another tag is used (--step-tag)")
    if not pieces:
        raise row.error(f"has no step tag {tag!r}", "input", value=text, hint="another tag is given with --step-tag")
    if text[position:].strip():
        raise row.error("has text behind the last step tag, a step without a label", "input", value=text[position:])
    steps, values, open_text = [], [], ""
    for piece, rating in zip(pieces, ratings):
        open_text += piece
        if rating is not None:
            steps.append(open_text)
            values.append(rating)
            open_text = ""
    problem, steps[0] = separate_problem(row, steps[0], "input")
    yield row.solution(problem, [step.strip() for step in steps], ratings=values, id=row.identifier("id"),
                       meta=row.rest("input", "label", "id"))


def _tagged(row: Row, text_field: str, label_field: str) -> Iterator[LabeledSolution]:
    pieces = _pieces(row, row.text(text_field), row.settings.step_tag, text_field)
    marks = row.items(label_field)
    _match_count(row, pieces, marks, label_field)
    values = [mark_value(row, mark, f"{label_field}[{index}]") for index, mark in enumerate(marks)]
    problem, pieces[0] = separate_problem(row, pieces[0], text_field)
    yield row.solution(problem, [piece.strip() for piece in pieces], soft=values, id=row.identifier("id"),
                       meta=row.rest(text_field, label_field, "id"))


def _openr(row: Row) -> Iterator[LabeledSolution]:
    pieces, marks = _pieces(row, row.text("process"), row.settings.step_tag, "process"), row.items("label", "labels")
    _match_count(row, pieces, marks, "label")
    values = [mark_value(row, mark, f"label[{index}]") for index, mark in enumerate(marks)]
    yield row.solution(row.text("question"), [piece.strip() for piece in pieces], soft=values, id=row.identifier("id"),
                       meta=row.rest("question", "process", "label", "labels", "id"))


_TEXT = {"after_error": "keep", "step_tag": "ки", "problems": None}
_SOFT = {"after_error": "keep", "bad_at_most": 0.0, "step_tag": "ки", "problems": None}
_OPENR = {"after_error": "keep", "bad_at_most": 0.0, "step_tag": "\n\n\n\n\n"}

FORMATS = (
    Format("math-shepherd", "One text with a tag behind every step, and the same text with + or - in the tag's place.",
           "Wang et al. 2024, Math-Shepherd, arXiv 2312.08935; huggingface.co/datasets/peiyi9979/Math-Shepherd",
           "Monte-Carlo rollouts", _shepherd, _TEXT),
    Format("openrlhf", "{input: text with a placeholder behind every step, value: one +, - or number per placeholder}.",
           "OpenRLHF train_prm until March 2026 (github.com/OpenRLHF/OpenRLHF)", "as in the file",
           lambda row: _tagged(row, "input", "value"), _SOFT),
    Format("er-prm", "{text: problem and steps with a tag behind every step, value: one entropy-regularised value per step}.",
           "Zhang et al. 2024, Entropy-Regularized Process Reward Model, arXiv 2412.11006 (github.com/hanningzhang/ER-PRM)",
           "Monte-Carlo rollouts, entropy-regularised", lambda row: _tagged(row, "text", "value"), _SOFT),
    Format("openr", "{question, process: steps each closed by five line breaks, label: one + or - per step}.",
           "Wang et al. 2024, OpenR, arXiv 2410.09671 (github.com/openreasoner/openr)", "as in the file", _openr, _OPENR),
    Format("math-aps", "MATH-APS, the OmegaPRM data of OpenR: as openr, one prefix of a solution per row with its one label.",
           "OpenR, arXiv 2410.09671; huggingface.co/datasets/openreasoner/MATH-APS", "Monte-Carlo rollouts (OmegaPRM)", _openr,
           _OPENR),
)
