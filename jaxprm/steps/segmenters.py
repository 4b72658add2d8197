r"""Cutting a solution into steps. Every segmenter only chooses places to cut: the segments joined are the text, to the letter.

    newline("Add.\n\nSo 7.")        ->  ["Add.\n\n", "So 7."]           what separates two steps stays with the first
    sentence("By $a. b$ we win. So")  ->  ["By $a. b$ we win. ", "So"]    never inside a formula or a code block

A segment of white space alone is joined to its neighbour, so that no step is empty. `SEGMENTERS` names those that need the text
alone; windows of tokens and entropy (`token_windows`, `entropy_segments`) need the tokens.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from jaxprm.errors import InputError
from jaxprm.steps.protected import protected_spans
from jaxprm.steps.tokenizers import Tokenizer

Segmenter = Callable[[str], list[str]]

_NEWLINE = re.compile(r"\n")
_BLANK_LINE = re.compile(r"\n(?:[ \t\r]*\n)+")
# "Step 3:", "**Step 3.**", "### Step 3)", at the beginning of a line.
_STEP_HEADING = re.compile(r"^[ \t]*(?:[#>*_-]+[ \t]*)?(?:Step|STEP|step)[ \t]+\d+[ \t]*[:.)]", re.MULTILINE)
# A sentence ends at . ! or ? before white space and what looks like a beginning; full stops of other scripts need no blank.
_SENTENCE_END = re.compile(r"""[.!?]+["'”’)\]*]*\s+(?=["'“‘(\[*$\\]*[A-Z0-9\u00c0-\u024f\u0370-\u1fff]|\S*[$\\`])"""
                           r"|[。！？｡]+\s*")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|etc|resp|approx|Dr|Mr|Mrs|Ms|Prof|St|Fig|Eq|Eqs|Sec|Thm|Lem|No|pp?)"
                           r"|\b[A-Z]|^[ \t]*\(?\d+)\.\s+\Z", re.MULTILINE)
_THOUGHT = re.compile(r"^[ \t]*\**Thought\b[^\n:]{0,12}:", re.MULTILINE)
_ACTION = re.compile(r"^[ \t]*\**Action\b[^\n:]{0,12}:", re.MULTILINE)
_TOOL_END = re.compile(r"</tool_(?:call|response)>\s*(?!\s*<tool_response)|</(?:function_call|tool_result)>\s*")
_TURN = re.compile(r"^[ \t]*(?:(?:User|Human|Assistant|AI|System|Tool)[ \t]*:|<\|im_start\|>|<\|start_header_id\|>)",
                   re.MULTILINE)


def cut(text: str, places: Iterable[int], *, whole_formulas: bool = True) -> list[str]:
    """Cuts ``text`` before the characters at ``places``.

    Args:
      places: any order, repeats and places outside the text allowed.
      whole_formulas: leave out places inside a formula or a block of code (`protected_spans`).

    Returns:
      Segments that join to ``text``; none is white space alone unless the whole text is. The empty text has no segments.
    """
    places = sorted({place for place in places if 0 < place < len(text)})
    if whole_formulas and places:
        spans = protected_spans(text)
        starts = [start for start, _ in spans]

        def inside(place: int) -> bool:
            index = bisect.bisect_left(starts, place) - 1  # the last span that begins before the place
            return index >= 0 and place < spans[index][1]

        places = [place for place in places if not inside(place)]
    segments: list[str] = []
    waiting = ""  # white space in front of the first step
    for start, end in zip([0, *places], [*places, len(text)]):
        piece = text[start:end]
        if piece.strip():
            segments.append(waiting + piece)
            waiting = ""
        elif segments:
            segments[-1] += piece
        else:
            waiting += piece
    return segments + [waiting] if waiting else segments


def newline(text: str) -> list[str]:
    """One step per line; a formula or block of code over several lines stays whole."""
    return cut(text, (match.end() for match in _NEWLINE.finditer(text)))


def blank_line(text: str) -> list[str]:
    """One step per paragraph."""
    return cut(text, (match.end() for match in _BLANK_LINE.finditer(text)))


def step_heading(text: str) -> list[str]:
    """A step begins at each line that starts with "Step k:"; what stands before the first one is a step of its own."""
    return cut(text, (match.start() for match in _STEP_HEADING.finditer(text)))


