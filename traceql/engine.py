"""Run rules over a trace: one outcome each, whatever happens."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from traceql import registry
from traceql.finding import Finding, Severity
from traceql.requirements import missing
from traceql.rule import NotApplicableError, Rule
from traceql.trace import Trace

if TYPE_CHECKING:
    from traceql.suppressions import Suppression

Verdict = Literal["passed", "failed", "not_applicable", "error"]


@dataclass(frozen=True)
class Outcome:
    """What one rule said of one trace. ``reason`` says why it did not apply or how it crashed."""

    code: str
    name: str
    outcome: Verdict
    reason: str | None = None
    findings: tuple[Finding, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    traceback: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Selection:
    """Which rules run and how: the part of the configuration the engine needs.

    ``options``: code → option → value. ``severities``: code → severity. ``suppressions``: findings not to report.
    """

    rules: Sequence[type[Rule]] | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    severities: Mapping[str, Severity] = field(default_factory=dict)
    suppressions: Sequence[Suppression] = ()

    def chosen(self) -> list[type[Rule]]:
        rules: Iterable[type[Rule]] = registry.rules().values() if self.rules is None else self.rules
        return sorted(rules, key=lambda rule: rule.code)


def run(trace: Trace, selection: Selection | None = None, index: int = 0) -> list[Outcome]:
    """One outcome for every chosen rule, in order of code. ``index`` is the trace's place in the report."""
    selection = selection or Selection()
    return [_outcome(rule, trace, selection, index) for rule in selection.chosen()]


def _outcome(rule: type[Rule], trace: Trace, selection: Selection, index: int) -> Outcome:
    started = time.perf_counter()
    options = rule.options_from(selection.options.get(rule.code, {}))
    lacking = missing(trace, rule.needs)
    if lacking:
        return Outcome(rule.code, rule.name, "not_applicable", lacking)
    try:
        raw = list(rule().check(trace, options))
    except NotApplicableError as reason:
        return Outcome(rule.code, rule.name, "not_applicable", str(reason), seconds=time.perf_counter() - started)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(rule.code, rule.name, "error", reason, traceback=traceback.format_exc())
    severity = selection.severities.get(rule.code)
    findings = tuple(_placed(f, trace, index, severity) for f in raw)
    verdict: Verdict = "failed" if findings else "passed"
    return Outcome(rule.code, rule.name, verdict, None, findings, time.perf_counter() - started)


def _placed(finding: Finding, trace: Trace, index: int, severity: Severity | None) -> Finding:
    """The finding with its trace, the configured severity and its time in the source's own viewer."""
    return dataclasses.replace(
        finding,
        trace=index,
        severity=finding.severity if severity is None else severity,
        source_time_s=None if finding.start_ns is None else trace.source_time_s(finding.start_ns),
    )
