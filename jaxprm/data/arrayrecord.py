"""What we keep in ArrayRecord files: labelled solutions as rows, and encoded examples, which are tokenised once and then read
at random by any number of runs, without ever lying in memory as a whole.

A folder of encoded examples:

    examples-00000.arrayrecord ...   one record per example: the lengths of its arrays (uint32), then their bytes
    table.npy                        `jaxprm.data.example_table.TABLE`: sizes, labels and origin of each example
    index.json                       format, columns (name and dtype of the arrays), files, shards, ``info``
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.data.example_table import TABLE, Origin, entry
from jaxprm.data.examples import Example
from jaxprm.data.record_file import RecordFile, write_records
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, dump_row, to_row

FORMAT = "jaxprm-examples-1"

_HINT = "delete the folder and encode the examples again"


def write_solutions(path: str | os.PathLike, items: Iterable[LabeledSolution]) -> int:
    """As `jaxprm.records.write_solutions`, one JSON object per record; every reader of labelled files takes such a file."""
    return write_records(path, (dump_row(to_row(item)).encode() for item in items))


def write_examples(folder: str | os.PathLike, examples: Iterable[Example | tuple[Example, Origin]], *,
                   files: Sequence[str] = (), info: Mapping[str, Any] | None = None, shard: int = 1 << 16) -> ExampleStore:
    """Streams examples into a new folder, all or nothing, and opens it.

    Args:
      folder: must not exist.
      examples: step examples with the same arrays, or (example, origin) where that is known.
      files: where they come from; a list that grows while ``examples`` is read is taken as it is at the end.
      info: kept with them, JSON values (a dict that grows likewise).
      shard: examples per file.

    Raises:
      InputError: the folder exists, no examples, or arrays that differ from those of the first example.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError("exists", file=folder, hint="choose another folder, or delete it")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", file=folder, hint="choose another folder") from None
    columns: list[list[str]] = []
    entries: list[tuple] = []

    def records():
        for item in examples:
            example, origin = item if isinstance(item, tuple) else (item, Origin())
            found = [[name, array.dtype.name] for name, array in example.items()]
            if not columns:
                columns.extend(found)
            elif found != columns:
                raise InputError(f"has other arrays than the first example ({_names(columns)})", value=_names(found),
                                 field=f"example {len(entries)}")
            entries.append(entry(example, origin))
            yield _to_bytes(example)

    try:
        shards, stream = [], records()
        for number in itertools.count():
            first = next(stream, None)
            if first is None:
                break
            name = f"examples-{number:05d}.arrayrecord"
            count = write_records(temporary / name, itertools.chain([first], itertools.islice(stream, shard - 1)))
            shards.append({"file": name, "examples": count, "bytes": (temporary / name).stat().st_size})
        if not entries:
            raise InputError("there are no examples to store", file=folder)
        np.save(temporary / "table.npy", np.array(entries, TABLE))
        index = {"format": FORMAT, "columns": columns, "files": list(files), "shards": shards, "info": dict(info or {})}
        (temporary / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExampleStore(folder)


class ExampleStore(Sequence):
    """The examples in a folder that `write_examples` has written; each access reads one record. Can be pickled (by path).

    Attributes:
      folder, info: where they are, and what was kept with them.
      table, files: as of `jaxprm.data.example_table.Examples`; the table is read as it is needed, not loaded.

    Raises:
      InputError: the folder is no such folder, a file is missing or cut short (at construction), a damaged record (at
        access); it names the file.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        index_file = self.folder / "index.json"
        try:
            index = json.loads(index_file.read_text(encoding="utf-8"))
            known = index.get("format") == FORMAT
            self._columns = [(name, np.dtype(dtype)) for name, dtype in index["columns"]] if known else []
            self._shards, self.files, self.info = index["shards"], tuple(index["files"]), index["info"]
            self._starts = np.cumsum([0, *(shard["examples"] for shard in self._shards)])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"is no folder of encoded examples ({type(error).__name__})", file=index_file,
                             hint=_HINT) from None
        if not known:
            raise InputError(f"is not {FORMAT}", file=index_file, field="format", value=index.get("format"), hint=_HINT)
        for shard in self._shards:
            file = self.folder / shard["file"]
            size = file.stat().st_size if file.is_file() else 0
            if size != shard["bytes"]:
                raise InputError(f"has {size} bytes instead of {shard['bytes']}", file=file, hint=_HINT)
        try:
            self.table = np.load(self.folder / "table.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot be read ({str(error).splitlines()[0]})", file=self.folder / "table.npy",
                             hint=_HINT) from None
        if self.table.dtype != TABLE or len(self.table) != len(self):
            raise InputError(f"does not describe the {len(self)} examples", file=self.folder / "table.npy", hint=_HINT)
        self._open: dict[int, RecordFile] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        if number not in self._open:
            self._open[number] = RecordFile(self.folder / self._shards[number]["file"])
        return _from_bytes(self._open[number][index - int(self._starts[number])], self._columns)

    def __reduce__(self):
        return ExampleStore, (self.folder,)


def _names(columns: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in columns)


def _to_bytes(example: Example) -> bytes:
    lengths = np.array([len(array) for array in example.values()], np.uint32)
    return b"".join([lengths.tobytes(), *(np.ascontiguousarray(array).tobytes() for array in example.values())])


def _from_bytes(record: bytes, columns: Sequence[tuple[str, np.dtype]]) -> Example:
    lengths = np.frombuffer(record, np.uint32, len(columns)).tolist()
    example, offset = {}, 4 * len(columns)
    for (name, dtype), length in zip(columns, lengths):
        example[name] = np.frombuffer(record, dtype, length, offset)
        offset += length * dtype.itemsize
    return example
