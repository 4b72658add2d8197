"""ArrayRecord files: records of bytes that are read at random, checked where they are opened.

The library says nothing when it opens a file that is cut short or is something else: it shows 0 records. Here such a
file is an `InputError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxprm.errors import InputError

OPTIONS = "group_size:1,zstd:3"
"""One record per chunk, so that reading one at random decompresses nothing else."""

_BLOCK = 512
_HINT = "the file is damaged, truncated, or no ArrayRecord file; write it again"


def is_record_file(path: str | os.PathLike) -> bool:
    """Whether a name is that of an ArrayRecord file: ``x.arrayrecord``, ``x.array_record-00000-of-00004`` and the like."""
    name = os.path.basename(os.fspath(path))
    return ".arrayrecord" in name or ".array_record" in name


class RecordFile(Sequence):
    """The records of one file, as bytes, in the order in which they were written. Can be pickled (by path).

    Raises:
      InputError: at construction for a file that is missing, cut short or foreign, at access for a damaged record.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError("is not a file" if self.path.exists() else "no such file", file=self.path,
                             hint="check the path")
        self._reader = _module().ArrayRecordReader(os.fspath(self.path), options="readahead_buffer_size:0",
                                                   file_reader_buffer_size=32768)
        self._length = self._reader.num_records()
        # The reader shows a file that it cannot read as one without records, and complains only when it is read.
        self._checked("is no complete ArrayRecord file", lambda: self._length or self._reader.read_all())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} of {self._length}")
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Several records at once."""
        where = f"record {indices[0]}" + (f" to {indices[-1]}" if len(indices) > 1 else "")
        return self._checked(f"{where} cannot be read", lambda: self._reader.read(list(indices)))

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, self._length, _BLOCK):
            yield from self.read(range(start, min(start + _BLOCK, self._length)))

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __reduce__(self):
        return RecordFile, (self.path,)

    def _checked(self, message: str, read):
        try:
            return read()
        except (RuntimeError, IndexError, ValueError) as error:
            reason = str(error).split(";")[0].split("\n")[0]
            raise InputError(f"{message} ({reason})", file=self.path, hint=_HINT) from None


def write_records(path: str | os.PathLike, records: Iterable[bytes]) -> int:
    """Writes one file, all or nothing; returns how many records it has."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = _module().ArrayRecordWriter(os.fspath(temporary), OPTIONS)
        try:
            for record in records:
                writer.write(record)
                count += 1
        finally:
            writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _module():
    # grain brings it along; imported here, because it is the one part of grain that not every platform has.
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise InputError(f"ArrayRecord files cannot be read here ({error})", hint="pip install array-record") from None
    return array_record_module
