"""Rules are found through the entry-point group ``traceql.rules``: the built-in ones and anybody's by the same door.

An entry point names a Rule subclass, or a package whose modules are searched for them.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from traceql.errors import UsageError
from traceql.rule import Rule

GROUP = "traceql.rules"


@cache
def rules() -> dict[str, type[Rule]]:
    """Every installed rule by code, in order of code; UsageError when two claim one code."""
    found: dict[str, type[Rule]] = {}
    for entry in entry_points(group=GROUP):
        for rule in _rules_of(entry):
            other = found.setdefault(rule.code, rule)
            if other is not rule:
                raise UsageError(f"two rules claim {rule.code}: {other.__module__} and {rule.__module__}")
    return dict(sorted(found.items()))


def _rules_of(entry: EntryPoint) -> list[type[Rule]]:
    target = entry.load()
    if isinstance(target, ModuleType):
        modules = [target]
        if hasattr(target, "__path__"):
            modules += [
                importlib.import_module(f"{target.__name__}.{m.name}") for m in pkgutil.iter_modules(target.__path__)
            ]
        return [rule for module in modules for rule in _defined_in(module)]
    if inspect.isclass(target) and issubclass(target, Rule):
        return [target]
    raise UsageError(f"entry point {entry.name!r} in {GROUP} is neither a Rule nor a package of rules: {entry.value}")


def _defined_in(module: ModuleType) -> list[type[Rule]]:
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, Rule)
        and not inspect.isabstract(member)
        and member.__module__ == module.__name__
    ]


def resolve(text: str) -> list[type[Rule]]:
    """The rules a user means by a code, a name, or a prefix of codes (``TQL1`` is the family); UsageError if none."""
    wanted = text.strip()
    matched = [r for r in rules().values() if wanted.upper() == r.code or wanted.lower() == r.name]
    matched = matched or [r for r in rules().values() if wanted and r.code.startswith(wanted.upper())]
    if not matched:
        names = [name for r in rules().values() for name in (r.code, r.name)]
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "`traceql rules` lists them"
        raise UsageError(f"no rule {wanted!r}; {hint}")
    return matched