def sentence(text: str) -> list[str]:
    """One step per sentence or paragraph. Abbreviations, initials and numbers of list items end no sentence."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)
            if not _ABBREVIATION.search(text, max(0, match.start() - 24), match.end())]
    return cut(text, ends + [match.end() for match in _BLANK_LINE.finditer(text)])


def markers(*marks: str) -> Segmenter:
    """Cuts behind each of the given texts, wherever they stand (a tag inside a formula is a tag all the same)."""
    if not marks or not all(marks):
        raise InputError("must be at least one text, none empty", field="markers", value=marks)
    pattern = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
    return lambda text: cut(text, (match.end() for match in pattern.finditer(text)), whole_formulas=False)


def react(text: str) -> list[str]:
    """ReAct: a step is a line "Thought:" and the action and observation behind it; without thoughts it begins at "Action:"."""
    pattern = _THOUGHT if _THOUGHT.search(text) else _ACTION
    return cut(text, (match.start() for match in pattern.finditer(text)), whole_formulas=False)


def tool_call(text: str) -> list[str]:
    """A step ends behind each tool call and its responses (``<tool_call>``, ``<tool_response>``)."""
    return cut(text, (match.end() for match in _TOOL_END.finditer(text)), whole_formulas=False)


def turn(text: str) -> list[str]:
    """A step is a turn of a written dialogue ("User:", "Assistant:", ``<|im_start|>``, ...)."""
    return cut(text, (match.start() for match in _TURN.finditer(text)), whole_formulas=False)


SEGMENTERS: dict[str, Segmenter] = {
    "newline": newline, "blank-line": blank_line, "step": step_heading, "sentence": sentence, "react": react,
    "tool-call": tool_call, "turn": turn}


def find_segmenter(name: str) -> Segmenter:
    r"""A segmenter by its name in `SEGMENTERS`, or ``marker:TEXT`` (``\n`` in TEXT is a line break).

    Raises:
      InputError: there is none of that name.
    """
    kind, colon, mark = name.partition(":")
    if kind == "marker" and colon:
        return markers(mark.replace("\\n", "\n"))
    if name not in SEGMENTERS:
        raise InputError("no such segmenter", field="segmenter", value=name,
                         hint=f"there are {', '.join(SEGMENTERS)} and marker:TEXT")
    return SEGMENTERS[name]


def window_segments(pieces: Sequence[str], size: int) -> list[str]:
    """Steps of ``size`` tokens each (the last may be shorter) from the texts of the tokens."""
    if size < 1:
        raise InputError("must be at least 1", field="size", value=size)
    return ["".join(pieces[start:start + size]) for start in range(0, len(pieces), size)]


def token_pieces(text: str, tokenizer: Tokenizer) -> list[str]:
    """The text of each token; a token that ends inside a character gets none of it, the token that completes it the whole.

    Raises:
      InputError: the tokenizer changes the text (lower case, other white space), so that tokens have no place in it.
    """
    ids = list(tokenizer.encode(text))
    pieces, done, first = [], 0, 0
    for index in range(len(ids)):
        # The token before is decoded, too: many tokenizers drop the blank in front of the first token.
        before = tokenizer.decode(ids[max(first - 1, 0):first])
        known = tokenizer.decode(ids[max(first - 1, 0):index + 1])
        clean = known.startswith(before) and text.startswith(known[len(before):], done)
        pieces.append(known[len(before):] if clean else "")
        if clean:
            done, first = done + len(pieces[-1]), index + 1
    if done != len(text):
        raise InputError("is changed by the tokenizer: tokens cannot be placed in it", field="text", value=text,
                         hint="use a segmenter of the text itself")
    return pieces


def token_windows(tokenizer: Tokenizer, size: int) -> Segmenter:
    """Steps of ``size`` tokens; see `token_pieces` for what raises."""
    if size < 1:
        raise InputError("must be at least 1", field="size", value=size)
    return lambda text: [segment for segment in window_segments(token_pieces(text, tokenizer), size) if segment]


def token_entropies(log_probs: Float[np.ndarray, "T V"]) -> Float[np.ndarray, " T"]:
    """Entropy in nats of each next-token distribution, from natural log-probabilities of all or of the top V tokens.

    What the given tokens leave of the probability counts as one more outcome, which makes the result of a top-V list a lower
    bound. Minus infinity is a probability of 0.

    Raises:
      InputError: not a number, or probabilities that sum to more than 1.
    """
    log_probs = np.asarray(log_probs, np.float64)
    if np.isnan(log_probs).any() or (log_probs > 1e-6).any():
        raise InputError("must be log-probabilities, not above 0 and not NaN", field="log_probs")
    probs = np.exp(log_probs)
    rest = 1.0 - probs.sum(axis=1)
    if (rest < -1e-3).any():
        row = int(np.argmin(rest))
        raise InputError(f"sums to {1 - rest[row]:.4f} in probability", field=f"log_probs[{row}]", hint="are they logits?")
    rest = np.maximum(rest, 0.0)
    inner = -(probs * np.where(probs > 0, log_probs, 0.0)).sum(axis=1)
    return inner - np.where(rest > 1e-12, rest * np.log(np.maximum(rest, 1e-300)), 0.0)


def entropy_segments(pieces: Sequence[str], entropies: Sequence[float] | Float[np.ndarray, " T"], threshold: float, *,
                     min_tokens: int = 1) -> list[str]:
    """A step begins at each token that the policy was unsure of (EDU-PRM: entropy above ``threshold``, in nats).

    Args:
      pieces: the texts of the T tokens of the solution.
      entropies: of the distribution that each token was drawn from.
      threshold: the paper does not give its value; a quantile of the entropies of the policy's own samples is a start.
      min_tokens: a step has at least so many tokens, except the last one.
    """
    if len(pieces) != len(entropies):
        raise InputError(f"has {len(entropies)} values for {len(pieces)} tokens", field="entropies")
    if min_tokens < 1:
        raise InputError("must be at least 1", field="min_tokens", value=min_tokens)
    segments: list[str] = []
    start = 0
    for index in range(1, len(pieces)):
        if entropies[index] > threshold and index - start >= min_tokens:
            segments.append("".join(pieces[start:index]))
            start = index
    return segments + ["".join(pieces[start:])] if len(pieces) else []
