"""The final answer in the text of a solution."""

from __future__ import annotations

from collections.abc import Sequence

_BOX = "\\boxed{"


def final_answer(steps: Sequence[str], marker: str = "Answer:") -> str | None:
    """What stands in the last ``\\boxed{...}``, else behind the last ``marker`` up to the end of its line; else ``None``.

      In:   ["so 3", "Answer: 3"]; ["thus \\boxed{\\frac{1}{2}}."]; ["so 3"]
      Out:  "3"; "\\frac{1}{2}"; None
    """
    text = "\n".join(steps)
    start = text.rfind(_BOX)
    if start >= 0:
        inside = _balanced(text[start + len(_BOX):])
        if inside is not None:
            return inside.strip()
    _, found, behind = text.rpartition(marker) if marker else ("", "", "")
    line = behind.strip().partition("\n")[0].strip()
    return line if found and line else None


def _balanced(text: str) -> str | None:
    """The text up to the brace that closes one before it; ``None`` if it is never closed."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[:place]
    return None
