"""The JSON output: the contract for programs, as docs/report.schema.json describes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import traceql
from traceql import metrics
from traceql.engine import Outcome
from traceql.finding import Finding
from traceql.report.json_text import json_text
from traceql.report.names import file_labels
from traceql.reporting import Report, Results
from traceql.roofline_evidence import counted, counter_reports, exceeded
from traceql.schema import SCHEMA_VERSION
from traceql.suppressions import Suppressed
from traceql.trace import Problem, Trace


def render(report: Report) -> str:
    """The report as one JSON document with a final newline; the same input gives the same bytes."""
    return json_text(document(report))


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
        "findings": _findings(results),
        "suppressed": [
            _finding(s.finding) | {"suppressed_by": s.suppression.label, "reason": s.suppression.reason}
            for s in suppressed
        ],
    }
    plain: dict[str, Any] = _finite(content)
    return plain


def trace_entry(trace: Trace) -> dict[str, Any]:
    """What the document says of one trace, but for its path; ``metrics`` stand there when it has several, ``pids`` where
    its file holds several ranks, ``counters`` where a Nsight Compute report was joined, ``over_peak`` where kernels exceed a
    peak."""
    over = exceeded(trace)
    return {
        "source": trace.source,
        "rank": trace.rank,
        **({} if trace.part is None else {"pids": list(trace.part.processes)}),
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


def _findings(results: Results) -> list[dict[str, Any]]:
    """The findings of every trace: ``number`` is the entry that text and HTML tell them in."""
    number = {id(f): at for at, entry in enumerate(results.entries, start=1) for f in entry.every}
    found = results.found
    codes = {(f.trace, f.fingerprint): f.code for f in found}
    return [_finding(f) | {"number": number[id(f)], "overlaps_with": _overlaps(results, f, codes)} for f in found]


def _overlaps(results: Results, finding: Finding, codes: Mapping[tuple[int, str], str]) -> list[dict[str, Any]] | None:
    shared = results.overlaps(finding)
    if shared is None:
        return None
    return [{"code": codes[finding.trace, other], "fingerprint": other, "us_per_step": us} for other, us in shared]


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
