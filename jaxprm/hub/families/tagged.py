"""Families that write a tag behind every step of a plain text, and compare two columns of the output matrix there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.families.base import Evidence, Family, Settings, TextTokenizer, column_ids, mark_id
from jaxprm.hub.families.heads import COLUMNS, VALUE
from jaxprm.hub.families.marked import Compose, Mark, MarkedEncoder, join_marked

SHEPHERD_TAG = "ки"
PQM_TAG = "[PRM]"
PQM_PROMPT = ("Below is an instruction that describes a task.\nWrite a response that appropriately completes the request.\n\n"
              "### Instruction:\n{problem}\n\n### Response: Let's think step by step\n")


def _numbered(steps: Sequence[str], first: int = 1) -> list[str]:
    return [f"Step {number}: {step}" for number, step in enumerate(steps, first)]


def _shepherd(tag: str) -> Compose:
    """Math-Shepherd's text: ``question Step 1: ... ки`` and so on, one step per line."""
    return lambda problem, steps: join_marked(problem + " ", _numbered(steps), " " + tag, "\n")


def _shepherd_prmbench(problem: str, steps: Sequence[str]) -> tuple[str, list[int]]:
    """PRMBench's loader: steps are stripped, keep a "Step" of their own, and every tag ends its line."""
    steps = [step.strip() for step in steps]
    pieces = [step if step[:4] in ("Step", "step") else f"Step {number}: {step}" for number, step in enumerate(steps, 1)]
    text, marks = join_marked(problem + " ", pieces, f" {SHEPHERD_TAG}", "\n")
    return text + "\n", marks


def _bind_shepherd(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    mark = Mark(SHEPHERD_TAG, mark_id(tokenizer, SHEPHERD_TAG, "separator"))
    ids = tokenizer.encode("+ -")
    if len(ids) != 2:
        raise InputError(f"the tokenizer splits it into {len(ids)} tokens {ids}", field="columns", value="+ -")
    compose = _shepherd_prmbench if settings.variant else _shepherd(SHEPHERD_TAG)
    return MarkedEncoder(tokenizer, compose, mark, special=True, columns=(ids[1], ids[0]), aggregation="min",
                         template="problem + ' ' + 'Step k: step ки' per line")


def _bind_er_prm(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    mark = Mark(f" {SHEPHERD_TAG}", mark_id(tokenizer, f" {SHEPHERD_TAG}", "separator"))
    columns = column_ids(tokenizer, " +", " -")
    return MarkedEncoder(tokenizer, _shepherd(SHEPHERD_TAG), mark, special=True, columns=columns, aggregation="min",
                         template="problem + ' ' + 'Step k: step ки' per line")


def _bind_openrlhf(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    tag = settings.separator or SHEPHERD_TAG
    mark = Mark(tag, mark_id(tokenizer, tag, "separator"))
    columns = column_ids(tokenizer, *(settings.columns or ("+", "-")))
    return MarkedEncoder(tokenizer, _shepherd(tag), mark, columns=columns, aggregation="min",
                         template="problem + ' ' + 'Step k: step PLACEHOLDER' per line")


def _bind_openr(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    tag = " \n\n\n\n\n"
    mark = Mark(tag, mark_id(tokenizer, tag, "separator"))

    def compose(problem: str, steps: Sequence[str]) -> tuple[str, list[int]]:
        return join_marked(problem + " ", _numbered(steps), tag, " ")

    return MarkedEncoder(tokenizer, compose, mark, columns=column_ids(tokenizer, " +", " -"), aggregation="min",
                         template="problem + ' ' + 'Step k: step TAG', joined by ' '")


def _bind_versaprm(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    tag = " \n\n\n\n"
    mark = Mark(tag, mark_id(tokenizer, tag, "separator"))

    def compose(problem: str, steps: Sequence[str]) -> tuple[str, list[int]]:
        return join_marked(problem + " \n\n", steps, tag)

    return MarkedEncoder(tokenizer, compose, mark, special=True, columns=column_ids(tokenizer, "+", "-"), aggregation="min",
                         template="problem + ' \\n\\n' + 'step TAG' per step")


def _bind_pqm(tokenizer: Any, settings: Settings) -> MarkedEncoder:
    found = tokenizer.token_id(PQM_TAG)
    mark = Mark(PQM_TAG, tokenizer.add_token(PQM_TAG) if found is None else found, forbidden=True)
    first = 2 if settings.variant == "bon_eval_numbering" else 1
    begin = settings.variant == "with_bos"

    def compose(problem: str, steps: Sequence[str]) -> tuple[str, list[int]]:
        pieces = _numbered([step.strip() for step in steps], first)
        return join_marked(PQM_PROMPT.format(problem=problem), pieces, f" {PQM_TAG}", "\n")

    return MarkedEncoder(tokenizer, compose, mark, special=begin, aggregation="min",
                         template="instruction prompt + 'Step k: step [PRM]' per line")


def _causal(model_types: Sequence[str], *marks: str) -> Callable[[Evidence], bool]:
    return lambda seen: (seen.causal and not seen.adapter and not seen.reference
                         and (not model_types or seen.model_type in model_types) and seen.marks(*marks))


def _fits_pqm(seen: Evidence) -> bool:
    return seen.model_type == "llama" and "v_head.summary.weight" in seen.tensors


MATH_SHEPHERD = Family("math-shepherd", _bind_shepherd, COLUMNS, _causal(("mistral",), SHEPHERD_TAG),
                       variants={"prmbench": "PRMBench: steps stripped, 'Step k:' only where missing, a line break at the end"})
ER_PRM = Family("er-prm", _bind_er_prm, COLUMNS, _causal(("llama",), f" {SHEPHERD_TAG}"))
OPENRLHF = Family("openrlhf", _bind_openrlhf, COLUMNS, _causal((), SHEPHERD_TAG), reads=("separator", "columns"))
OPENR = Family("openr", _bind_openr, COLUMNS,
               lambda seen: seen.causal and not seen.reference and seen.model_type == "qwen2" and seen.marks(" \n\n\n\n\n"))
VERSAPRM = Family("versaprm", _bind_versaprm, COLUMNS,
                  lambda seen: (seen.causal and not seen.reference and seen.model_type in ("llama", "qwen2")
                                and seen.marks(" \n\n\n\n")))
PQM = Family("pqm", _bind_pqm, VALUE, _fits_pqm,
             variants={"with_bos": "compute-optimal-tts: a begin token in front",
                       "bon_eval_numbering": "bon_eval_hf.py: steps numbered from 2",
                       "zeta-4": "the weights in zeta-4/ instead of zeta-2/"})
