"""Chat templates: the Jinja text that a checkpoint ships, turned into one prompt string.

Rendering follows the contract that template authors write for (transformers' ``apply_chat_template``): trimmed blocks, loop
controls, a ``tojson`` that escapes no HTML, ``raise_exception``, ``strftime_now``, and ``{% generation %}`` blocks, which only
mark text and leave it as it is. A template is foreign code, so it runs in an immutable sandbox. Unlike there, the date is
pinned: the same messages give the same tokens tomorrow.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from jaxprm.errors import InputError

# Llama 3 templates fall back to this day where no clock is offered; it is the day their scores are reproduced with.
PINNED_DATE = datetime.date(2024, 7, 26)


class _Generation(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}``: the text inside, in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise_exception(message: str):
    raise jinja2.TemplateError(message)


def _tojson(value, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


class ChatTemplate:
    """A compiled chat template with the special tokens of its tokenizer.

    Args:
      source: the Jinja text.
      special_tokens: variables such as ``bos_token``; one that the tokenizer lacks stays undefined, as templates expect.
      file: where the text comes from, for messages.

    Raises:
      InputError: the text is no Jinja template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, Any] | None = None, file=None):
        self.source, self.special_tokens, self._file = source, dict(special_tokens or {}), file
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"the chat template is not valid Jinja (line {error.lineno}: {error.message})", file=file,
                             field="chat_template") from error

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, *,
               date: datetime.date = PINNED_DATE, **variables: Any) -> str:
        """The prompt text of a conversation. It holds the special tokens that the template writes, so encode it without more.

        Args:
          messages: ``{"role": ..., "content": ...}`` in order.
          add_generation_prompt: ends with the opening of an assistant turn.
          date: what ``strftime_now`` tells the template; midnight of that day.
          variables: more for the template, e.g. ``tools``, ``date_string``, ``enable_thinking``; they win over special tokens.

        Raises:
          InputError: the template refuses the messages, or fails on them.
        """
        now = datetime.datetime.combine(date, datetime.time())
        values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt,
                  "strftime_now": now.strftime, **self.special_tokens, **variables}
        try:
            return self._template.render(values)
        except Exception as error:  # a template is a program: whatever it can do wrong is an error of its input
            said = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise InputError(f"the chat template failed: {said[0]}", file=self._file, field="messages", value=messages,
                             hint="give messages that the template accepts, or another template") from error


def chat_template_sources(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Jinja text by name, of a directory and its tokenizer_config.json; files beside the configuration win over text inside."""
    inside = config.get("chat_template") or {}
    if isinstance(inside, str):
        inside = {"default": inside}
    elif not isinstance(inside, Mapping):
        inside = {entry["name"]: entry["template"] for entry in inside}
    file = directory / "chat_template.jinja"
    named = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    beside = {path.stem: path.read_text(encoding="utf-8") for path in named}
    if file.is_file():
        beside["default"] = file.read_text(encoding="utf-8")
    return beside or dict(inside)
