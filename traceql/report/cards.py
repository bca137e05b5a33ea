"""Findings as cards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from traceql import registry
from traceql.finding import Finding, Severity
from traceql.fix import RETIMED
from traceql.report import evidence, units
from traceql.report.commands import open_command
from traceql.report.headline import step_label
from traceql.report.model import Card, Figure, Group, Place
from traceql.report.names import shown
from traceql.trace import Trace

if TYPE_CHECKING:
    from traceql.reporting import Report

_CERTAINTY = {"exact": "counted", "modelled": "modelled"}
_TOLD = "savings_basis"
_BASIS: dict[str | None, str] = {RETIMED: "modelled", "measured": "measured", "bound": "at most"}
"""What the saving rests on, in the word that stands beside it."""


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
        trace = report.traces[finding.trace]
        command = "" if trace.source == "ncu" else open_command(report, number)
        found.append(_card(number, finding, trace, anchor, label, command))
    return tuple(found)


def grouped(cards: Sequence[Card]) -> tuple[Group, ...]:
    """The cards by rule; what all findings of a rule share is told once."""
    by_code: dict[str, list[Card]] = {}
    for card in cards:
        by_code.setdefault(card.code, []).append(card)
    return tuple(_group(tuple(members)) for members in by_code.values())


def _group(cards: tuple[Card, ...]) -> Group:
    first = cards[0]
    known = registry.rules().get(first.code)
    return Group(
        first.code,
        first.rule,
        max((card.severity for card in cards), key=Severity.parse),
        shown(known.summary) if known else first.rule,
        cards,
        first.advice if all(card.advice == first.advice for card in cards) else (),
        tuple(part for part in first.where if all(part in card.where for card in cards)),
    )


def _card(number: int, finding: Finding, trace: Trace, anchor: str, label: str | None, command: str) -> Card:
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
        certainty=_BASIS.get(finding.evidence.get(_TOLD), _CERTAINTY[finding.certainty]),
        savings=None if savings is None else _savings(savings),
        savings_us=savings or 0.0,
        facts=evidence.facts({k: v for k, v in finding.evidence.items() if k != _TOLD}),
        tables=evidence.tables(finding.evidence, trace, finding.trace),
        advice=tuple(shown(line) for line in finding.advice),
        anchor=anchor,
        place=place,
        trace=label,
        command=command,
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
