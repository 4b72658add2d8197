"""Token ids and labels as TRL's ``PRMTrainer`` makes them (trl 1.13.0, ``tokenize_row``), restated.

A checkpoint that TRL trained must be scored on the tokens it was trained on, and those differ from the text joined and
tokenised as a whole: prompt and steps are encoded apart, nothing stands between the prompt and the first step, and a separator
of several tokens carries its label on the last of them.

    begin?, prompt ..., step 1 ..., separator, step 2 ..., separator
                                    ^ label 1              ^ label 2       -100 everywhere else
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxprm.errors import InputError
from jaxprm.steps.tokenizers import Tokenizer

IGNORED = -100  # a position without a label


def tokenize_trl_row(prompt: str, steps: Sequence[str], labels: Sequence[float], tokenizer: Tokenizer, *,
                     bos_id: int | None = None, separator: str = "\n", max_length: int | None = 1024,
                     max_completion_length: int | None = None, last_step_only: bool = False) -> tuple[list[int], list[int]]:
    """One row of stepwise supervision -> (ids, label at each id).

    Args:
      prompt, steps, labels: a label per step. TRL cuts labels to whole numbers (0.9 becomes 0), and so does this.
      tokenizer: encodes without special tokens.
      bos_id: stands first if given; TRL gives it whenever the tokenizer defines a begin token.
      separator: text that closes every step, encoded on its own; may be several tokens.
      max_completion_length: cuts the steps' tokens from the right, before the prompt is put in front.
      max_length: cuts the whole row from the right. Labels behind a cut are lost.
      last_step_only: keeps the label of the last step alone.

    Raises:
      InputError: as many labels as steps are needed, and a step with its separator must have a token.
    """
    if len(labels) != len(steps):
        raise InputError(f"has {len(labels)} labels for {len(steps)} steps", field="labels", value=list(labels))
    end = tokenizer.encode(separator) if separator else []
    ids: list[int] = []
    marks: list[int] = []
    for place, (step, label) in enumerate(zip(steps, labels, strict=True)):
        pieces = tokenizer.encode(step) + end
        if not pieces:
            raise InputError("has no token to carry its label", field="step", value=step, hint="use a separator")
        kept = IGNORED if last_step_only and place + 1 < len(steps) else int(label)
        ids += pieces
        marks += [IGNORED] * (len(pieces) - 1) + [kept]
    ids, marks = ids[:max_completion_length], marks[:max_completion_length]
    first = ([] if bos_id is None else [bos_id]) + tokenizer.encode(prompt)
    return (first + ids)[:max_length], ([IGNORED] * len(first) + marks)[:max_length]
