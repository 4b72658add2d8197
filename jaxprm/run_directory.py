"""One run, one directory: its config, what it has finished, and the places of everything it writes.

    config.gin       the operative config, which can be run again as it is (where the run came from a config file)
    config.json      the same resolved, with its sha256
    status.json      state, and the stages that are finished with what they reported
    metrics.jsonl, checkpoints/, results.json, report.html     written by the stages
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

from jaxprm.errors import InputError
from jaxprm.records import atomic_write


def config_to_json(config: Any) -> Any:
    """A config as plain JSON values; a dataclass becomes an object with its fields and ``"class"``.

    Whole floats become integers, so that ``1`` and ``1.0`` in a config file are the same config.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = type(config)
        fields = {field.name: config_to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(config, enum.Enum):
        return config.name
    if isinstance(config, float):
        return int(config) if config.is_integer() else config
    if config is None or isinstance(config, bool | int | str):
        return config
    if isinstance(config, os.PathLike):
        return os.fspath(config)
    if isinstance(config, dict):
        return {str(key): config_to_json(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [config_to_json(value) for value in config]
    raise InputError("a config may hold dataclasses, numbers, texts and containers of them", value=config)


def config_sha256(config: Any) -> str:
    """Hash of the canonical JSON of a config: equal for equal values, whatever the config file looked like."""
    text = json.dumps(config_to_json(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def config_from_json(value: Any) -> Any:
    """The inverse of `config_to_json`, for configs whose classes still exist; lists become tuples.

    Raises:
      InputError: a class or field is not known, or a value is out of range.
    """
    if isinstance(value, list):
        return tuple(map(config_from_json, value))
    if not isinstance(value, dict):
        return value
    fields = {key: config_from_json(item) for key, item in value.items() if key != "class"}
    if "class" not in value:
        return fields
    module, _, name = str(value["class"]).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name) if module.startswith("jaxprm.") else None
        if not dataclasses.is_dataclass(kind):
            raise ImportError(f"{value['class']} is not a config of this package")
        return kind(**fields)
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(f"cannot be read by this version ({error})", field="class", value=value["class"]) from None


class RunDirectory:
    """The directory of one run; opening it again with the same config resumes it.

    Args:
      path: is created if it does not exist.
      config: the run's config, a dataclass.
      text: the config as the text of a gin file, kept as ``config.gin``.
      writes: False in all but one of several processes that run together: the directory must be there, and what this one
        reports is kept in memory.

    Attributes:
      path, config_sha256; config: as plain JSON values; resumed: whether an earlier call began this run.
      text: the config as it can be run again (``config.gin``), or else as JSON.
      metrics, checkpoints, results, report: where these are written.

    Raises:
      InputError: the directory holds another run, or files that are not a run.
    """

    def __init__(self, path: str | os.PathLike, config: Any, text: str | None = None, *, writes: bool = True):
        self._open(Path(path), config_to_json(config), config_sha256(config), text)
        if self.path.exists() and not self.path.is_dir():
            raise InputError("is not a directory", file=self.path, hint="choose another one with --run")
        known = self.path / "config.json"
        self.resumed = known.is_file()
        if self.resumed:
            found = _read_json(known).get("sha256")
            if found != self.config_sha256:
                raise InputError(f"holds another run (config {str(found)[:12]}, this one is {self.config_sha256[:12]})",
                                 file=self.path, hint="choose another directory with --run, or delete this one")
            self._remembered = None if writes else self._status()
            return
        if not writes:
            raise InputError("is not the run that process 0 has begun", file=self.path,
                             hint="all processes must see the same files")
        entries = list(self.path.iterdir()) if self.path.is_dir() else []
        begun = ("config.gin", "status.json")  # all that a run killed at this point can leave behind
        if any(entry.name not in begun and entry.suffix != ".tmp" for entry in entries):
            raise InputError("holds files that are not a run", file=self.path,
                             hint="choose another directory with --run")
        self.path.mkdir(parents=True, exist_ok=True)
        if text is not None:
            with atomic_write(self.path / "config.gin") as out:
                out.write(text)
        self._write_status({"state": "running", "stages": {}})
        # Last: with it, the directory is a run.
        _write_json(known, {"sha256": self.config_sha256, "config": config_to_json(config)})

    @classmethod
    def existing(cls, path: str | os.PathLike) -> RunDirectory:
        """The directory of an earlier run, whatever its config is.

        Raises:
          InputError: there is no run.
        """
        known = Path(path) / "config.json"
        if not known.is_file():
            raise InputError("is not a run directory (it has no config.json)", file=path, hint="give the directory of --run")
        found = _read_json(known)
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict) or "class" not in found["config"]:
            raise InputError("does not hold a config", file=known, hint="give the directory of --run")
        directory = cls.__new__(cls)
        directory._open(Path(path), found["config"], str(found.get("sha256")), None)
        directory.resumed = True
        return directory

    def _open(self, path: Path, config: Any, sha256: str, text: str | None) -> None:
        self.path, self.config, self.config_sha256 = path, config, sha256
        self.text = json.dumps(config, indent=2, ensure_ascii=False) if text is None else text
        self.metrics, self.checkpoints = path / "metrics.jsonl", path / "checkpoints"
        self.results, self.report = path / "results.json", path / "report.html"
        self._remembered: dict[str, Any] | None = None  # the status, where it is not written

    @property
    def state(self) -> str:
        """``running`` (or killed), or ``finished``."""
        return self._status()["state"]

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What every finished stage reported, in the order they ended."""
        return self._status()["stages"]

    def finished(self, stage: str) -> dict[str, Any] | None:
        """What `finish` was told about a stage by this or an earlier call; None if it has not ended yet."""
        return self._status()["stages"].get(stage)

    def finish(self, stage: str, **facts: Any) -> None:
        """Records that a stage has ended, with facts that are JSON values (``seconds=12.3``)."""
        status = self._status()
        status["stages"][stage] = facts
        self._write_status(status)

    def finish_run(self) -> None:
        """Records that the whole run has ended."""
        self._write_status(self._status() | {"state": "finished"})

    def discard_unused(self) -> None:
        """Removes a directory that this call began and in which nothing but its beginning was written, so that bad input that
        ends a run before its first stage does not hold the place for the mended config."""
        own = {"config.json", "config.gin", "status.json"}
        if self.resumed or self._remembered is not None or self.stages or {entry.name for entry in self.path.iterdir()} - own:
            return
        for name in ("config.json", "config.gin", "status.json"):  # the first one makes it a run
            (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()

    def _status(self) -> dict[str, Any]:
        if self._remembered is not None:
            return self._remembered
        return _read_json(self.path / "status.json")

    def _write_status(self, status: dict[str, Any]) -> None:
        if self._remembered is not None:
            self._remembered = status
            return
        _write_json(self.path / "status.json", status)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", file=path, hint="delete the damaged run directory") from None


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as out:
        json.dump(value, out, indent=2, ensure_ascii=False)
        out.write("\n")
