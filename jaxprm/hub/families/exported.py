"""Models that we trained and exported: their config.json says under ``jaxprm`` how text is read and what the head gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.families.heads import ENSEMBLE, MLP, HeadRule, linear_head
from jaxprm.steps.format import StepEncoder, StepFormat
from jaxprm.steps.tokenizers import Tokenizer

OWN = "jaxprm"


@dataclasses.dataclass(frozen=True, eq=False)
class OwnModel:
    """How an exported model of ours is read."""

    encoder: StepEncoder
    head: HeadRule
    info: Mapping[str, Any]


def own_section(encoder: StepEncoder, kind: str | None, info: Mapping[str, Any]) -> dict[str, Any]:
    """What an export of our own model writes under ``jaxprm``; ``kind`` of its head, ``None`` for a language model."""
    head = None if kind is None else {"kind": kind}
    return {"family": OWN, "step_format": dataclasses.asdict(encoder.format), "head": head, "info": dict(info)}


def own_model(section: Mapping[str, Any], tokenizer: Tokenizer, file: Path) -> OwnModel | None:
    """How a model with this section is read; ``None`` if it is one of a published family.

    Raises:
      InputError: the section is broken, or does not fit the tokenizer.
    """
    if section.get("family") != OWN:
        return None
    if section.get("head") is None:
        raise InputError("holds a language model, no reward model", file=file, field="jaxprm.head", value=None)
    encoder = own_format(section, tokenizer, file)
    try:
        kind = section["head"]["kind"]
    except (KeyError, TypeError) as error:
        raise InputError(f"is not what an export writes ({error})", file=file, field="jaxprm") from None
    head = {"mlp": MLP, "ensemble": ENSEMBLE}.get(kind) or HeadRule(kind, "score", linear_head(kind, "score"))
    return OwnModel(encoder, head, section.get("info") or {})


def own_format(section: Mapping[str, Any], tokenizer: Tokenizer, file: Path) -> StepEncoder | None:
    """How an exported model of ours reads steps; ``None`` for one of a published family.

    Raises:
      InputError: as `own_model`.
    """
    if section.get("family") != OWN:
        return None
    try:
        step_format = StepFormat(**section["step_format"])
    except InputError as error:
        raise error.located(file=file, field=f"jaxprm.step_format.{error.field}") from None
    except (KeyError, TypeError) as error:
        raise InputError(f"is not what an export writes ({error})", file=file, field="jaxprm") from None
    try:
        return StepEncoder(step_format, tokenizer)
    except InputError as error:
        raise InputError(f"the tokenizer does not fit: {error}", file=file, field="jaxprm.step_format") from None
