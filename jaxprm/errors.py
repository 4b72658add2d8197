"""The errors that a user can mend, each said in one line: bad input, a run that was stopped, a run that diverged."""

from __future__ import annotations

import os

_ABSENT = object()


class InputError(Exception):
    """Bad input from outside (a file, a config, a checkpoint), not a bug in the code.

    Its text is a single line ``FILE:ROW: field 'FIELD' = VALUE: MESSAGE; HINT``; parts that are not known are left out.
    The command line prints it and exits with code 2; no command shows a traceback for it.

    Args:
      message: what is wrong.
      file: the path it was read from.
      row: 1-based line (or row) in that file.
      field: the name of the field, tensor or option.
      value: the offending value; long ones are shortened.
      hint: what to do next.
    """

    def __init__(self, message: str, *, file=None, row: int | None = None, field: str | None = None, value=_ABSENT,
                 hint: str | None = None):
        self.message, self.file, self.row, self.field, self.value, self.hint = message, file, row, field, value, hint
        parts = []
        if file is not None:
            parts.append(os.fspath(file) + (f":{row}" if row is not None else ""))
        elif row is not None:
            parts.append(f"row {row}")
        if field is not None:
            parts.append(f"field '{field}'" + (f" = {_shorten(value)}" if value is not _ABSENT else ""))
        elif value is not _ABSENT:
            parts.append(f"value {_shorten(value)}")
        parts.append(message + (f"; {hint}" if hint else ""))
        super().__init__(": ".join(parts).replace("\n", "\\n"))

    def located(self, *, file=None, row: int | None = None, field: str | None = None) -> InputError:
        """The same error with the place where it was found; what it knows already is kept where nothing is given."""
        return InputError(self.message, file=self.file if file is None else file, row=self.row if row is None else row,
                          field=self.field if field is None else field, value=self.value, hint=self.hint)


class Stopped(Exception):
    """A run that ended early because it was asked to (SIGTERM), with everything saved; its text is one line.

    The command line prints it and exits with code 75, "try again later" in sysexits.h: the same command goes on.
    """


class Diverged(FloatingPointError):
    """A loss or gradient that is not finite; its text is one line. The command line prints it and exits with code 3."""


def _shorten(value, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
