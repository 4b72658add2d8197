"""Segmenters: the segments join to the text, and no cut falls into a formula or a block of code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.steps.protected import protected_spans
from jaxprm.steps.segmenters import (SEGMENTERS, cut, entropy_segments, find_segmenter, markers, token_entropies, token_pieces,
                                     token_windows, window_segments)

# Pieces that mean something to a segmenter, in any order, besides plain text.
parts = st.sampled_from(["\n", "\n\n", " ", "$", "$$", "\\[", "\\]", "\\(", "\\)", "```", "```\n", "`", "\\begin{a}",
                         "\\end{a}", "Step 1: ", "Step 2.", "Thought: ", "Action: ", "</tool_call>",
                         "<tool_response>", "User:", "e.g. ",
                         "So it is. ", "A. ", "3.14", "ки", "。", "\\$", "~~~\n", "\\"])
texts = st.lists(st.one_of(parts, st.text(max_size=6)), max_size=25).map("".join)


@settings(max_examples=60)
@given(texts)
def test_segments_join_to_the_text(text):
    for segmenter in [*SEGMENTERS.values(), markers("ки", "\n\n")]:
        segments = segmenter(text)
        assert "".join(segments) == text and all(segments)
        if text.strip():
            assert all(segment.strip() for segment in segments)
    spans = protected_spans(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(left[1] <= right[0] for left, right in zip(spans, spans[1:]))


@settings(max_examples=30)
@given(texts, st.lists(st.integers(-3, 80)))
def test_cut_keeps_formulas_whole(text, places):
    segments = cut(text, places)
    assert "".join(segments) == text
    ends = np.cumsum([len(segment) for segment in segments])
    assert not any(start < end < stop for start, stop in protected_spans(text) for end in ends)


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("newline", "a\n\nb\n", ["a\n\n", "b\n"]),
    ("newline", "\n a\nb", ["\n a\n", "b"]),
    ("newline", "So\n\\[\nx\n=\n1\n\\]\nend", ["So\n", "\\[\nx\n=\n1\n\\]\n", "end"]),
    ("newline", "```python\na = 1\n\nb\n```\nend", ["```python\na = 1\n\nb\n```\n", "end"]),
    ("newline", "```\na\nb", ["```\na\nb"]),  # cut off before the block was closed
    ("newline", "\\begin{a}\n\\begin{a}\n\\end{a}\n\\end{a}\nx", ["\\begin{a}\n\\begin{a}\n\\end{a}\n\\end{a}\n", "x"]),
    ("newline", "\\[ x\ny", ["\\[ x\n", "y"]),  # a formula that is never closed protects nothing
    ("newline", "costs $3\nand $4", ["costs $3\n", "and $4"]),
    ("newline", "costs \\$3\nand \\$ 4", ["costs \\$3\n", "and \\$ 4"]),
    ("newline", "$x\n+ y$ is\n1", ["$x\n+ y$ is\n", "1"]),
    ("blank-line", "a\nb\n \n\nc", ["a\nb\n \n\n", "c"]),
    ("blank-line", "a\r\n\r\nb", ["a\r\n\r\n", "b"]),
    ("step", "Hm.\nStep 1: a\nb\n**Step 2.** c", ["Hm.\n", "Step 1: a\nb\n", "**Step 2.** c"]),
    ("step", "we see Step 1: in a line", ["we see Step 1: in a line"]),
    ("sentence", "It is 3.5 m. So e.g. A. Smith wins! (Yes.) Ok",
     ["It is 3.5 m. ", "So e.g. A. Smith wins! ", "(Yes.) ", "Ok"]),
    ("sentence", "1. First do it. 2 is next.", ["1. First do it. ", "2 is next."]),
    ("sentence", "By $a. B$ it holds. Then `x. Y` runs.", ["By $a. B$ it holds. ", "Then `x. Y` runs."]),
    ("sentence", "是的。对！好", ["是的。", "对！", "好"]),
    ("sentence", "a. b c", ["a. b c"]),
    ("react", "Thought: a\nAction: b\nObservation: c\nThought: d", ["Thought: a\nAction: b\nObservation: c\n", "Thought: d"]),
    ("react", "Action: b\nAction: c", ["Action: b\n", "Action: c"]),
    ("tool-call", "I look <tool_call>{}</tool_call>\n<tool_response>1</tool_response>\nDone <tool_call>x</tool_call> end",
     ["I look <tool_call>{}</tool_call>\n<tool_response>1</tool_response>\n", "Done <tool_call>x</tool_call> ", "end"]),
    ("turn", "User: a\nAssistant: b\nc\nUser: d", ["User: a\n", "Assistant: b\nc\n", "User: d"]),
    ("marker:<extra_0>", "a<extra_0>$b<extra_0>c$", ["a<extra_0>", "$b<extra_0>", "c$"]),
    ("marker:\\n\\n", "a\n\nb", ["a\n\n", "b"]),
    # A separator at the end makes no empty step behind it (search-and-learn scores such phantoms).
    ("blank-line", "a\n\nb\n\n", ["a\n\n", "b\n\n"]),
    ("marker:<extra_0>", "a<extra_0>b<extra_0>", ["a<extra_0>", "b<extra_0>"]),
    ("sentence", "", []), ("newline", " \n", [" \n"])])
def test_by_hand(name, text, expected):
    assert find_segmenter(name)(text) == expected


def test_many_openers_without_closers_stay_fast():
    text = "\\( $x \\[ \\begin{a} ` $$" + "\\( $x \\[ \\begin{a} " * 5_000
    assert protected_spans(text) == []


def test_unknown_names():
    with pytest.raises(InputError, match="'segmenter' = 'lines': no such segmenter; there are newline, .* and marker:TEXT"):
        find_segmenter("lines")
    with pytest.raises(InputError, match="must be at least one text, none empty"):
        find_segmenter("marker:")


class Bytes:
    """Two bytes of UTF-8 per token: tokens may end inside a character."""

    vocab_size, fingerprint = 3 * 65536, "bytes"

    def token_id(self, piece):
        return None

    def save(self, directory):
        raise NotImplementedError

    def encode(self, text):
        data = text.encode()
        pairs = [data[index:index + 2] for index in range(0, len(data), 2)]
        return [int.from_bytes(pair, "big") + 65536 * len(pair) for pair in pairs]

    def decode(self, ids):
        return b"".join((number % 65536).to_bytes(number // 65536, "big") for number in ids).decode(errors="replace")


class Lower(Bytes):
    def encode(self, text):
        return super().encode(text.lower())


@settings(max_examples=30)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.integers(1, 5))
def test_token_windows(text, size):
    tokenizer = Bytes()
    pieces = token_pieces(text, tokenizer)
    assert "".join(pieces) == text and len(pieces) == len(tokenizer.encode(text))
    assert "".join(token_windows(tokenizer, size)(text)) == text
    assert window_segments(["a", "b", "c"], 2) == ["ab", "c"]


def test_token_windows_refuse():
    with pytest.raises(InputError, match="is changed by the tokenizer"):
        token_windows(Lower(), 3)("Ab")
    for call in (lambda: window_segments(["a"], 0), lambda: token_windows(Bytes(), 0)):
        with pytest.raises(InputError, match="field 'size' = 0: must be at least 1"):
            call()


def test_token_entropies():
    with np.errstate(divide="ignore"):
        full = np.log([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    expected = [1.5 * np.log(2), 0.0, np.log(2)]  # the last row is a top-1 list: the other half is one outcome
    np.testing.assert_allclose(token_entropies(full), expected, atol=1e-12)
    with pytest.raises(InputError, match=r"field 'log_probs\[0\]': sums to 2.0000 in probability; are they logits"):
        token_entropies(np.zeros((1, 2)))
    with pytest.raises(InputError, match="not above 0 and not NaN"):
        token_entropies(np.array([[np.nan]]))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=3), st.floats(0, 3)), max_size=12), st.floats(0, 3), st.integers(1, 4))
def test_entropy_segments(tokens, threshold, least):
    pieces, entropies = [piece for piece, _ in tokens], [entropy for _, entropy in tokens]
    assert "".join(entropy_segments(pieces, entropies, threshold, min_tokens=least)) == "".join(pieces)


def test_entropy_segments_by_hand():
    pieces, entropies = list("abcdef"), [9, 0.1, 2.0, 2.0, 0.1, 2.0]
    assert entropy_segments(pieces, entropies, 1.0) == ["ab", "c", "de", "f"]
    assert entropy_segments(pieces, entropies, 1.0, min_tokens=2) == ["ab", "cde", "f"]
    with pytest.raises(InputError, match="has 1 values for 2 tokens"):
        entropy_segments(["a", "b"], [1.0], 1.0)
    with pytest.raises(InputError, match="'min_tokens' = 0"):
        entropy_segments(["a"], [1.0], 1.0, min_tokens=0)
