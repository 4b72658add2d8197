"""Reads rows, as a file of a format, from a temporary folder."""

import json

import pytest

from jaxprm.data.formats import ReadSettings, find_format, read_format


@pytest.fixture
def read(tmp_path):
    """read("trl", row, ..., neutral="bad") -> all solutions."""

    def call(name, *rows, **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [item for _, items in read_format(path, find_format(name), ReadSettings(**settings)) for item in items]

    return call
