"""The configuration as written: ``[tool.traceql]`` of a pyproject.toml, or a traceql.toml, found and checked.

A key that does not exist is an error that names the file, the key and the nearest one that does: a misspelt budget
must not pass for a kept one.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from traceql.errors import UsageError
from traceql.gate.budgets import Budget
from traceql.suppressions import Suppression

OWN_FILE = "traceql.toml"
PROJECT_FILE = "pyproject.toml"
_TABLE = "tool.traceql"


class BaselineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """``[baseline]``: where it lies and by how much a finding may grow: beyond both tolerances it is worse."""

    file: str | None = None
    tolerance_pct: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    tolerance_us_per_step: Annotated[float, msgspec.Meta(ge=0)] = 5.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The keys of a configuration file, as docs/configuration.md describes them."""

    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: Literal["error", "warning", "info"] = "warning"
    hardware: str | None = None
    kernel_patterns: str | None = None
    baseline: BaselineSettings = BaselineSettings()
    rules: Mapping[str, Any] = {}
    budgets: tuple[Budget, ...] = ()
    suppress: tuple[Suppression, ...] = ()


@dataclass(frozen=True)
class ConfigFile:
    """A file that was read. ``prefix`` is where its keys stand: ``tool.traceql.`` in a pyproject.toml."""

    path: Path
    prefix: str
    settings: Settings

    def error(self, key: str, problem: str) -> UsageError:
        """The error for one key: file, key path, problem, in one line."""
        return UsageError(f"{self.path}: {self.prefix}{key}: {problem}")


def find(start: Path) -> Path | None:
    """The configuration that holds in ``start``: the nearest traceql.toml, or pyproject.toml with our table, upwards.

    Relative to the working directory, as messages show it.
    """
    for folder in (start, *start.parents):
        own, project = folder / OWN_FILE, folder / PROJECT_FILE
        if own.is_file():
            return Path(os.path.relpath(own))
        if project.is_file() and _table_of(_toml(project)) is not None:
            return Path(os.path.relpath(project))
    return None


def read(path: Path) -> ConfigFile:
    """Read one file; UsageError names what is wrong and where."""
    content = _toml(path)
    prefix = ""
    if path.name == PROJECT_FILE:
        table = _table_of(content)
        if table is None:
            raise UsageError(f"{path}: has no [{_TABLE}] table; see docs/configuration.md")
        content, prefix = table, f"{_TABLE}."
    elif isinstance(content.get("tool"), dict):
        raise UsageError(f"{path}: tool: outside a {PROJECT_FILE} the keys stand at the top, without [{_TABLE}]")
    checked = _checked(content, Settings, path, prefix)
    try:
        settings = msgspec.convert(checked, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {_worded(str(error), prefix)}") from error
    found = ConfigFile(path, prefix, settings)
    for index, budget in enumerate(settings.budgets):
        if problem := budget.problem():
            raise found.error(f"budgets[{index}]", problem)
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint after an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known are: {', '.join(names) or 'none'}"


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from error


def _table_of(content: dict[str, Any]) -> dict[str, Any] | None:
    tool = content.get("tool")
    table = tool.get("traceql") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


_INNER: dict[str, type[msgspec.Struct]] = {"budgets": Budget, "suppress": Suppression, "baseline": BaselineSettings}


def _checked(table: dict[str, Any], struct: type[msgspec.Struct], path: Path, where: str) -> dict[str, Any]:
    """``table`` with dashes in its keys; UsageError for a key the struct does not have. ``rules`` are left as they are."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    result: dict[str, Any] = {}
    for given, value in table.items():
        key = given.replace("_", "-")
        if key not in known:
            raise UsageError(f"{path}: {where}{given}: no such key; {nearest(key, known)}")
        if key in result:
            raise UsageError(f"{path}: {where}{given}: given twice, with a dash and with an underscore")
        inner = _INNER.get(key) if struct is Settings else None
        result[key] = value if inner is None else _checked_inside(value, inner, path, f"{where}{given}")
        choices = _choices(known[key])
        if choices and value not in choices:
            raise UsageError(f"{path}: {where}{given}: expected one of {', '.join(choices)}, got {value!r}")
    return result


def _checked_inside(value: Any, struct: type[msgspec.Struct], path: Path, where: str) -> Any:
    """A table, or a list of tables, checked; what is neither is left for the conversion to complain about."""
    if isinstance(value, dict):
        return _checked(value, struct, path, f"{where}.")
    if isinstance(value, list):
        return [_checked_inside(item, struct, path, f"{where}[{index}]") for index, item in enumerate(value)]
    return value


def _choices(annotation: Any) -> tuple[str, ...]:
    """The texts a key may have; empty where any will do."""
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return get_args(part)
    return ()


def _worded(error: str, prefix: str) -> str:
    """msgspec's message with the key first: ``tool.traceql.suppress[0].reason: expected str, got int``."""
    message, _, place = error.partition(" - at `")
    key = prefix + place.removesuffix("`").removeprefix("$").removeprefix(".")
    text = re.sub(r"`([^`]*)`", r"\1", message)
    for theirs, ours in _WORDS:
        text = re.sub(theirs, ours, text)
    hint = f"; write it as [[{key}]]" if key.removeprefix(f"{_TABLE}.") in _REPEATED and "got table" in text else ""
    return f"{key.rstrip('.') or 'file'}: {text[:1].lower()}{text[1:]}{hint}"


_REPEATED = ("suppress", "budgets")
"""Keys that are arrays of tables."""

_WORDS = (
    ("Object missing required field ", "lacks the key "),
    (r" \| null", ""),
    (r"\bobject\b", "table"),
    (r"\bstr\b", "string"),
    (r"\bfloat\b", "number"),
    (r"\bint\b", "integer"),
    (r"\bbool\b", "boolean"),
    (r"string of length >= 1", "a text"),
)
"""What msgspec says → the words of TOML."""
