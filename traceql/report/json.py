"""The JSON output: the contract for programs, as docs/report.schema.json describes it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import traceql
from traceql import metrics
from traceql.engine import Outcome
from traceql.finding import Finding
from traceql.report.names import file_labels, without_home
from traceql.reporting import Report, Results
from traceql.roofline_evidence import counted, counter_reports, exceeded
from traceql.schema import SCHEMA_VERSION
from traceql.suppressions import Suppressed
from traceql.trace import Problem, Trace


def render(report: Report) -> str:
    """The report as one JSON document with a final newline; the same input gives the same bytes."""
    return render_document(document(report))


def render_document(content: dict[str, Any]) -> str:
    """A document as text with a final newline."""
    return json.dumps(_without_homes(content), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _without_homes(value: Any) -> Any:
    """``value`` without home directories in any of its texts: a report is shared, and they name a person."""
    if isinstance(value, str):
        return without_home(value)
    if isinstance(value, dict):
        return {without_home(key): _without_homes(inner) for key, inner in value.items()}
    return [_without_homes(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def document(report: Report) -> dict[str, Any]:
    """The report as plain data: dicts, lists, texts, numbers; what is not finite becomes null."""
    return assembled(
        report,
        [trace_entry(trace) for trace in report.traces],
        labels=file_labels([trace.path for trace in report.traces]),
        metrics=report.metrics,
        unreadable=report.unreadable,
        suppressed=report.suppressed,
    )


def assembled(
    results: Results,
    entries: Sequence[dict[str, Any]],
    *,
    labels: Sequence[str],
    metrics: dict[str, Any],
    unreadable: Sequence[str],
    suppressed: Sequence[Suppressed],
) -> dict[str, Any]:
    """The document of ``results`` over traces given by their entries (``trace_entry``) and what to call them."""
    several = len(entries) > 1
    content = {
        "traceql": traceql.__version__,
        "schema": SCHEMA_VERSION,
        "traces": [
            {"path": label} | {key: value for key, value in entry.items() if several or key != "metrics"}
            for entry, label in zip(entries, labels, strict=True)
        ],
        "unreadable": list(unreadable),
        "metrics": metrics,
        "recoverable": [dataclasses.asdict(each) for each in results.recoverable],
        "rules": [_rule(outcome) for outcome in results.rules],
        "findings": [_finding(finding) for finding in results.found],
        "suppressed": [
            _finding(s.finding) | {"suppressed_by": s.suppression.label, "reason": s.suppression.reason}
            for s in suppressed
        ],
    }
    plain: dict[str, Any] = _finite(content)
    return plain


def trace_entry(trace: Trace) -> dict[str, Any]:
    """What the document says of one trace, but for its path; ``metrics`` stand there when it has several, ``counters``
    where a Nsight Compute report was joined, ``over_peak`` where kernels exceed a peak."""
    over = exceeded(trace)
    return {
        "source": trace.source,
        "rank": trace.rank,
        "capabilities": trace.capabilities.as_dict(),
        "warnings": [_warning(problem) for problem in trace.problems],
        "metrics": metrics.of(trace),
        **({"over_peak": over} if over else {}),
        **_counters(trace),
    }


def _counters(trace: Trace) -> dict[str, Any]:
    reports = counter_reports(trace)
    if reports is None:
        return {}
    profiled = trace.loaded["ncu_kernels"].height
    return {"counters": {"reports": reports.split(", "), "profiled": profiled, "kernels": counted(trace)}}


def _warning(problem: Problem) -> str:
    amounts = [f"{n:,} {unit}" for n, unit in ((problem.count, "events"), (problem.bytes, "bytes")) if n is not None]
    return f"{problem.kind}: {problem.message}" + (f" ({', '.join(amounts)})" if amounts else "")


def _rule(outcome: Outcome) -> dict[str, Any]:
    return {"code": outcome.code, "name": outcome.name, "outcome": outcome.outcome, "reason": outcome.reason}


def _finding(finding: Finding) -> dict[str, Any]:
    fields = {f.name: getattr(finding, f.name) for f in dataclasses.fields(Finding) if f.name != "fix"}
    return fields | {"severity": finding.severity.label}


def _finite(value: Any) -> Any:
    """``value`` with tuples as lists, keys as texts and NaN or infinities as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
