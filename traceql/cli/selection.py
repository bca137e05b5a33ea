"""--select, --ignore and --option → what the engine runs."""

from __future__ import annotations

from collections.abc import Iterable

from traceql import registry
from traceql.engine import Selection
from traceql.errors import UsageError
from traceql.rule import Rule


def selection_from(select: Iterable[str], ignore: Iterable[str], options: Iterable[str]) -> Selection:
    """Codes, names or families each, commas allowed; UsageError names what does not exist."""
    chosen = _rules(select) or list(registry.rules().values())
    left_out = {rule.code for rule in _rules(ignore)}
    return Selection([rule for rule in chosen if rule.code not in left_out], options=_options(options))


def _rules(texts: Iterable[str]) -> list[type[Rule]]:
    found = {rule.code: rule for text in texts for part in text.split(",") if part for rule in registry.resolve(part)}
    return list(found.values())


def _options(texts: Iterable[str]) -> dict[str, dict[str, float]]:
    options: dict[str, dict[str, float]] = {}
    for text in texts:
        target, _, value = text.partition("=")
        name, _, option = target.partition(".")
        try:
            number = float(value)
        except ValueError:
            raise UsageError(f"--option {text!r}: expected RULE.OPTION=NUMBER, such as TQL101.min_gap_us=3") from None
        (rule, *others) = registry.resolve(name)
        if others:
            raise UsageError(f"--option {text!r}: {name!r} is a family; name one rule")
        options.setdefault(rule.code, {})[option] = number
        rule.options_from(options[rule.code])  # complains about an unknown option now, not in the middle of the run
    return options
