"""Numbers as words and back."""

import pytest

from jaxprm.tasks.number_words import LARGEST, cardinal, ordinal, parse_cardinal, parse_ordinal


@pytest.mark.parametrize(("number", "word"), [
    (0, "zero"), (7, "seven"), (13, "thirteen"), (20, "twenty"), (42, "forty-two"), (100, "one-hundred"),
    (105, "one-hundred-five"), (999, "nine-hundred-ninety-nine"), (1000, "one-thousand"),
    (28_561, "twenty-eight-thousand-five-hundred-sixty-one"), (300_000, "three-hundred-thousand")])
def test_cardinals(number, word):
    assert cardinal(number) == word and parse_cardinal(word) == number


def test_ordinals():
    assert [ordinal(n) for n in (1, 2, 3, 4, 5, 8, 9, 12, 20, 21, 40, 100, 112)] == [
        "first", "second", "third", "fourth", "fifth", "eighth", "ninth", "twelfth", "twentieth", "twenty-first",
        "fortieth", "one-hundredth", "one-hundred-twelfth"]
    assert parse_ordinal("Twenty-First") == 21 and parse_ordinal("one") is None


def test_round_trip():
    assert all(parse_cardinal(cardinal(n)) == n for n in [*range(2000), *range(2000, LARGEST, 997), LARGEST])
    assert all(parse_ordinal(ordinal(n)) == n for n in range(1001))


@pytest.mark.parametrize("word", ["", "-", "ten-ten", "one--one", "Seven", "five-twenty", "hundred", "zero-one", "7",
                                  "thousand-thousand", "one-thousand-thousand"])
def test_improper_spellings_are_no_numbers(word):
    assert parse_cardinal(word) is None


def test_out_of_range():
    for number in (-1, LARGEST + 1):
        with pytest.raises(ValueError, match="is outside"):
            cardinal(number)
