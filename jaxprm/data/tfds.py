"""Labelled solutions in datasets that tensorflow-datasets has prepared in ArrayRecord files. No TensorFlow at run time.

A source is named ``tfds:FOLDER@SPLIT``: the folder with ``dataset_info.json``, and a split in the syntax of TFDS
(``train``, ``train[:80%]``, ``train+validation``). What a builder must write is in `features`; `to_example` makes it from a
labelled solution. TFDS has no null, so that absent values are written as:

    labels        int8    -1, 0, 1; -2 = not judged; an empty list = no labels
    soft_labels   float32 in [0, 1] (all floats are, in TFDS); NaN = not judged; an empty list = none
    first_error   int32   -1 = no wrong step; -2 = unknown
    final_correct int8    0, 1; -1 = unknown
    texts         ""      for answer, final_answer, generator, made_by, problem_id, source
    meta, cost    text    JSON objects

A dataset may leave any feature out but ``problem`` and ``steps``; features that the schema does not know are not read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, to_row

PREFIX = "tfds:"

_TEXTS = ("id", "problem", "answer", "final_answer", "generator", "made_by", "problem_id", "source")
_OPTIONAL_TEXTS = tuple(name for name in _TEXTS if name not in ("id", "problem"))
_OBJECTS = ("meta", "cost")
_UNKNOWN = {"first_error": -2, "final_correct": -1}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A split of a prepared dataset; its text is ``tfds:FOLDER@SPLIT``."""

    folder: str
    split: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.folder}@{self.split}"


def parse(path: str | os.PathLike) -> Dataset | None:
    """``tfds:FOLDER@SPLIT`` -> Dataset; None for the path of a file.

    Raises:
      InputError: folder or split are missing.
    """
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return None
    folder, _, split = text.removeprefix(PREFIX).rpartition("@")
    if not folder or not split:
        raise InputError("must be tfds:FOLDER@SPLIT", field="files", value=text,
                         hint="FOLDER holds dataset_info.json, e.g. tfds:~/tensorflow_datasets/steps/1.0.0@train")
    return Dataset(folder, split)


def features():
    """The ``FeaturesDict`` of the schema, for a builder's ``_info``."""
    tfds = library()
    numbers = {"labels": np.int8, "soft_labels": np.float32}
    return tfds.features.FeaturesDict({
        **{name: tfds.features.Text() for name in (*_TEXTS, *_OBJECTS)}, "steps": tfds.features.Sequence(tfds.features.Text()),
        **{name: tfds.features.Sequence(dtype) for name, dtype in numbers.items()},
        "first_error": np.int32, "final_correct": np.int8})


def to_example(item: LabeledSolution) -> dict[str, Any]:
    """A labelled solution as a builder yields it; `read_rows` gives back what `to_row` makes of it."""
    row = to_row(item)
    soft = row.get("soft_labels") or []
    correct, first_error = row["final_correct"], row["first_error"]
    return {**{name: row.get(name) or "" for name in _TEXTS}, "steps": row["steps"],
            **{name: json.dumps(row.get(name) or {}, ensure_ascii=False) for name in _OBJECTS},
            "labels": [-2 if value is None else value for value in row["labels"] or []],
            "soft_labels": [math.nan if value is None else value for value in soft],
            "first_error": -2 if first_error is None else first_error,
            "final_correct": -1 if correct is None else int(correct)}


def read_rows(dataset: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (1-based number, row of the interchange schema) of a split.

    Raises:
      InputError: the extra is not installed, the folder or split do not exist, a file is damaged, text that is not UTF-8.
    """
    tfds = library()
    try:
        builder = tfds.builder_from_directory(os.fspath(Path(dataset.folder).expanduser()))
        source = builder.as_data_source(split=dataset.split)
        length = len(source)
    except Exception as error:  # TFDS raises many kinds, over several lines
        raise InputError(f"cannot be opened ({str(error).splitlines()[0]})", file=str(dataset),
                         hint="prepare the dataset with file_format='array_record'") from None
    for number in range(1, length + 1):
        try:
            row = _plain(source[number - 1])
        except Exception as error:  # also what ArrayRecord says of a file cut short
            raise InputError(f"cannot be read ({str(error).splitlines()[0]})", file=str(dataset), row=number,
                             hint="the dataset is damaged; prepare it again") from None
        yield number, _row(row, dataset, number)


def _row(row: dict[str, Any], dataset: Dataset, number: int) -> dict[str, Any]:
    for name in _OPTIONAL_TEXTS:
        if row.get(name) == "":
            del row[name]
    if row.get("id") == "":
        row["id"] = str(number)
    for name, unknown in _UNKNOWN.items():
        if row.get(name) is not None and row[name] <= unknown:
            row[name] = None
    if row.get("final_correct") is not None:
        row["final_correct"] = bool(row["final_correct"])
    for name in ("labels", "soft_labels"):
        if name in row:
            row[name] = [None if value != value or value < -1 else value for value in row[name]] or None
    for name in _OBJECTS:
        if isinstance(row.get(name), str):
            try:
                row[name] = json.loads(row[name] or "{}")
            except ValueError:
                raise InputError("is not a JSON object", file=str(dataset), row=number, field=name, value=row[name]) from None
    return row


def _plain(value: Any) -> Any:
    """numpy and bytes -> what JSON would give."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def library():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(f"tensorflow-datasets is not installed ({error})", hint="pip install 'jaxprm[tfds]'") from None
    return tensorflow_datasets
