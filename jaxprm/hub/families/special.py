"""Families with a reading of their own: separators that are removed again, one forward pass per prefix, log-ratios."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.families.base import Evidence, Family, FamilyEncoder, Row, Settings, step_error
from jaxprm.hub.families.chat import bind_reasonflux_steps, chat_template, turn
from jaxprm.hub.families.heads import REASONFLUX as REASONFLUX_HEAD
from jaxprm.hub.families.heads import SCALAR, VALIDITY

REASONEVAL_PROMPT = "Question:\n{problem}\nAnswer:\nLet's think step by step.\n"
UNIVERSAL_SYSTEM = "You are a helpful assistant."
UNIVERSAL_ASK = "{problem}\n\n###\n\nThe reference answer is: {reference}"
NO_REFERENCE = "There is no reference answer for this question."
IMPLICIT_COEFFICIENT = 0.001


class ReasonEvalEncoder(FamilyEncoder):
    """The padding token separates steps while encoding and is removed again before the model reads.

    The published scripts note where steps end in the stream without separators. The 7B tokenizer pads with its begin token, so
    that stream has lost its begin token too; it is put back in front, but the notes stay: the token before a step's last one is
    read. The 34B tokenizer pads with another token and reads the last one. Both as published.

        34B  <s> Q ? | a b | c |   ->  <s> Q ? a b c     ends [4, 5]
        7B   <s> Q ? | a b | c |   ->  <s> Q ? a b c     ends [3, 4]
    """

    def __init__(self, tokenizer: Any, last_token: bool = False):
        super().__init__(tokenizer)
        self.separator, self.separator_id = tokenizer.pad_token, tokenizer.pad_id
        if self.separator_id is None:
            raise InputError("the tokenizer has no padding token, which separates the steps", field="pad_token")
        if tokenizer.bos_id is None:
            raise InputError("the tokenizer has no begin token", field="bos_token")
        self.pads_with_begin = self.separator_id == tokenizer.bos_id
        self.shift = 1 if self.pads_with_begin and not last_token else 0

    def encode(self, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        text = REASONEVAL_PROMPT.format(problem=problem) + self.separator
        marks = []
        for index, step in enumerate(steps):
            if self.separator in step:
                raise step_error(f"contains the separator {self.separator!r}", index, step, "split it there, or remove it")
            text += step + self.separator
            marks.append(len(text) - 1)
        stream, spans = self.tokenizer.encode_spans(text, special=True)
        starts = [start for start, _ in spans]
        kept, before = [], []
        for token in stream:
            before.append(len(kept))
            if token != self.separator_id:
                kept.append(token)
        begin = [self.tokenizer.bos_id] if self.pads_with_begin else []
        ends = []
        for index, mark in enumerate(marks):
            at = bisect.bisect_right(starts, mark) - 1
            if stream[at] != self.separator_id:
                raise step_error(f"swallows its separator {self.separator!r}", index, steps[index])
            ends.append(len(begin) + before[at] - 1 - self.shift)
        return begin + kept, ends

    def describe(self) -> list[tuple[str, str]]:
        where = "the token before the step's last one (as published for 7B)" if self.shift else "the step's last token"
        return [("template", f"{REASONEVAL_PROMPT!r} + steps, begin token added"),
                ("separator", f"{self.separator!r} (id {self.separator_id}), removed before the model reads"),
                ("score is read", f"at {where}")]


class PrefixEncoder(FamilyEncoder):
    """One forward pass per prefix: the model gives one number for a whole text, read at its last token.

    `encode` gives the row of the whole solution and, for every step, the index of the last token of *its own* prefix.
    """

    def prefix(self, problem: str, steps: Sequence[str], reference: str | None) -> list[int]:
        """Ids of the problem and these steps."""
        raise NotImplementedError

    def encode(self, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        rows = self.encode_rows(problem, steps)
        return (rows[-1][0] if rows else self.prefix(problem, (), None)), [ends[0] for _, ends in rows]

    def encode_rows(self, problem: str, steps: Sequence[str], reference: str | None = None) -> list[Row]:
        prefixes = [self.prefix(problem, steps[: count + 1], reference) for count in range(len(steps))]
        return [(ids, [len(ids) - 1]) for ids in prefixes]


class UniversalEncoder(PrefixEncoder):
    """Universal-PRM: the prompt holds the reference answer, or says that there is none; the end token closes a prefix."""

    uses_reference_answer = True

    def __init__(self, tokenizer: Any):
        super().__init__(tokenizer)
        self.aggregation = "last"
        self.render = chat_template(tokenizer)
        self.end_id = tokenizer.eos_id
        if self.end_id is None:
            raise InputError("the tokenizer has no end token, which closes each prefix", field="eos_token")

    def prefix(self, problem: str, steps: Sequence[str], reference: str | None) -> list[int]:
        asked = UNIVERSAL_ASK.format(problem=problem, reference=reference or NO_REFERENCE)
        prompt = self.render([turn("system", UNIVERSAL_SYSTEM), turn("user", asked)], add_generation_prompt=True)
        return [*self.tokenizer.encode(prompt + "\n\n".join(steps) + "\n\n"), self.end_id]

    def describe(self) -> list[tuple[str, str]]:
        return [("template", f"chat (system {UNIVERSAL_SYSTEM!r}, user: problem, reference answer), then steps, end token"),
                ("separator", "'\\n\\n' between steps"),
                ("score is read", f"at the end token (id {self.end_id}) of every prefix, one forward pass each")]


class SolutionRewardEncoder(PrefixEncoder):
    """ReasonFlux-PRM-1.5B: one reward for problem + solution. The score of a step is the reward of the solution cut after it,
    so the last score is the published one."""

    max_tokens = 2048

    def __init__(self, tokenizer: Any):
        super().__init__(tokenizer)
        self.aggregation = "last"

    def prefix(self, problem: str, steps: Sequence[str], reference: str | None) -> list[int]:
        return self.tokenizer.encode(problem + "\n\n".join(steps))

    def describe(self) -> list[tuple[str, str]]:
        return [("template", "problem + steps, no separator between them"), ("separator", "'\\n\\n' between steps"),
                ("score is read", "at the last token of every prefix, one forward pass each; the last is the solution's")]


class ImplicitEncoder(FamilyEncoder):
    """EurusPRM and ImplicitPRM: the cumulative log-ratio at boundaries found by encoding every prefix again.

    ``b[k]`` is the number of tokens of the conversation with k steps, minus 2, as the published code counts them (the last
    turn's closing tokens are part of the count). Scores are read at ``b[1..n]``, indices into next-token log-probabilities.

    Args:
      mask: where log-ratios begin to count: at ``b[0]`` ("processbench") or one token earlier ("model_card").
    """

    aggregation = "min"

    def __init__(self, tokenizer: Any, mask: str):
        super().__init__(tokenizer)
        self.mask = mask
        self.render = chat_template(tokenizer)
        self.turn_end = "<|eot_id|>" if tokenizer.token_id("<|eot_id|>") is not None else None

    def _conversation(self, problem: str, numbered: Sequence[str]) -> str:
        return self.render([turn("user", problem), turn("assistant", "\n\n".join(numbered))])

    def encode_rows(self, problem: str, steps: Sequence[str], reference: str | None = None) -> list[Row]:
        numbered = [f"Step {number}: {step}" for number, step in enumerate(steps, 1)]
        ids = self.tokenizer.encode(self._conversation(problem, numbered))
        bounds = []
        for count in range(len(steps) + 1):
            text = self._conversation(problem, numbered[:count]).strip()
            if self.turn_end and count < len(steps):
                text = text.removesuffix(self.turn_end)
            if 0 < count < len(steps):
                text += "\n\n"
            bounds.append(len(self.tokenizer.encode(text)) - 2)
        ends = [min(max(bound, 0), len(ids) - 2) for bound in bounds[1:]]
        return [(ids, ends, max(bounds[0] - (self.mask == "model_card"), 0))]

    def encode(self, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        ids, ends, _ = self.encode_rows(problem, steps)[0]
        return ids, ends

    def describe(self) -> list[tuple[str, str]]:
        first = "one token before the first step's boundary" if self.mask == "model_card" else "the first step's boundary"
        return [("template", "chat (user, assistant: 'Step k: step' in one turn)"), ("separator", "'\\n\\n' between steps"),
                ("score is read", f"{IMPLICIT_COEFFICIENT} x cumulative log-ratio at step boundaries, counted from {first}")]


def _bind_reasonflux(tokenizer: Any, settings: Settings) -> FamilyEncoder:
    return bind_reasonflux_steps(tokenizer) if settings.variant == "7b" else SolutionRewardEncoder(tokenizer)


def _bind_implicit(tokenizer: Any, settings: Settings) -> ImplicitEncoder:
    default = "model_card" if tokenizer.token_id("<|eot_id|>") is not None else "processbench"
    return ImplicitEncoder(tokenizer, settings.variant or default)


def _fits_universal(seen: Evidence) -> bool:
    return seen.model_type == "qwen2" and {"v_head.weight", "v_head.bias"} <= seen.tensors


REASONEVAL = Family("reasoneval", lambda tokenizer, settings: ReasonEvalEncoder(tokenizer, bool(settings.variant)), VALIDITY,
                    lambda seen: seen.architecture.startswith("ReasonEval"),
                    variants={"last_token_of_step": "read a step's last token with every tokenizer"})
UNIVERSAL_PRM = Family("universal-prm", lambda tokenizer, settings: UniversalEncoder(tokenizer), SCALAR, _fits_universal)
REASONFLUX = Family("reasonflux", _bind_reasonflux, REASONFLUX_HEAD, lambda seen: "reward_head.pt" in seen.files,
                    variants={"7b": "ReasonFlux-PRM-7B: a score at every <extra_0>"})
IMPLICIT = Family("implicit", _bind_implicit, None, lambda seen: seen.reference and not seen.adapter,
                  variants={"processbench": "processbench.py: log-ratios count from the first boundary (default for Qwen)",
                            "model_card": "model card: from one token earlier (default for Llama)"})
