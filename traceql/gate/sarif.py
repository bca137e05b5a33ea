"""A lint result as SARIF 2.1.0, for code scanning and other result viewers.

Locations point at the trace file, line 1: a trace has no source lines, and viewers drop results without a region. Keep
the trace's path the same from run to run: viewers match results by path, rule and fingerprint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import traceql
from traceql import registry
from traceql.finding import Finding, Severity
from traceql.gate.budgets import Checked
from traceql.gate.lint import Judged, LintResult
from traceql.report.json_text import json_text
from traceql.report.labels import part_label
from traceql.report.names import file_labels, shown
from traceql.suppressions import Suppressed

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_STATES = {"new": "new", "worse": "updated", "known": "unchanged"}
_BUDGET = "budget"


def render(result: LintResult) -> str:
    """One SARIF log with a final newline."""
    return json_text(document(result))


def document(result: LintResult) -> dict[str, Any]:
    """The log as plain data."""
    codes = [outcome.code for outcome in result.report.rules]
    rules = [_rule(code) for code in codes]
    if result.budgets:
        rules.append(_budget_rule())
        codes.append(_BUDGET)
    results = [
        *(_judged(judged, codes, result) for judged in result.findings),
        *(_suppressed(suppressed, codes, result) for suppressed in result.report.suppressed),
        *(_budget(checked, codes, result) for checked in result.exceeded),
    ]
    run = {
        "tool": {"driver": {"name": "traceql", "version": traceql.__version__, "rules": rules}},
        "automationDetails": {"id": "traceql/lint/"},
        "invocations": [_invocation(result)],
        "artifacts": [{"location": {"uri": uri}, "roles": ["analysisTarget"]} for uri in dict.fromkeys(_uris(result))],
        "results": results,
        "columnKind": "utf16CodeUnits",
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str) -> dict[str, Any]:
    rule = registry.rules()[code]
    page = rule.page()
    return {
        "id": code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.summary},
        "help": {"text": page, "markdown": page},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": ["performance", "gpu"]},
    }


def _budget_rule() -> dict[str, Any]:
    text = "A figure of the trace is beyond its budget in the configuration."
    return {
        "id": _BUDGET,
        "name": "budget",
        "shortDescription": {"text": text},
        "fullDescription": {"text": text},
        "help": {"text": "See docs/configuration.md, Budgets."},
        "defaultConfiguration": {"level": "error"},
    }


def _invocation(result: LintResult) -> dict[str, Any]:
    said = [(line, "error") for line in result.report.unreadable]
    said += [(line, _LEVELS[result.gravity]) for line in result.incomplete]
    return {
        "executionSuccessful": result.exit_code != 2,
        "exitCode": result.exit_code,
        "toolExecutionNotifications": [{"level": level, "message": {"text": shown(line)}} for line, level in said],
    }


def _result(level: str, message: str, fingerprint: str, location: dict[str, Any]) -> dict[str, Any]:
    return {
        "level": level,
        "message": {"text": shown(message)},
        "locations": [location],
        "partialFingerprints": {"primaryLocationLineHash": f"{fingerprint}:1", "traceql/v1": fingerprint},
    }


def _judged(judged: Judged, codes: list[str], result: LintResult) -> dict[str, Any]:
    entry = _finding(judged.finding, codes, result)
    return entry | ({"baselineState": _STATES[judged.status]} if result.baseline else {})


def _suppressed(suppressed: Suppressed, codes: list[str], result: LintResult) -> dict[str, Any]:
    reason = {"kind": "external", "status": "accepted", "justification": shown(suppressed.suppression.reason)}
    return _finding(suppressed.finding, codes, result) | {"suppressions": [reason]}


def _finding(finding: Finding, codes: list[str], result: LintResult) -> dict[str, Any]:
    part = part_label(result.report.traces[finding.trace])
    message = " ".join([*([f"In {part}:"] if part else []), finding.message, *finding.advice[:1]])
    location = _location(result, finding.trace)
    if finding.subject:
        location["logicalLocations"] = [{"name": shown(finding.subject), "kind": "function"}]
    entry = _about(finding.code, codes)
    entry |= _result(_LEVELS[finding.severity], message, finding.fingerprint, location)
    facts = {
        "step": finding.step_id,
        "sourceTimeSeconds": finding.source_time_s,
        "estimatedSavingsUsPerStep": finding.estimated_savings_us_per_step,
        "certainty": finding.certainty,
    }
    return entry | {"properties": {name: value for name, value in facts.items() if value is not None}}


def _budget(checked: Checked, codes: list[str], result: LintResult) -> dict[str, Any]:
    location = _location(result, checked.trace or 0)
    return _about(_BUDGET, codes) | _result("error", checked.message, checked.budget.fingerprint, location)


def _about(code: str, codes: list[str]) -> dict[str, Any]:
    return {"ruleId": code, "ruleIndex": codes.index(code)}


def _location(result: LintResult, trace: int) -> dict[str, Any]:
    every = _uris(result)
    artifact = {"uri": every[trace], "index": list(dict.fromkeys(every)).index(every[trace])}
    place = {"artifactLocation": artifact, "region": {"startLine": 1}}
    return {"physicalLocation": place}


def _uris(result: LintResult) -> list[str]:
    """Paths relative to the working directory; for files elsewhere the name alone, which tells nobody's folders."""
    here = Path.cwd()
    paths = [trace.path for trace in result.report.traces]
    labels = file_labels(paths)
    absolute = [path.absolute() for path in paths]
    inside = [str(a.relative_to(here).as_posix()) if a.is_relative_to(here) else None for a in absolute]
    return [quote(os.fsencode(path or label)) for path, label in zip(inside, labels, strict=True)]
