"""What a published PRM family is: how text becomes tokens and read positions, which head it has, how it is recognised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxprm.errors import InputError
from jaxprm.hub.families.heads import HeadRule

Row = tuple
"""(ids, ends) or (ids, ends, start): what one forward pass reads. ``start`` is for implicit models only: the first position
whose log-ratio counts."""


@runtime_checkable
class TextTokenizer(Protocol):
    """What families ask of a tokenizer (`jaxprm.steps.hf_tokenizer.HFTokenizer`)."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str, special: bool = False) -> list[int]: ...

    def encode_spans(self, text: str, special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and the characters ``[start, end)`` of the text that each stands for; (0, 0) for added special tokens."""

    def token_id(self, piece: str) -> int | None: ...


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a user may say beyond the family's name. A family refuses a setting that it does not read.

    variant: one of the family's published variants; "" is the main one.
    separator: the text that closes a step, for families whose directory does not store it.
    columns: (good, bad) tokens whose logits are compared.
    """

    variant: str = ""
    separator: str | None = None
    columns: tuple[str, str] | None = None

    def as_json(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        values = {"variant": self.variant or None, "separator": self.separator,
                  "columns": list(self.columns) if self.columns else None}
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a checkpoint shows without loading it.

    tensors: names on disk, without a ``pretrained_model.`` prefix.
    files: names of the files beside the weights.
    adapter: whether the weights are a LoRA adapter; reference: whether a reference model was given.
    """

    architecture: str
    model_type: str
    tensors: frozenset[str]
    files: frozenset[str]
    tokenizer: TextTokenizer
    adapter: bool = False
    reference: bool = False

    def marks(self, *texts: str) -> bool:
        """Whether each text is one token of its own (white space before it aside)."""
        return all(find_mark(self.tokenizer, text) is not None for text in texts)

    @property
    def causal(self) -> bool:
        """A language model without a head of its own."""
        heads = ("score", "v_head", "score_head", "reward_head")
        return (self.architecture.endswith("ForCausalLM") and "reward_head.pt" not in self.files
                and not any(name.split(".")[0] in heads for name in self.tensors))


class FamilyEncoder:
    """Text of one family, bound to a tokenizer.

    Attributes:
      tokenizer: of the checkpoint.
      aggregation: how the family's own code turns step scores into one (`jaxprm.scoring.aggregation`).
      max_tokens: the family's own limit on the length of a row, if it has one.
      columns: ids of the (bad, good) tokens whose logits are compared, where the head is cut out of the vocabulary.
      uses_reference_answer: whether `encode_rows` reads the reference answer.
    """

    aggregation: str = "min"
    max_tokens: int | None = None
    columns: tuple[int, int] | None = None
    uses_reference_answer: bool = False
    reads_empty_steps: bool = True

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer = tokenizer

    def encode(self, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids, and the index of the token at which each step is read: one per step.

        Raises:
          InputError: a step that the family cannot read; it names the step (``steps[k]``).
        """
        raise NotImplementedError

    def encode_rows(self, problem: str, steps: Sequence[str], reference: str | None = None) -> list[Row]:
        """The rows that are read for a solution; together they have one read position per step, in order."""
        return [self.encode(problem, steps)]

    def describe(self) -> list[tuple[str, str]]:
        """(name, value) pairs for ``jaxprm inspect``."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Family:
    """One published family.

    Attributes:
      name: on the command line.
      bind: (tokenizer, settings) -> its encoder.
      head: which head, and which tensors it comes from; ``None`` for implicit models.
      fits: whether a checkpoint may be of this family.
      variants: published variant -> what is different.
      reads: which of the settings ``separator`` and ``columns`` it has.
      separator_field: field of config.json that says the separator, if there is one.
    """

    name: str
    bind: Callable[[Any, Settings], FamilyEncoder]
    head: HeadRule | None
    fits: Callable[[Evidence], bool]
    variants: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reads: tuple[str, ...] = ()
    separator_field: str | None = None

    def encoder(self, tokenizer: TextTokenizer, settings: Settings = Settings()) -> FamilyEncoder:
        """The family's encoder.

        Raises:
          InputError: a setting that the family does not have, or a token that the tokenizer lacks or splits.
        """
        if settings.variant and settings.variant not in self.variants:
            known = ", ".join(self.variants) or "none"
            raise InputError(f"the family {self.name} has no such variant (known: {known})", field="variant",
                             value=settings.variant)
        for field in ("separator", "columns"):
            if getattr(settings, field) is not None and field not in self.reads:
                raise InputError(f"the family {self.name} has a fixed one", field=field, value=getattr(settings, field),
                                 hint="leave it out")
        return self.bind(tokenizer, settings)


def find_mark(tokenizer: TextTokenizer, text: str) -> int | None:
    """Id of the token that stands for ``text`` (white space before it aside), ``None`` if the tokenizer splits it."""
    ids, spans = tokenizer.encode_spans(text)
    first = len(text) - len(text.lstrip()) if text.strip() else 0
    return ids[-1] if ids and spans[-1][0] <= first and (text.strip() or len(ids) == 1) else None


def mark_id(tokenizer: TextTokenizer, text: str, field: str) -> int:
    """As `find_mark`.

    Raises:
      InputError: the tokenizer splits it.
    """
    found = find_mark(tokenizer, text)
    if found is None:
        raise _split(tokenizer, text, field)
    return found


def special_id(tokenizer: TextTokenizer, text: str, field: str) -> int:
    """Id of a special token.

    Raises:
      InputError: the vocabulary lacks it.
    """
    found = tokenizer.token_id(text)
    if found is None:
        raise InputError("is not in the tokenizer's vocabulary", field=field, value=text,
                         hint="this tokenizer is not that of the model, or the model is of another family")
    return found


def column_ids(tokenizer: TextTokenizer, good: str, bad: str) -> tuple[int, int]:
    """Ids of (bad, good), each of which must be one token.

    Raises:
      InputError: the tokenizer splits one of them.
    """
    found = []
    for text in (bad, good):
        ids = tokenizer.encode(text)
        if len(ids) != 1:
            raise _split(tokenizer, text, "columns")
        found.append(ids[0])
    return found[0], found[1]


def step_error(message: str, index: int, step: str, hint: str | None = None) -> InputError:
    """The error of step ``index`` (0-based)."""
    return InputError(message, field=f"steps[{index}]", value=step, hint=hint)


def _split(tokenizer: TextTokenizer, text: str, field: str) -> InputError:
    ids = tokenizer.encode(text)
    return InputError(f"the tokenizer splits it into {len(ids)} tokens {ids[:8]}", field=field, value=text,
                      hint="this tokenizer is not that of the model, or the model is of another family")
