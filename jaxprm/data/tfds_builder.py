"""Preparing public sets as datasets of tensorflow-datasets, in ArrayRecord files. No TensorFlow, neither here nor for reading.

    prepare(find_set("processbench"), "~/tensorflow_datasets")            from the official location
    prepare(find_set("prm800k"), "data", folder="prm800k", settings=ReadSettings(neutral="bad"))

gives ``{split: "tfds:FOLDER@split"}``, the names by which every reader of labelled solutions takes them (`jaxprm.data.tfds`).
Policies other than the format's defaults are part of the folder's name (``prm800k/neutral_bad/1.0.0``): two versions of the
labels never pass for one another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxprm.data import tfds
from jaxprm.data.formats import ProblemIndex, ReadSettings, find_format, read_format
from jaxprm.data.formats.base import Format
from jaxprm.data.formats.rows import OnError
from jaxprm.data.public import PublicSet
from jaxprm.errors import InputError

VERSION = "1.0.0"
"""Of the schema (`jaxprm.data.tfds.features`), not of the set: the sets have no versions."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What was written: per split, the name to read it by and the number of solutions."""

    sources: Mapping[str, str]
    solutions: Mapping[str, int]


def prepare(public: PublicSet, data_dir: str | os.PathLike, *, folder: str | os.PathLike | None = None,
            settings: ReadSettings = ReadSettings(), on_error: OnError | None = None,
            advance: Callable[[int], None] = lambda solutions: None) -> Prepared:
    """Writes a public set below ``data_dir``, all or nothing; downloads are kept there for a second try.

    Memory: tensorflow-datasets holds up to 1 GB of a split before it sorts on disk.

    Args:
      folder: where the files of the set are; None = they are downloaded from where the set is published.
      settings: how labels come about (`jaxprm.data.formats`).
      on_error: gets the error of every row that cannot be read, which is left out; None = the first one raises.
      advance: called with the number of solutions read since the last call.

    Raises:
      InputError: tensorflow-datasets is not installed, the set is prepared already, files are missing or cannot be
        downloaded, a bad row (without ``on_error``).
    """
    library = tfds.library()
    format = find_format(public.format)
    settings = format.resolve(settings)
    data_dir = Path(data_dir).expanduser().resolve()
    files = None if folder is None else public.local(folder)
    urls = public.urls() if files is None else None
    failures: list[InputError] = []

    def downloaded(manager) -> dict[str, list[Path]]:
        try:
            return {split: [Path(path) for path in manager.download(addresses)] for split, addresses in urls.items()}
        except Exception as error:  # of requests, of the file system, of TFDS itself
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            failures.append(InputError(f"cannot be downloaded ({reason})", file=public.page,
                                       hint="fetch the files by hand and give their folder (--folder)"))
            raise failures[0] from None

    def examples(paths: Sequence[Path]) -> Iterator[tuple[str, dict]]:
        try:
            for index, path in enumerate(paths):
                for number, items in read_format(path, format, settings, on_error=on_error):
                    for place, item in enumerate(items):
                        yield f"{index}:{number}:{place}", tfds.to_example(item)
                    advance(len(items))
        except InputError as error:  # TFDS would wrap it
            failures.append(error)
            raise

    builder = _builder_class(library, public, format, _variant(format, settings), downloaded if files is None else files,
                             examples)(data_dir=data_dir, file_format="array_record")
    place = Path(builder.data_path)
    if place.exists():
        raise InputError("is prepared already", file=place, hint="delete it to prepare it anew, or choose another --output")
    library.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # which TFDS writes a report to
            builder.download_and_prepare()
    except Exception as error:
        if failures:
            raise failures[0] from None
        if isinstance(error, OSError):
            raise InputError(f"cannot be written ({error.strerror or error})", file=data_dir, hint="choose another --output"
                             ) from None
        raise
    splits = {split: info.num_examples for split, info in builder.info.splits.items()}
    return Prepared({split: str(tfds.Dataset(str(place), split)) for split in splits}, splits)


def _variant(format: Format, settings: ReadSettings) -> str:
    """A name for the settings that differ from the format's defaults."""
    parts = []
    for name, default in format.defaults.items():
        value = getattr(settings, name)
        if isinstance(value, ProblemIndex):
            parts.append(f"{name}_{value.fingerprint[:8]}")
        elif value != default:
            parts.append(f"{name}_{value}".replace(" ", "_"))
    return "-".join("".join(sign if sign.isalnum() or sign in "_." else "~" for sign in part) for part in parts) or "default"


def _builder_class(library, public: PublicSet, format: Format, variant: str, files, examples):
    """A builder class of that set: TFDS takes the name of a dataset from its class."""

    class Builder(library.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = library.core.Version(VERSION)
        BUILDER_CONFIGS = [library.core.BuilderConfig(name=variant)]
        name = public.name.replace("-", "_")
        pkg_dir_path = Path(__file__).parent

        def _info(self):
            return library.core.DatasetInfo(
                builder=self, features=tfds.features(), homepage=public.page, license=public.licence,
                description=format.description, citation=format.citation)

        def _split_generators(self, dl_manager):
            paths = files(dl_manager) if callable(files) else files
            return {split: self._generate_examples(of_split) for split, of_split in paths.items()}

        def _generate_examples(self, paths):
            return examples(paths)

    return Builder
