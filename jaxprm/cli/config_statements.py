"""The statements of a gin file with their line numbers, checked before anything is built.

gin itself neither knows where a value was bound nor minds a name bound twice, a binding that nothing uses, or a text
where a number belongs; its own messages span several lines.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import tokenize
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from jaxprm.cli.type_check import mismatch
from jaxprm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@scope/part.Class()`` or ``%name`` inside a value; its repr is gin's syntax again."""

    text: str

    def __repr__(self) -> str:
        return self.text

    @property
    def selector(self) -> str:
        return self.text.strip("@()").rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Binding:
    """``scope/selector.field = value`` at a line of a file; ``field`` is empty for a macro (``name = value``)."""

    scope: str
    selector: str
    field: str
    value: Any
    file: Path | str
    line: int | None

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.selector, self.field) if part)

    def error(self, message: str, **details: Any) -> InputError:
        return InputError(message, file=self.file, row=self.line, field=self.name, **details)


@dataclasses.dataclass
class Statements:
    """All imports and bindings of a config, its includes and its overrides, in order."""

    path: Path
    imports: dict[str, config_parser.ImportStatement]
    bindings: list[Binding]

    @property
    def text(self) -> str:
        """The whole as one gin text."""
        lines = ["from __gin__ import dynamic_registration", *(item.format() for item in self.imports.values())]
        for binding in self.bindings:
            scope = f"{binding.scope}/" if binding.scope else ""
            lines.append(f"{scope}{binding.name} = {binding.value!r}")
        return "\n".join(lines) + "\n"

    def location(self, owner: type | str | None, field: str) -> tuple[Path | str, int | None] | None:
        """File and line where a field of a class was bound last."""
        name = owner.__name__ if isinstance(owner, type) else owner
        for binding in reversed(self.bindings):
            if binding.field == field and binding.selector.rsplit(".")[-1] == name:
                return binding.file, binding.line
        return None

    def load(self, selector: str) -> Any:
        """What a selector such as ``models.TransformerConfig`` names; None if its first part is not imported."""
        symbol, *attributes = selector.split(".")
        if symbol not in self.imports:
            return None
        statement = self.imports[symbol]
        found = importlib.import_module(statement.module)
        if not statement.is_from and not statement.alias:
            found = importlib.import_module(symbol)
        for attribute in attributes:
            if not hasattr(found, attribute):
                names = [name for name in vars(found) if not name.startswith("_")]
                raise InputError(f"'{found.__name__}' has no '{attribute}'", hint=suggestion(attribute, names))
            found = getattr(found, attribute)
        return found


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(f"@{scoped_configurable_name}" + "()" * evaluate)

    def macro(self, macro_name: str) -> Reference:
        return Reference(f"%{macro_name}")


def read_statements(path: Path, overrides: Sequence[str], folders: Sequence[Path]) -> Statements:
    """Reads a config file, what it includes (looked up beside it, then in ``folders``), and overrides.

    Raises:
      InputError: unreadable files, syntax errors, modules that cannot be imported, a field bound twice in a file.
    """
    statements = Statements(path, {}, [])
    _read_file(statements, path, folders, ())
    for override in overrides:
        label = f"--gin.{override}"
        if "=" not in override:
            raise InputError("must have the form part.Class.field=value", file=label)
        for statement in _parse(override, label):
            if not isinstance(statement, config_parser.BindingStatement):
                raise InputError("must have the form part.Class.field=value", file=label)
            selector = _expand(statements, statement.selector) if statement.arg_name else statement.selector
            statements.bindings.append(
                Binding(statement.scope, selector, statement.arg_name, statement.value, label, None))
    return statements


