"""Families that speak through a chat template and mark steps inside its turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxprm.errors import InputError
from jaxprm.hub.families.base import Evidence, Family, Settings, TextTokenizer, column_ids, mark_id, special_id
from jaxprm.hub.families.heads import COLUMNS, ENSEMBLE, MLP
from jaxprm.hub.families.marked import Mark, MarkedEncoder, join_marked

EXTRA = "<extra_0>"
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
ACTPRM_SYSTEM = ("You are a helpful and harmless assistant. You should think step-by-step and put your final answer within "
                 "\\boxed{}.")

Render = Callable[..., str]


def chat_template(tokenizer: Any) -> Render:
    """The tokenizer's chat template.

    Raises:
      InputError: it has none.
    """
    if tokenizer.chat is None:
        raise InputError("the tokenizer has no chat template", field="chat_template",
                         hint="put the model's chat_template.jinja into its directory")
    return tokenizer.chat.render


def turn(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


def _assistant_turn(render: Render, before: Sequence[Mapping[str, str]], content: str,
                    marks: Sequence[int]) -> tuple[str, list[int]]:
    """A conversation that ends with the turn ``content``; ``marks`` are character indices in ``content`` before, in the text
    after."""
    text = render([*before, turn("assistant", content)])
    # A template may strip white space in front of a turn; behind it stands a mark.
    kept = content if content in text else content.lstrip()
    start = text.rfind(kept)
    if start < 0:
        raise InputError("the chat template changes the text of a turn", field="chat_template", value=content)
    return text, [start + mark - (len(content) - len(kept)) for mark in marks]


def _extra_turns(tokenizer: TextTokenizer, system: str | None, mark: Mark | None = None) -> MarkedEncoder:
    """Steps joined in one assistant turn, ``<extra_0>`` (or another mark) behind each."""
    render = chat_template(tokenizer)
    mark = mark or Mark(EXTRA, special_id(tokenizer, EXTRA, "separator"), forbidden=True)
    opening = [] if system is None else [turn("system", system)]

    def compose(problem: str, steps: Sequence[str]) -> tuple[str, list[int]]:
        content, marks = join_marked("", steps, mark.text)
        return _assistant_turn(render, [*opening, turn("user", problem)], content, marks)

    who = "user, assistant" if system is None else f"system {system!r}, user, assistant"
    return MarkedEncoder(tokenizer, compose, mark, aggregation="last", template=f"chat ({who}), steps in one turn")


def _bind_qwen(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    return _extra_turns(tokenizer, QWEN_SYSTEM)


def bind_reasonflux_steps(tokenizer: TextTokenizer) -> MarkedEncoder:
    """ReasonFlux-PRM-7B: as Qwen2.5-Math-PRM, the system turn being the template's own."""
    return _extra_turns(tokenizer, None)


def _bind_actprm(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    text = settings.separator or EXTRA
    # Published with a special token; its code falls back to blank lines, which are ordinary text.
    plain = not text.strip()
    mark = Mark(text, (mark_id if plain else special_id)(tokenizer, text, "separator"), forbidden=not plain)
    if settings.variant == "code_snippet":
        encoder = _extra_turns(tokenizer, QWEN_SYSTEM, mark)
        encoder.aggregation = "min"
        return encoder
    render = chat_template(tokenizer)

    def compose(problem: str, steps: Sequence[str]) -> tuple[str, list[int]]:
        prompt = render([turn("system", ACTPRM_SYSTEM), turn("user", problem)], add_generation_prompt=True)
        return join_marked(prompt, steps, text)

    return MarkedEncoder(tokenizer, compose, mark, aggregation="min",
                         template=f"chat (system {ACTPRM_SYSTEM!r}, user), generation prompt, then the steps")


def _bind_rlhflow(tokenizer: TextTokenizer, settings: Settings) -> MarkedEncoder:
    """Each step is a user turn, the assistant answers "+": the token before that answer is read."""
    render = chat_template(tokenizer)
    bad, good = column_ids(tokenizer, "+", "-")

    def compose(problem: str, steps: Sequence[str]) -> tuple[str, list[int]]:
        turns, marks, text = [], [], ""
        for index, step in enumerate(steps):
            said = f"{problem} {step.strip()}" if index == 0 else step.strip()
            turns += [turn("user", said), turn("assistant", "+")]
            longer = render(turns)
            if not longer.startswith(text):
                raise InputError("the chat template changes earlier turns when a turn is added", field="chat_template")
            text = longer
            marks.append(text.rindex("+"))
        return text, marks

    return MarkedEncoder(tokenizer, compose, Mark("+", good), read_back=1, columns=(bad, good), aggregation="mean",
                         template="chat, one user turn per step (the first with the problem), each answered by '+'")


def _fits_rlhflow(seen: Evidence) -> bool:
    return (seen.causal and not seen.adapter and not seen.reference and seen.model_type == "llama"
            and getattr(seen.tokenizer, "chat", None) is not None and seen.marks("+", "-"))


QWEN_MATH_PRM = Family("qwen-math-prm", _bind_qwen, MLP, lambda seen: seen.architecture == "Qwen2ForProcessRewardModel")
ACTPRM = Family("actprm", _bind_actprm, ENSEMBLE, lambda seen: seen.architecture == "Qwen2ForEnsemblePRM",
                variants={"code_snippet": "PRMBench: Qwen's system turn, the solution as a closed assistant turn"},
                reads=("separator",), separator_field="rr_token")
RLHFLOW = Family("rlhflow", _bind_rlhflow, COLUMNS, _fits_rlhflow)
