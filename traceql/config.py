"""What holds for a run: the configuration file with the command line over it, rules resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traceql import config_file, hardware, kernel_names, registry
from traceql.config_file import BaselineSettings, ConfigFile, nearest
from traceql.engine import Selection
from traceql.errors import UsageError
from traceql.finding import Severity
from traceql.gate.budgets import Budget
from traceql.rule import Rule
from traceql.trace import Trace

_Options = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Configuration:
    """Everything a run needs to know.

    Attributes:
        selection: rules, options, severities and suppressions for the engine.
        named: codes of rules selected one by one, by code or name: these must be able to run.
        fail_on: least severity that fails a lint.
        budgets: limits to hold.
        baseline: where the baseline lies, and its tolerances.
        hardware: the user's file of GPU peaks.
        kernel_patterns: the user's file of kernel categories.
        path: the configuration file; None when there is none.
    """

    selection: Selection = field(default_factory=Selection)
    named: frozenset[str] = frozenset()
    fail_on: Severity = Severity.WARNING
    budgets: tuple[Budget, ...] = ()
    baseline: BaselineSettings = field(default_factory=BaselineSettings)
    hardware: Path | None = None
    kernel_patterns: Path | None = None
    path: Path | None = None

    def equipped(self, traces: Sequence[Trace]) -> tuple[Trace, ...]:
        """The traces with the configured GPU peaks and kernel names; call it before anything is computed from them."""
        if self.kernel_patterns is not None:
            kernel_names.extend(self.kernel_patterns)
        if self.hardware is None:
            return tuple(traces)
        hardware.gpus(self.hardware)  # complains about a wrong file now, not when a rule first asks for a peak
        return tuple(dataclasses.replace(trace, hardware=self.hardware, _memo={}) for trace in traces)


def load(
    path: Path | None = None,
    *,
    start: Path | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    options: Iterable[str] = (),
) -> Configuration:
    """The configuration of ``path``, or the one found from ``start`` (the working directory) upwards, or none.

    ``select``, ``ignore`` and ``options`` are the command line's and win: ``select`` replaces the file's choice of
    rules altogether, ``ignore`` takes more away, ``options`` (``TQL101.min_gap_us=3``) are set over the file's.
    UsageError for anything that does not exist, with the file and the key.
    """
    found = path or config_file.find((start or Path.cwd()).absolute())
    file = config_file.read(found) if found else None
    settings = file.settings if file else config_file.Settings()
    rules, named = _chosen(file, _parts(select), _parts(ignore))
    if not rules and not settings.budgets:
        raise UsageError(f"{found or 'command line'}: select and ignore leave no rule to run, and there is no budget")
    severities, from_file = _rule_tables(file)
    return Configuration(
        Selection(rules, _merged(from_file, _given(options)), severities, _suppressions(file)),
        named,
        Severity.parse(settings.fail_on),
        settings.budgets,
        settings.baseline,
        found.parent / settings.hardware if found and settings.hardware else None,
        found.parent / settings.kernel_patterns if found and settings.kernel_patterns else None,
        found,
    )


def _chosen(file: ConfigFile | None, select: list[str], ignore: list[str]) -> tuple[list[type[Rule]], frozenset[str]]:
    """The rules to run, and the codes of those named one by one."""
    settings = file.settings if file else config_file.Settings()
    wanted: list[tuple[str | None, str]] = [(None, text) for text in select]
    left_out: list[tuple[str | None, str]] = [(None, text) for text in ignore]
    if not select:
        wanted += [("select", text) for text in settings.select or ()]
        wanted += [("extend-select", text) for text in settings.extend_select]
        left_out += [("ignore", text) for text in settings.ignore]
    everything = not select and settings.select is None
    chosen: dict[str, type[Rule]] = dict(registry.rules()) if everything else {}
    named: set[str] = set()
    for key, text in wanted:
        found = _resolved(text, file, key)
        chosen |= {rule.code: rule for rule in found}
        named |= {rule.code for rule in found if text.strip().lower() in (rule.code.lower(), rule.name)}
    without = {rule.code for key, text in left_out for rule in _resolved(text, file, key)}
    return [rule for code, rule in sorted(chosen.items()) if code not in without], frozenset(named - without)


def _resolved(text: str, file: ConfigFile | None, key: str | None) -> list[type[Rule]]:
    try:
        return registry.resolve(text)
    except UsageError as error:
        if file is None or key is None:
            raise
        raise file.error(key, str(error)) from error


def _parts(texts: Iterable[str]) -> list[str]:
    """What a repeatable option with commas allowed was given."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _rule_tables(file: ConfigFile | None) -> tuple[dict[str, Severity], _Options]:
    """Severities and options of ``[rules.CODE]`` by code."""
    severities: dict[str, Severity] = {}
    options: _Options = {}
    seen: dict[str, str] = {}
    for name, table in (file.settings.rules if file else {}).items():
        assert file is not None
        (rule, *others) = _resolved(name, file, f"rules.{name}")
        if others:
            raise file.error(f"rules.{name}", "is a family; name one rule")
        if rule.code in seen:
            raise file.error(f"rules.{name}", f"given twice, as {seen[rule.code]} and as {name}")
        seen[rule.code] = name
        if not isinstance(table, dict):
            raise file.error(f"rules.{name}", f"expected a table of options, such as min-share-pct = 5, got {table!r}")
        for key, value in table.items():
            _take(file, rule, name, key, value, severities, options)
    return severities, options


def _take(
    file: ConfigFile,
    rule: type[Rule],
    name: str,
    key: str,
    value: object,
    severities: dict[str, Severity],
    options: _Options,
) -> None:
    """Put one key of ``[rules.name]`` where it belongs."""
    where, dashed = f"rules.{name}.{key}", key.replace("_", "-")
    known = {"severity", *(f.name.replace("_", "-") for f in dataclasses.fields(rule.Options))}
    if dashed not in known:
        raise file.error(where, f"no such option; {nearest(dashed, known)}")
    if dashed == "severity":
        severities[rule.code] = _severity(file, where, value)
        return
    own = options.setdefault(rule.code, {})
    option = dashed.replace("-", "_")
    if option in own:
        raise file.error(where, "given twice, with a dash and with an underscore")
    own[option] = value
    try:
        rule.options_from({option: value})
    except UsageError as error:
        raise file.error(where, str(error).partition(" ")[2]) from error


def _severity(file: ConfigFile, key: str, value: object) -> Severity:
    try:
        return Severity.parse(str(value))
    except KeyError:
        raise file.error(key, f"expected error, warning or info, got {value!r}") from None


def _suppressions(file: ConfigFile | None) -> tuple[Any, ...]:
    for index, suppression in enumerate(file.settings.suppress if file else ()):
        _resolved(suppression.rule, file, f"suppress[{index}].rule")
    return file.settings.suppress if file else ()


def _given(texts: Iterable[str]) -> _Options:
    """``RULE.OPTION=NUMBER`` texts of the command line, by code."""
    options: _Options = {}
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
        options.setdefault(rule.code, {})[option.replace("-", "_")] = number
        rule.options_from(options[rule.code])  # complains about an unknown option now, not in the middle of the run
    return options


def _merged(file: Mapping[str, Mapping[str, Any]], command_line: _Options) -> _Options:
    return {code: {**file.get(code, {}), **command_line.get(code, {})} for code in {*file, *command_line}}
