"""Our own JSON lines (`jaxprm.records`): what every other format is converted to."""

from __future__ import annotations

from collections.abc import Iterator

from jaxprm.data.formats.base import Format, Row
from jaxprm.records import LabeledSolution, parse_row


def _read(row: Row) -> Iterator[LabeledSolution]:
    # Rows that `jaxprm.records.to_row` wrote name their policies, and come back as they are.
    yield parse_row(row.data, file=row.file, number=row.number, neutral=row.settings.neutral,
                    after_error=row.settings.after_error, drop_empty=True)[0]


FORMATS = (
    Format("jaxprm", "{problem, steps, labels: -1, 0, 1 or null, soft_labels, first_error from 0, ...}: our own rows.",
           "jaxprm.records", "as in the file", _read, {"neutral": "good", "after_error": "keep"}),
)
