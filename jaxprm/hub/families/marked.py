"""Families that write a mark after every step and encode the whole text at once.

The text is composed here, so the character where each mark ends is known; the token there is read. Nothing is searched for in
the ids: a mark in the problem, or the same letters inside a word, cannot shift a score.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence

from jaxprm.hub.families.base import FamilyEncoder, TextTokenizer, step_error

Compose = Callable[[str, Sequence[str]], tuple[str, list[int]]]
"""(problem, steps) -> the text, and the index of the last character of every mark."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """The text that closes a step.

    text: what is written.
    token: id of the token that stands for it.
    forbidden: whether a step must not contain it (a special token, which the model would read as a boundary).
    """

    text: str
    token: int
    forbidden: bool = False


class MarkedEncoder(FamilyEncoder):
    """Reads a step at its mark, or ``read_back`` tokens before it.

        text   "Q? Step 1: a ки\\nStep 2: b ки"      the mark " ки" is the token 260
        ids    [1, .., 260, .., 260]
        ends   [     ^         ^  ]
    """

    def __init__(self, tokenizer: TextTokenizer, compose: Compose, mark: Mark, *, special: bool = False, read_back: int = 0,
                 columns: tuple[int, int] | None = None, aggregation: str = "min", template: str):
        super().__init__(tokenizer)
        self.compose, self.mark, self.special, self.read_back = compose, mark, special, read_back
        self.columns, self.aggregation, self.template = columns, aggregation, template

    def encode(self, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        for index, step in enumerate(steps):
            if self.mark.forbidden and self.mark.text in step:
                raise step_error(f"contains the step mark {self.mark.text!r}", index, step,
                                 "split it there, or remove the mark")
        text, marks = self.compose(problem, steps)
        ids, spans = self.tokenizer.encode_spans(text, special=self.special)
        starts = [start for start, _ in spans]
        ends = []
        for index, character in enumerate(marks):
            # Several tokens may stand for one character (bytes); the last of them closes it.
            at = bisect.bisect_right(starts, character) - 1
            if ids[at] != self.mark.token:
                raise step_error(f"swallows its mark {self.mark.text!r}: the tokenizer joins them", index, steps[index],
                                 "remove the white space at the end of the step")
            ends.append(at - self.read_back)
        return ids, ends

    def describe(self) -> list[tuple[str, str]]:
        where = "at the mark" if self.read_back == 0 else f"{self.read_back} token before the mark"
        return [("template", self.template + (", begin token added by the tokenizer" if self.special else "")),
                ("separator", f"{self.mark.text!r} (id {self.mark.token})"), ("score is read", where)]


def join_marked(prefix: str, pieces: Sequence[str], mark: str, between: str = "") -> tuple[str, list[int]]:
    """``prefix + piece + mark + between + piece + mark + ...`` and the index of the last character of every mark.

    In:  "Q ", ("a", "b"), mark "|", between ","
    Out: "Q a|,b|", [3, 6]
    """
    text, marks = prefix, []
    for index, piece in enumerate(pieces):
        text += (between if index else "") + piece + mark
        marks.append(len(text) - 1)
    return text, marks
