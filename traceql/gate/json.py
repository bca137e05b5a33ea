"""A lint result for programs: the analysis document with a ``lint`` block, as docs/lint.schema.json describes it."""

from __future__ import annotations

from typing import Any

import msgspec

from traceql.finding import Finding
from traceql.gate.baseline import magnitude
from traceql.gate.budgets import Checked
from traceql.gate.lint import Judged, LintResult
from traceql.report.json import document as analysis
from traceql.report.json_text import json_text
from traceql.suppressions import Suppressed


def render(result: LintResult) -> str:
    """One JSON document with a final newline; the same input gives the same bytes."""
    return json_text(document(result))


def document(result: LintResult) -> dict[str, Any]:
    """The analysis as plain data, and the verdict under ``lint``."""
    return analysis(result.report) | {"lint": verdict(result)}


def verdict(result: LintResult) -> dict[str, Any]:
    """The ``lint`` block."""
    return {
        "exit_code": result.exit_code,
        "verdict": result.verdict,
        "fail_on": result.fail_on.label,
        "configuration": str(result.configuration) if result.configuration else None,
        "baseline": str(result.baseline) if result.baseline else None,
        "allow_incomplete": result.allow_incomplete,
        "incomplete": list(result.incomplete),
        "findings": [_judged(judged) for judged in result.findings],
        "fixed": [msgspec.to_builtins(entry) for entry in result.fixed],
        "suppressed": [_suppressed(suppressed) for suppressed in result.report.suppressed],
        "budgets": [_budget(checked) for checked in result.budgets],
    }


def _identity(finding: Finding) -> dict[str, Any]:
    return {"code": finding.code, "rule": finding.rule, "trace": finding.trace, "fingerprint": finding.fingerprint}


def _judged(judged: Judged) -> dict[str, Any]:
    size, unit = magnitude(judged.finding)
    return _identity(judged.finding) | {
        "status": judged.status,
        "fails": judged.fails,
        "magnitude": size,
        "unit": unit,
        "magnitude_before": judged.before.magnitude if judged.before else None,
    }


def _suppressed(suppressed: Suppressed) -> dict[str, Any]:
    expires = suppressed.suppression.expires
    return _identity(suppressed.finding) | {
        "suppression": suppressed.suppression.label,
        "reason": suppressed.suppression.reason,
        "expires": expires.isoformat() if expires else None,
    }


def _budget(checked: Checked) -> dict[str, Any]:
    budget = checked.budget
    return {
        "label": budget.label,
        "metric": budget.metric,
        "sql": budget.sql,
        "kind": budget.kind,
        "batch_size": budget.batch_size,
        "aggregate": budget.aggregate if budget.metric else None,
        "min": budget.min,
        "max": budget.max,
        "unit": budget.unit,
        "state": checked.state,
        "value": checked.value,
        "trace": checked.trace,
        "reason": checked.reason,
    }
