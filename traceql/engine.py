"""Run rules over a trace: one outcome each, whatever happens."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from traceql import registry
from traceql.finding import Finding, Severity
from traceql.fix import RETIMED
from traceql.requirements import missing
from traceql.rule import NotApplicableError, Rule, RunRule
from traceql.trace import Trace

if TYPE_CHECKING:
    from traceql.ranks.digest import RankDigest
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
    """One outcome for every chosen rule of single traces, in order of code; ``index`` is the trace's place in the report."""
    selection = selection or Selection()
    return [_alone(rule, trace, selection, index) for rule in selection.chosen() if rule.scope == "trace"]


def _alone(rule: type[Rule], trace: Trace, selection: Selection, index: int) -> Outcome:
    from traceql.savings import priced

    return _outcome(
        rule,
        selection,
        missing(trace, rule.needs),
        lambda options: (_weighed(rule, priced(finding, trace)) for finding in rule().check(trace, options)),
        lambda finding: _placed(finding, index, trace),
    )


_NOTHING_US = 1.0
"""A modelled saving under this is none: re-timing is exact to the ns, the recording it starts from is not."""


def _weighed(rule: type[Rule], finding: Finding) -> Finding:
    """The finding less severe where the rule says so of a fix that would not make the step shorter."""
    saved = finding.estimated_savings_us_per_step
    if rule.severity_if_worthless is None or finding.evidence.get("savings_basis") != RETIMED or saved is None:
        return finding
    severity = min(finding.severity, rule.severity_if_worthless) if saved < _NOTHING_US else finding.severity
    return dataclasses.replace(finding, severity=severity)


def run_together(digests: Sequence[RankDigest], selection: Selection | None = None) -> list[Outcome]:
    """One outcome for every chosen rule over the traces of a report, in order of code."""
    selection = selection or Selection()
    return [_together(rule, digests, selection) for rule in selection.chosen() if issubclass(rule, RunRule)]


def run_all(traces: Sequence[Trace], selection: Selection | None = None) -> tuple[tuple[Outcome, ...], ...]:
    """For each trace one outcome a rule, in order of code; those of rules over all traces stand with the first."""
    selection = selection or Selection()
    each = [run(trace, selection, index) for index, trace in enumerate(traces)]
    if each and any(rule.scope == "run" for rule in selection.chosen()):
        each[0] = joined(each[0], _over_all(traces, selection))
    return tuple(tuple(outcomes) for outcomes in each)


def _over_all(traces: Sequence[Trace], selection: Selection) -> list[Outcome]:
    from traceql.ranks.digest import digests

    try:
        made = [digest for index, trace in enumerate(traces) for digest in digests(trace, index)]
    except Exception as error:  # a defect here must not take the other rules' findings with it
        rules = [rule for rule in selection.chosen() if rule.scope == "run"]
        return [_crashed(rule, error) for rule in rules]
    return run_together(made, selection)


def _crashed(rule: type[Rule], error: Exception) -> Outcome:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Outcome(rule.code, rule.name, "error", reason, traceback=traceback.format_exc())


def joined(outcomes: Sequence[Outcome], more: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes of different rules in order of code."""
    return sorted([*outcomes, *more], key=lambda outcome: outcome.code)


def _together(rule: type[RunRule], digests: Sequence[RankDigest], selection: Selection) -> Outcome:
    able = [d for d in digests if not any(need in d.lacking for need in rule.needs)]
    lacking = None
    if digests and not able:
        lacking = next(digests[0].lacking[need] for need in rule.needs if need in digests[0].lacking)
    by_index = {digest.index: digest for digest in digests}
    return _outcome(
        rule,
        selection,
        lacking,
        lambda options: rule().check_run(able, options),
        lambda finding: _placed(finding, finding.trace, by_index[finding.trace]),
    )


def _outcome(
    rule: type[Rule],
    selection: Selection,
    lacking: str | None,
    check: Callable[[Any], Iterable[Finding]],
    place: Callable[[Finding], Finding],
) -> Outcome:
    started = time.perf_counter()
    options = rule.options_from(selection.options.get(rule.code, {}))
    if lacking:
        return Outcome(rule.code, rule.name, "not_applicable", lacking)
    try:
        raw = list(check(options))
    except NotApplicableError as abstained:
        return Outcome(rule.code, rule.name, "not_applicable", str(abstained), seconds=time.perf_counter() - started)
    except Exception as error:
        return _crashed(rule, error)
    severity = selection.severities.get(rule.code)
    placed = (place(finding) for finding in raw)
    findings = tuple(f if severity is None else dataclasses.replace(f, severity=severity) for f in placed)
    verdict: Verdict = "failed" if findings else "passed"
    return Outcome(rule.code, rule.name, verdict, None, findings, time.perf_counter() - started)


def _placed(finding: Finding, index: int, source: Trace | RankDigest) -> Finding:
    """The finding with its trace and its time in the source's own viewer."""
    seconds = None if finding.start_ns is None else source.source_time_s(finding.start_ns)
    return dataclasses.replace(finding, trace=index, source_time_s=seconds)
