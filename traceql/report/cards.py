"""Findings as cards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from traceql.finding import Finding
from traceql.report import evidence, units
from traceql.report.headline import step_label
from traceql.report.model import Card, Figure, Place
from traceql.report.names import shown
from traceql.trace import Trace

if TYPE_CHECKING:
    from traceql.reporting import Report

_CERTAINTY = {"exact": "counted", "modelled": "modelled"}


def cards(report: Report, labels: Sequence[str]) -> tuple[Card, ...]:
    """One card a finding, in the report's order; ``labels`` name the traces."""
    seen: Counter[str] = Counter()
    found = []
    for number, finding in enumerate(report.found, start=1):
        anchor = f"f-{finding.fingerprint}" if finding.fingerprint else f"f-{finding.code}"
        seen[anchor] += 1
        if seen[anchor] > 1:
            anchor += f"-{seen[anchor]}"
        label = labels[finding.trace] if len(labels) > 1 else None
        found.append(_card(number, finding, report.traces[finding.trace], anchor, label))
    return tuple(found)


def _card(number: int, finding: Finding, trace: Trace, anchor: str, label: str | None) -> Card:
    savings = finding.estimated_savings_us_per_step
    place = None
    if finding.start_ns is not None:
        place = Place(finding.trace, finding.start_ns, finding.end_ns or finding.start_ns)
    return Card(
        number=number,
        code=finding.code,
        rule=finding.rule,
        severity=finding.severity.label,
        message=shown(finding.message),
        where=tuple(_where(finding, trace)),
        certainty=_CERTAINTY[finding.certainty],
        savings=None if savings is None else _savings(savings),
        savings_us=savings or 0.0,
        facts=evidence.facts(finding.evidence),
        tables=evidence.tables(finding.evidence, trace, finding.trace),
        advice=tuple(shown(line) for line in finding.advice),
        anchor=anchor,
        place=place,
        trace=label,
    )


def _savings(us: float) -> Figure:
    value, unit = units.quantity(us, "µs", "step")
    return Figure("estimated saving", value, unit, units.exact(us, "µs", "step"))


def _where(finding: Finding, trace: Trace) -> list[str]:
    parts = []
    if finding.step_id is not None:
        step = trace.table("steps").filter(pl.col("step_id") == finding.step_id)
        name = step_label(*step.select("kind", "batch_size").row(0)) if step.height else "step"
        parts.append(shown(f"step {finding.step_id}" if name == "step" else f"step {finding.step_id}, {name}"))
    if finding.subject:
        parts.append(shown(finding.subject))
    if finding.source_time_s is not None:
        parts.append(f"at {finding.source_time_s:.6f} s")
    return parts
