"""Families that encode every piece of text alone: joint tokenisation never merges a step with its separator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.families.base import Evidence, Family, FamilyEncoder, Settings, TextTokenizer, mark_id
from jaxprm.hub.families.heads import DIFFERENCE, SCALAR, TWO_LABELS


class PiecewiseEncoder(FamilyEncoder):
    """``encode(problem) + encode(step) + encode(separator) + ...``; a step is read at the separator's last token.

    Args:
      begin: ids in front of everything.
      separator: text behind every step; it may be several tokens (TRL).
    """

    def __init__(self, tokenizer: TextTokenizer, begin: Sequence[int], separator: str, aggregation: str):
        super().__init__(tokenizer)
        self.begin, self.separator, self.aggregation = list(begin), separator, aggregation
        self.separator_ids = tokenizer.encode(separator)
        if not self.separator_ids:
            raise InputError("has no token", field="separator", value=separator, hint="choose a separator with text")

    def encode(self, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        ids, ends = self.begin + self.tokenizer.encode(problem), []
        for step in steps:
            ids += self.tokenizer.encode(step) + self.separator_ids
            ends.append(len(ids) - 1)
        return ids, ends

    def describe(self) -> list[tuple[str, str]]:
        begin = f"begin token (id {self.begin[0]}) + " if self.begin else ""
        return [("template", f"{begin}problem, then step + separator, each encoded alone"),
                ("separator", f"{self.separator!r} (ids {self.separator_ids})"),
                ("score is read", "at the separator's last token")]


class SkyworkEncoder(FamilyEncoder):
    """``encode(bos + problem + newline)``, then every *line* of the solution alone, each closed by a newline token.

    The model scores lines. A step of several lines has the score of its last line, which has seen the whole step:

        steps  ("a\\nb", "c")
        ids    [.. \\n,  a, \\n,  b, \\n,  c, \\n]
        ends   [                   ^       ^ ]
    """

    def __init__(self, tokenizer: Any):
        super().__init__(tokenizer)
        self.aggregation = "mean"
        self.newline = mark_id(tokenizer, "\n", "separator")
        if not tokenizer.bos_token:
            raise InputError("the tokenizer has no begin token, the family needs one", field="bos_token")

    def encode(self, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        ids, ends = self.tokenizer.encode(f"{self.tokenizer.bos_token}{problem}\n"), []
        for step in steps:
            for line in step.split("\n"):
                ids += [*self.tokenizer.encode(line), self.newline]
            ends.append(len(ids) - 1)
        return ids, ends

    def describe(self) -> list[tuple[str, str]]:
        return [("template", f"{self.tokenizer.bos_token!r} + problem + newline, then every line alone"),
                ("separator", f"'\\n' (id {self.newline})"),
                ("score is read", "at the newline behind a step's last line (the model scores lines)")]


def _bind_trl(tokenizer: Any, settings: Settings) -> PiecewiseEncoder:
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return PiecewiseEncoder(tokenizer, begin, "\n" if settings.separator is None else settings.separator, "min")


def _bind_pure(tokenizer: Any, settings: Settings) -> PiecewiseEncoder:
    return PiecewiseEncoder(tokenizer, [], "\n\n" if settings.variant else "\n", "min")


def _fits_trl(seen: Evidence) -> bool:
    return seen.architecture.endswith("ForTokenClassification")


TRL = Family("trl", _bind_trl, TWO_LABELS, _fits_trl, reads=("separator",))
PURE = Family("pure", _bind_pure, DIFFERENCE,
              lambda seen: seen.architecture == "Qwen2ForTokenClassification",
              variants={"double_newline": "PRMBench: the separator is an empty line"})
SKYWORK = Family("skywork", lambda tokenizer, settings: SkyworkEncoder(tokenizer), SCALAR,
                 lambda seen: seen.architecture == "Qwen2ForPrmModel")
