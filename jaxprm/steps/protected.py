r"""Parts of a text that must stay whole: formulas (LaTeX) and code (Markdown)."""

from __future__ import annotations

import re

_OPEN = re.compile(r"""
    (?P<fence>^[ \t]*(?P<tick>`{3,}|~{3,}))      # a fenced block, at the beginning of a line
  | \\begin\{(?P<name>[^}\n]*)\}
  | (?P<bracket>\\\[) | (?P<paren>\\\()
  | (?P<escaped>\\.)                             # \$ opens nothing
  | (?P<display>\$\$)
  | (?P<inline>\$(?=[^\s$]))
  | (?P<code>`+)
""", re.VERBOSE | re.MULTILINE | re.DOTALL)

# Pandoc's rule, by which "costs $3 and $4" has no formula: the closing dollar follows no blank, and no digit comes
# behind it.
_DOLLAR_END = re.compile(r"(?<=[^\s\\$])\$(?![\d$])|\n[ \t]*\n")


def protected_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of formulas, environments and code, in order and without overlap.

    A fenced block that is not closed reaches to the end (a truncated answer); a formula that is not closed protects nothing.
    """
    spans: list[tuple[int, int]] = []
    missing: set[str] = set()  # closers that do not occur any more: looked for once, so that the scan stays linear
    unclosed = 0  # no dollar closes a formula before this place
    position = 0

    def find(closer: str, start: int) -> int:
        if closer in missing:
            return -1
        found = text.find(closer, start)
        if found < 0:
            missing.add(closer)
        return found

    while match := _OPEN.search(text, position):
        end, kind = None, match.lastgroup
        if match["fence"] is not None:
            end = _fence_end(text, match.end(), match["tick"])
        elif match["name"] is not None:
            end = _environment_end(text, match.end(), match["name"], find)
        elif kind == "inline":
            closer = _DOLLAR_END.search(text, match.end()) if match.start() >= unclosed else None
            if closer and closer.group() == "$":
                end = closer.end()
            elif match.start() >= unclosed:
                unclosed = closer.start() if closer else len(text)
        elif kind in ("bracket", "paren", "display"):
            closer = {"bracket": "\\]", "paren": "\\)", "display": "$$"}[kind]
            found = find(closer, match.end())
            end = found + 2 if found >= 0 else None
        elif kind == "code":
            found = find(match["code"], match.end())
            line = text.find("\n", match.end())
            end = found + len(match["code"]) if found >= 0 and (line < 0 or found < line) else None
        if end is not None:
            spans.append((match.start(), end))
        position = end or match.end()
    return spans


def _fence_end(text: str, start: int, tick: str) -> int:
    closer = re.compile(rf"^[ \t]*{re.escape(tick)}{re.escape(tick[0])}*[ \t]*$", re.MULTILINE).search(text, start)
    return closer.end() if closer else len(text)


def _environment_end(text: str, start: int, name: str, find) -> int | None:
    """Behind the ``\\end`` that matches, environments of the same name inside it counted."""
    opener, closer, depth, position = f"\\begin{{{name}}}", f"\\end{{{name}}}", 1, start
    while depth:
        end = find(closer, position)
        if end < 0:
            return None
        inner = text.find(opener, position, end)
        depth, position = (depth + 1, inner + len(opener)) if inner >= 0 else (depth - 1, end + len(closer))
    return position
