"""Numbers as English words, each without white space: seven, twenty-one, one-hundred-five; first, twenty-first."""

from __future__ import annotations

import functools

LARGEST = 999_999
LARGEST_ORDINAL = 1000

_SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
          "seventeen eighteen nineteen").split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}


@functools.lru_cache(maxsize=4096)
def cardinal(n: int) -> str:
    """0 <= n <= 999999 in words, hyphenated into one word; raises ValueError outside."""
    if not 0 <= n <= LARGEST:
        raise ValueError(f"{n} is outside 0..{LARGEST}")
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = n % size
            return f"{cardinal(n // size)}-{name}" + (f"-{cardinal(rest)}" if rest else "")
    if n < 20:
        return _SMALL[n]
    return _TENS[n // 10] + (f"-{_SMALL[n % 10]}" if n % 10 else "")


@functools.lru_cache(maxsize=4096)
def ordinal(n: int) -> str:
    """The ordinal of n in words: 1 -> first, 22 -> twenty-second."""
    head, hyphen, last = cardinal(n).rpartition("-")
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return head + hyphen + last


_SMALL_VALUES = {word: n for n, word in enumerate(_SMALL)}
_TENS_VALUES = {word: 10 * n for n, word in enumerate(_TENS) if n > 1}


@functools.lru_cache(maxsize=4096)
def parse_cardinal(word: str) -> int | None:
    """The number that a lower-case word names, ``None`` if it names none."""
    thousands = rest = 0
    for part in word.split("-"):
        if part == "thousand":
            thousands, rest = rest, 0
        elif part == "hundred":
            rest *= 100
        else:
            rest += _SMALL_VALUES.get(part, _TENS_VALUES.get(part, 0))
    n = 1000 * thousands + rest
    # Spelling it again refuses whatever is not the one proper spelling ("ten-ten", "one--one").
    return n if n <= LARGEST and cardinal(n) == word else None


@functools.cache
def _ordinal_values() -> dict[str, int]:
    return {ordinal(n): n for n in range(LARGEST_ORDINAL + 1)}


def parse_ordinal(word: str) -> int | None:
    """The position that an ordinal names, capitalised or not, ``None`` if it names none up to 1000."""
    return _ordinal_values().get(word.lower())
