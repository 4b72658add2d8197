"""InputError is always one line and says where."""

import pytest

from jaxprm.errors import InputError


@pytest.mark.parametrize(("arguments", "text"), [
    ({}, "is wrong"),
    ({"file": "a.jsonl", "row": 3, "field": "steps", "value": [], "hint": "add steps"},
     "a.jsonl:3: field 'steps' = []: is wrong; add steps"),
    ({"file": "a.jsonl"}, "a.jsonl: is wrong"),
    ({"row": 3}, "row 3: is wrong"),
    ({"field": "rate"}, "field 'rate': is wrong"),
    ({"field": "rate", "value": None}, "field 'rate' = None: is wrong"),
    ({"value": 7}, "value 7: is wrong"),
    ({"file": "two\nlines"}, "two\\nlines: is wrong")])
def test_texts(arguments, text):
    error = InputError("is wrong", **arguments)
    assert str(error) == text and error.message == "is wrong"
    assert (error.file, error.row, error.field) == tuple(arguments.get(name) for name in ("file", "row", "field"))


def test_long_values_are_shortened():
    text = str(InputError("is wrong", field="x", value="y" * 1000))
    assert len(text) < 120 and "..." in text


def test_a_place_can_be_added():
    error = InputError("is wrong", field="steps", value=[1], hint="mend it").located(file="a.jsonl", row=3)
    assert str(error) == "a.jsonl:3: field 'steps' = [1]: is wrong; mend it" and error.value == [1]
    assert str(error.located(field="steps[0]")) == "a.jsonl:3: field 'steps[0]' = [1]: is wrong; mend it"
    assert str(InputError("is wrong").located(row=2)) == "row 2: is wrong"
