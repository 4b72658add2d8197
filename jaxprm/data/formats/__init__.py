"""Readers and writers of step-labelled file formats.

    for number, items in read_format("prm800k.jsonl", FORMATS["prm800k"], ReadSettings(neutral="bad")):
        ...                                             # items: the labelled solutions of row `number`

`FORMATS` names every format that is read, `WRITERS` those that are written.
"""

from jaxprm.data.formats import (
    agents,
    conversations,
    error_sets,
    first_error,
    marked,
    own,
    prm800k,
    stepwise,
    trees,
)
from jaxprm.data.formats.base import Format, ProblemIndex, ReadSettings, read_format, read_raw
from jaxprm.data.formats.rows import read_rows
from jaxprm.data.formats.writers import WRITERS, WriteSettings, Writer
from jaxprm.errors import InputError

FORMATS: dict[str, Format] = {
    format.name: format
    for module in (own, prm800k, marked, conversations, stepwise, first_error, error_sets, trees, agents)
    for format in module.FORMATS}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
      InputError: there is none; the message lists all.
    """
    if name not in FORMATS:
        raise InputError("no such format", field="format", value=name, hint=f"there are {', '.join(FORMATS)}")
    return FORMATS[name]


def find_writer(name: str) -> Writer:
    """The writer of that name; raises as `find_format`."""
    if name not in WRITERS:
        raise InputError("no such format to write", field="to", value=name, hint=f"there are {', '.join(WRITERS)}")
    return WRITERS[name]


__all__ = ["FORMATS", "WRITERS", "Format", "ProblemIndex", "ReadSettings", "WriteSettings", "Writer", "find_format",
           "find_writer", "read_format", "read_raw", "read_rows"]
