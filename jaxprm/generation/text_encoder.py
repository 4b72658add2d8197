"""How a published language model is asked, and what it has written: any tokenizer, any separator."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprm.errors import InputError
from jaxprm.generation.stops import Stops, stop_at_text
from jaxprm.steps.format import StepFormat
from jaxprm.steps.hf_tokenizer import HFTokenizer

SEPARATOR = "\n\n"
"""Where steps end unless a format says otherwise: between paragraphs."""


class TextEncoder:
    """Prompt text -> ids, ids -> the text of a step, for a model that goes on from what it has written itself.

    What stands behind the separator in the token that completes it belongs to no step; the model has read it.

    Args:
      tokenizer: of the checkpoint.
      end_ids: tokens that end a solution.
      step_format: its ``prompt_prefix``, ``prompt_suffix`` and ``separator`` are read; a begin token comes first where the
        tokenizer adds one, as servers do. ``None`` = the checkpoint's chat template, and `SEPARATOR`.
      system: what the chat template is told before the problem; "" = nothing.

    Raises (at construction):
      InputError: no chat template, or a separator that cannot be followed token by token.
    """

    def __init__(self, tokenizer: HFTokenizer, end_ids: Sequence[int], step_format: StepFormat | None = None, system: str = ""):
        if step_format is None and tokenizer.chat is None:
            raise InputError("must be given: this model has no chat template", field="step_format",
                             hint="give the text around a problem (prompt_prefix, prompt_suffix) and the separator")
        if step_format is not None and system:
            raise InputError("is a message of a chat template", field="system", value=system,
                             hint="write it into prompt_prefix, or leave step_format out")
        self.tokenizer, self.end_ids, self.format, self.system = tokenizer, tuple(end_ids), step_format, system
        self.separator = SEPARATOR if step_format is None else step_format.separator
        if not self.separator or not self.separator.isascii():  # bytes of other characters may be spread over tokens
            raise InputError("must be ASCII text: a step ends at it", field="separator", value=self.separator)

    def encode_prompt(self, problem: str) -> list[int]:
        """Ids of the problem as the model reads it, up to where the first step starts."""
        if self.format is None:
            messages = [{"role": "system", "content": self.system}] if self.system else []
            text = self.tokenizer.chat.render([*messages, {"role": "user", "content": problem}], add_generation_prompt=True)
            return self.tokenizer.encode(text)
        ids = self.tokenizer.encode(self.format.prompt_prefix + problem + self.format.prompt_suffix)
        begin = [self.tokenizer.bos_id] if self.tokenizer.add_bos else []
        return ids if ids[: len(begin)] == begin else begin + ids

    def stops(self, rows: int) -> Stops:
        """Where steps and solutions end; ``rows`` of the embedding table."""
        return stop_at_text(self.separator, self.tokenizer.piece_texts(), self.end_ids, rows)

    def decode_step(self, ids: Sequence[int], ended: bool) -> str:
        """The text of a step without its separator; ``ended``: its last token is one that ends the solution."""
        return self.tokenizer.decode(ids[:-1] if ended else ids).partition(self.separator)[0]