def _read_file(statements: Statements, path: Path, folders: Sequence[Path], parents: tuple[Path, ...]) -> None:
    if path in parents:
        raise InputError("includes itself", file=path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from None
    seen: dict[tuple[str, str, str], int] = {}
    for statement in _parse(text, path):
        line = statement.location.line_num
        if isinstance(statement, config_parser.ImportStatement):
            _import(statements, statement, path)
        elif isinstance(statement, config_parser.IncludeStatement):
            places = [folder / statement.filename for folder in (path.parent, *folders)]
            found = next((place for place in places if place.is_file()), None)
            if found is None:
                raise InputError("no such file to include", file=path, row=line, value=statement.filename)
            _read_file(statements, found, folders, (*parents, path))
        elif isinstance(statement, config_parser.BindingStatement):
            binding = Binding(statement.scope, statement.selector, statement.arg_name, statement.value, path, line)
            key = (binding.scope, binding.selector, binding.field)
            if key in seen:
                raise binding.error(f"is bound twice (first in line {seen[key]})", value=binding.value)
            seen[key] = line
            statements.bindings.append(binding)


def _parse(text: str, file: Path | str) -> Iterator[Any]:
    try:
        yield from config_parser.ConfigParser(text, _Delegate())
    except SyntaxError as error:
        bare = re.search(r"Failed to parse token '(.*)'", error.msg)  # below what Python's own parser said about it
        message = f"cannot read {bare[1]}" if bare else error.msg.split("\n")[0].rstrip(".")
        raise InputError(f"syntax error: {message}", file=file, hint="a text needs quotes" if bare else None,
                         row=error.lineno if isinstance(file, Path) else None) from None
    except tokenize.TokenError as error:
        row = error.args[1][0] if len(error.args) > 1 and isinstance(file, Path) else None
        raise InputError(f"syntax error: {error.args[0]}", file=file, row=row) from None


def _import(statements: Statements, statement: config_parser.ImportStatement, path: Path) -> None:
    line = statement.location.line_num
    if statement.module.startswith("__gin__"):
        if statement.module != "__gin__.dynamic_registration":
            raise InputError("unknown gin feature", file=path, row=line, value=statement.module)
        return
    try:
        importlib.import_module(statement.module)
    except ImportError as error:
        raise InputError(f"cannot be imported ({error})", file=path, row=line, value=statement.module) from None
    name = statement.bound_name()
    known = statements.imports.setdefault(name, statement)
    if known.format() != statement.format() and (statement.is_from or statement.alias):
        raise InputError(f"'{name}' already names {known.module}", file=path, row=line, value=statement.module)


def _expand(statements: Statements, selector: str) -> str:
    """``Class`` -> ``part.Class``, as an override may be typed where the config itself names that class."""
    used = {binding.selector for binding in statements.bindings if binding.field}
    used |= {item.selector for binding in statements.bindings for item in references(binding.value)}
    matches = sorted(name for name in used if name.rsplit(".")[-1] == selector)
    return matches[0] if len(matches) == 1 else selector


def check_statements(statements: Statements) -> type:
    """Checks every binding: the class and field exist, plain values fit the field's annotation, everything is used.

    Returns:
      The root: the one bound dataclass that no value refers to.
    """
    macros = {binding.name: binding for binding in statements.bindings if not binding.field}
    bound: dict[type, Binding] = {}
    used: set[type] = set()
    used_macros: set[str] = set()
    for binding in statements.bindings:
        value = binding.value
        for item in references(value):
            if item.text.startswith("%"):
                if item.text[1:] not in macros:
                    raise binding.error(f"there is no macro {item.text}", hint=suggestion(item.text[1:], macros))
                used_macros.add(item.text[1:])
            elif not item.text.endswith("()"):
                raise binding.error("a part must be built, with () behind its name", value=item)
            else:
                used.add(_dataclass(statements, binding, item.selector))
        if not binding.field:
            continue
        owner = _dataclass(statements, binding, binding.selector)
        bound.setdefault(owner, binding)
        fields = [field.name for field in dataclasses.fields(owner) if field.init]
        if binding.field not in fields:
            raise binding.error(f"{owner.__name__} has no field '{binding.field}'",
                                hint=suggestion(binding.field, fields))
        while isinstance(value, Reference) and value.text[1:] in macros:
            value = macros[value.text[1:]].value
        if not references(value):
            reason = mismatch(value, typing.get_type_hints(owner, include_extras=True)[binding.field])
            if reason:
                raise binding.error(reason, value=value)
    for name in macros:
        if name not in used_macros:
            raise macros[name].error("is a macro that nothing uses", hint="a field is part.Class.field = value")
    roots = [owner for owner in bound if owner not in used]
    if not roots:
        raise InputError("binds no config", file=statements.path, hint="bind at least one field of what is to be run")
    if len(roots) > 1:
        names = [root.__name__ for root in roots]
        raise bound[roots[1]].error(f"nothing uses {names[1]}, and the config already binds {names[0]}")
    return roots[0]


def _dataclass(statements: Statements, binding: Binding, selector: str) -> type:
    try:
        found = statements.load(selector)
    except InputError as error:
        raise binding.error(error.message, hint=error.hint) from None
    if found is None:
        raise binding.error(f"'{selector.split('.')[0]}' is not imported", hint=suggestion(
            selector.split(".")[0], statements.imports))
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise binding.error(f"{selector} is not a dataclass")
    return found


def references(value: Any) -> list[Reference]:
    """All references inside a value."""
    if isinstance(value, Reference):
        return [value]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [found for item in value for found in references(item)] if isinstance(value, list | tuple) else []


def suggestion(name: str, known: Any) -> str | None:
    """A hint that names the closest known name, else all of them."""
    close = difflib.get_close_matches(name, list(known), 1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(sorted(known))}" if known else None
