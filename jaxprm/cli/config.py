"""Gin files in, checked dataclasses out. With `config_statements`, all that knows gin.

    from __gin__ import dynamic_registration
    from jaxprm.pipelines import train_prm
    from jaxprm.models import config as models

    train_prm.TrainPRM:
      steps = 2000
      model = @models.TransformerConfig()
    models.TransformerConfig.layers = 4

A config binds dataclasses: one that no other refers to (the root, which the command runs) and the parts it is made of.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin

import jaxprm
from jaxprm.cli.config_statements import Statements, check_statements, read_statements
from jaxprm.cli.type_check import field_mismatch
from jaxprm.errors import InputError
from jaxprm.run_directory import config_sha256, config_to_json


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A resolved config.

    Attributes:
      config: the root dataclass.
      path: the file it came from.
      text: the operative config: every value that was used, defaults included, as a gin file that resolves to the same.
      json: the same as JSON values.
      sha256: hash of the canonical JSON.
    """

    config: Any
    path: Path
    text: str
    json: dict[str, Any]
    sha256: str

    @property
    def name(self) -> str:
        return self.path.stem


def config_folders() -> list[Path]:
    """Where names are looked up: ``configs/`` of the working directory, of the checkout, of the installed package."""
    package = Path(jaxprm.__file__).parent
    return [folder for folder in (Path("configs"), package.parent / "configs", package / "configs") if folder.is_dir()]


def find_config(path_or_name: str) -> Path:
    """A path to a ``.gin`` file as it is, or a name such as ``quickstart`` or ``prm/prm800k`` of a shipped config.

    Raises:
      InputError: there is neither; the message lists the names that exist.
    """
    if Path(path_or_name).is_file():
        return Path(path_or_name)
    for folder in config_folders():
        for candidate in (folder / path_or_name, folder / f"{path_or_name}.gin"):
            if candidate.is_file():
                return candidate
    raise InputError("no such config file or name", value=path_or_name,
                     hint=f"shipped configs: {', '.join(shipped_configs()) or 'none'}")


def shipped_configs() -> list[str]:
    """Names of all configs in `config_folders`."""
    return sorted({file.relative_to(folder).with_suffix("").as_posix()
                   for folder in config_folders() for file in folder.rglob("*.gin")})


def resolve(path_or_name: str, overrides: Sequence[str] = (), expected: type | None = None) -> Resolved:
    """Reads a config, applies overrides ``"part.Class.field=value"``, builds the root dataclass and checks every field.

    Args:
      path_or_name: see `find_config`.
      overrides: bindings in gin's syntax, applied last; a text needs quotes.
      expected: the class that the command runs.

    Raises:
      InputError: one line naming file, line, field and value, for anything that is wrong with the config.
    """
    path = find_config(path_or_name)
    statements = read_statements(path, overrides, config_folders())
    root = check_statements(statements)
    if expected is not None and not issubclass(root, expected):
        raise InputError(f"binds {root.__name__}, but this command needs {expected.__name__}", file=path)
    gin.clear_config(clear_constants=True)
    try:
        config, text = _build(statements, root)
    finally:
        gin.clear_config(clear_constants=True)
    wrong = field_mismatch(config)
    if wrong:
        owner, field, value, reason = wrong
        file, line = statements.location(type(owner), field.rsplit(".")[-1]) or (path, None)
        raise InputError(reason, file=file, row=line, field=f"{root.__name__}.{field}", value=value)
    return Resolved(config, path, text, config_to_json(config), config_sha256(config))


def _build(statements: Statements, root: type) -> tuple[Any, str]:
    try:
        gin.parse_config(statements.text)
        config = gin.get_configurable(root)()
        return config, gin.operative_config_str(max_line_length=120)
    except InputError as error:
        # A dataclass refused its own values; gin has put its name below the message.
        message, owner = str(error).split("\n")[0], _failing_class(error)
        location = statements.location(owner, (error.field or "").split(".")[0].split("[")[0])
        if error.file is not None or location is None:
            raise InputError(message, file=None if error.file is not None else statements.path) from None
        raise InputError(message, file=location[0], row=location[1]) from None
    except Exception as error:  # gin and constructors raise anything, over several lines
        message, owner = str(error).split("\n")[0], _failing_class(error)
        missing = re.search(r"missing \d+ required .*arguments?: (.*)", message)
        if missing:
            name = f"{owner}.{missing[1].split()[0].strip(chr(39) + ',')}"
            raise InputError("must be set", file=statements.path, field=name) from None
        where = f" (in {owner})" if owner else ""
        raise InputError(f"cannot be resolved: {message}{where}", file=statements.path) from None


def _failing_class(error: Exception) -> str | None:
    found = re.search(r"In call to configurable '(\w+)'", str(error))
    return found[1] if found else None
