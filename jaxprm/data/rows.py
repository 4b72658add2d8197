"""Rows of the interchange schema from any file that holds them: one function for every reader of labelled solutions.

    x.jsonl, x.jsonl.gz               one JSON object per line
    x.arrayrecord                     one JSON object per record (`jaxprm.data.arrayrecord`)
    tfds:FOLDER@SPLIT                 a split of a dataset that tensorflow-datasets has prepared (`jaxprm.data.tfds`)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxprm.data import tfds
from jaxprm.data.record_file import RecordFile, is_record_file
from jaxprm.errors import InputError
from jaxprm.records import read_json_lines

DATA_VARIABLE = "JAXPRM_DATA"
"""Environment variable that names the folder in which relative data paths of a config are looked up."""

_MADE_BY = {
    "runs/quickstart": "jaxprm quickstart",
    "runs/objectives": "python experiments/objectives/study.py runs/objectives --only binary_cross_entropy --seeds 0",
}
"""Folders of files that shipped configs read and other commands write, with these commands."""


def data_path(path: str | os.PathLike) -> Path:
    """Finds a data file: an absolute path as it is, a relative one in ``$JAXPRM_DATA``, then in the working directory.

    Raises:
      InputError: there is no such file.
    """
    return _found(path, Path.is_file, "no such file")


def located(path: str | os.PathLike) -> str:
    """A path as a config names it -> the same with the place where it is; raises as `data_path`."""
    dataset = tfds.parse(path)
    if dataset is None:
        return str(data_path(path))
    folder = _found(dataset.folder, lambda place: (place / "dataset_info.json").is_file(), "holds no prepared TFDS dataset")
    return str(tfds.Dataset(str(folder), dataset.split))


def read_rows(path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """Yields (1-based number, JSON value) of every row; ``path`` as `located` gives it.

    Raises:
      InputError: the file is missing, damaged or truncated, or a row is not JSON; it names file and row.
    """
    dataset = tfds.parse(path)
    if dataset is not None:
        yield from tfds.read_rows(dataset)
    elif is_record_file(path):
        with RecordFile(path) as records:
            for number, record in enumerate(records, 1):
                yield number, _json(record, path, number)
    else:
        yield from read_json_lines(path)


def rows_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of the file, or of the files of a TFDS dataset; ``path`` as `located` gives it."""
    dataset = tfds.parse(path)
    if dataset is None:
        return _sha256([Path(path)])
    files = [file for file in Path(dataset.folder).iterdir() if file.is_file()]
    return _sha256(sorted(file for file in files if file.suffix == ".json" or is_record_file(file)), dataset.split)


def _sha256(files: list[Path], salt: str = "") -> str:
    digest = hashlib.sha256(salt.encode())
    for file in files:
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _found(path: str | os.PathLike, test, message: str) -> Path:
    path = Path(path).expanduser()
    folder = os.environ.get(DATA_VARIABLE)
    candidates = [path] if path.is_absolute() or not folder else [Path(folder).expanduser() / path, path]
    for candidate in candidates:
        if test(candidate):
            return candidate
    maker = next((command for made, command in _MADE_BY.items() if path.is_relative_to(made)), None)
    if maker is not None:
        hint = f"make it first: {maker}"
    else:
        hint = "check the path" if path.is_absolute() else f"set {DATA_VARIABLE} to the folder that holds it"
    raise InputError(message, file=candidates[0], hint=hint)


def _json(record: bytes, path: str | os.PathLike, number: int) -> Any:
    try:
        return json.loads(record)
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise InputError(f"is not valid JSON ({str(error).splitlines()[0]})", file=path, row=number,
                         hint="each record must be one JSON object; encoded examples are read by a run's `encoded`") from None
