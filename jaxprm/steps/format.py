"""How a problem and its steps become tokens, and at which token each step's score is read.

Step boundaries are recorded while encoding, never searched for in text again: a solution is the concatenation of its
per-step encodings, so a step has the same ids alone, in a prefix, and in a whole solution.

    prompt "Q?", steps ("a b", "c")        separator "\\n"
    ids        [Q, ?, \\n,  a, b, \\n,  c, \\n]
    step_ends  [                  5,       7]     (readout "at": the separator token itself)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from jaxprm.errors import InputError
from jaxprm.records import NeutralPolicy
from jaxprm.steps.tokenizers import Tokenizer

Readout = Literal["at", "before", "last"]


@dataclasses.dataclass(frozen=True)
class StepFormat:
    """Everything a checkpoint needs to know about text; saved with it and checked against its tokenizer at load.

    Attributes:
      prompt_prefix, prompt_suffix: text around the problem.
      separator: text that closes a step; always encoded on its own, so joint tokenisation cannot change it.
      readout: the token whose hidden state carries a step's score: "at" the separator token, "before" it (the last token of
        the step's own text), or "last": the last token of the step's text, where there is no separator at all.
      begin: whether a begin-of-text token stands first.
      begin_token, end_token: vocabulary entries for begin and end of text; ``end_token`` closes a generated solution.
      neutral: how a neutral human rating counted when the model was trained.
      aggregation: the default way from step scores to one solution score.
    """

    prompt_prefix: str = ""
    prompt_suffix: str = "\n"
    separator: str = "\n"
    readout: Readout = "at"
    begin: bool = True
    begin_token: str = "<s>"
    end_token: str = "</s>"
    neutral: NeutralPolicy = "good"
    aggregation: str = "min"

    def __post_init__(self):
        if self.readout not in ("at", "before", "last"):
            raise InputError("must be one of at, before, last", field="readout", value=self.readout)
        if (self.readout == "last") != (self.separator == ""):
            raise InputError("readout 'last' goes with an empty separator, the others need one", field="separator",
                             value=self.separator)
        if self.neutral not in ("good", "bad", "ignore"):
            raise InputError("must be one of good, bad, ignore", field="neutral", value=self.neutral)


class StepEncoder:
    """A `StepFormat` bound to a tokenizer.

    Raises (at construction):
      InputError: a begin, end or separator token that the vocabulary lacks or splits.
    """

    def __init__(self, step_format: StepFormat, tokenizer: Tokenizer):
        self.format, self.tokenizer = step_format, tokenizer
        self.begin_id = self._special(step_format.begin_token, "begin_token") if step_format.begin else None
        self.end_id = self._special(step_format.end_token, "end_token")
        self.separator_id: int | None = None
        if step_format.separator:
            self.separator_id = tokenizer.token_id(step_format.separator)
            if self.separator_id is None:
                ids = tokenizer.encode(step_format.separator)
                raise InputError(f"the tokenizer splits it into {len(ids)} tokens {ids}", field="separator",
                                 value=step_format.separator,
                                 hint="train the tokenizer with the separator as a symbol, or choose another separator")

    @property
    def aggregation(self) -> str:
        """The default way from step scores to one solution score."""
        return self.format.aggregation

    @property
    def read_back(self) -> int:
        """Tokens between the one where a step is read and the step's last token."""
        return 1 if self.format.readout == "before" else 0

    def _special(self, piece: str, field: str) -> int:
        found = self.tokenizer.token_id(piece)
        if found is None:
            raise InputError("is not in the tokenizer's vocabulary", field=field, value=piece)
        return found

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of the problem as the model reads it, up to where the first step starts."""
        begin = [self.begin_id] if self.begin_id is not None else []
        return begin + self._pieces(self.format.prompt_prefix + prompt + self.format.prompt_suffix)

    def _pieces(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def encode_step(self, step: str) -> list[int]:
        """Ids of one step including its separator.

        Raises:
          InputError: the step is empty, contains the separator, or has no token.
        """
        if not step.strip():
            raise InputError("is an empty step", field="step", value=step, hint="drop empty steps")
        if self.format.separator and self.format.separator in step:
            raise InputError(f"contains the separator {self.format.separator!r}", field="step", value=step,
                             hint="split it there, or replace the separator inside the step")
        ids = self.tokenizer.encode(step)
        if not ids:
            raise InputError("has no token", field="step", value=step, hint="its tokenizer drops all of its text")
        return ids if self.separator_id is None else [*ids, self.separator_id]

    def encode(self, prompt: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of prompt and steps, and the index of the token where each step is read (one per step)."""
        ids = self.encode_prompt(prompt)
        ends = []
        for step in steps:
            ids += self.encode_step(step)
            ends.append(len(ids) - 1 - self.read_back)
        return ids, ends

    def decode_steps(self, ids: Sequence[int]) -> tuple[tuple[str, ...], bool]:
        """Generated ids (after the prompt) -> (steps, finished). Text behind the last separator is an unfinished step and
        is kept as one; empty steps are kept as "" so that a policy that emits them is seen."""
        steps: list[str] = []
        current: list[int] = []
        for token in ids:
            if token == self.end_id:
                return tuple(steps + ([self.tokenizer.decode(current)] if current else [])), True
            if token == self.separator_id:
                steps.append(self.tokenizer.decode(current))
                current = []
            else:
                current.append(int(token))
        return tuple(steps + ([self.tokenizer.decode(current)] if current else [])), False
