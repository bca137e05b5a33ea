"""From a Report to the View that every rendering shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import traceql
from traceql import registry
from traceql.report import headline
from traceql.report.cards import cards
from traceql.report.model import Cell, Column, Table, View
from traceql.report.names import file_labels, shown
from traceql.report.sections import trace_view
from traceql.report.step_sections import ranks

if TYPE_CHECKING:
    from traceql.reporting import Report


def build(report: Report, *, timeline: bool = True) -> View:
    """The view of ``report``; ``timeline`` also packs the GPU timelines, which only HTML shows."""
    labels = file_labels([trace.path for trace in report.traces])
    lead = headline.slowest(report.traces) if report.traces else None
    found = cards(report, labels)
    share = 1 / max(len(report.traces), 1) if timeline else 0.0
    outcomes = report.rules
    return View(
        title=_title(report, labels),
        verdict=headline.verdict(lead) if lead else "No trace could be read.",
        headline=headline.figures(report, lead) if lead else (),
        cards=found,
        traces=tuple(
            trace_view(trace, label, index, found, timeline_share=share)
            for index, (trace, label) in enumerate(zip(report.traces, labels, strict=True))
        ),
        ranks=ranks(report.traces, labels),
        passed=tuple(o.name for o in outcomes if o.outcome == "passed"),
        not_applicable=tuple((o.name, shown(o.reason or "")) for o in outcomes if o.outcome == "not_applicable"),
        crashed=tuple((o.name, shown(o.reason or "")) for o in outcomes if o.outcome == "error"),
        unreadable=tuple(shown(line) for line in report.unreadable),
        thresholds=_thresholds(report),
        version=traceql.__version__,
    )


def _title(report: Report, labels: list[str]) -> str:
    if not labels:
        return "traceql report"
    return labels[0] if len(labels) == 1 else f"{len(labels)} traces, {labels[0]} and more"


def _thresholds(report: Report) -> Table:
    """Every option of the rules that ran, with its default."""
    ran = {outcome.code for outcome in report.rules}
    rows = [
        (Cell(code), Cell(rule.name), Cell(field.name.replace("_", "-")), Cell(f"{field.default:g}"),
         Cell(shown(field.metadata["help"])))
        for code, rule in registry.rules().items() if code in ran
        for field in rule.Options.__dataclass_fields__.values()
    ]  # fmt: skip
    columns = (Column("code"), Column("rule"), Column("option"), Column("default", numeric=True), Column("meaning"))
    return Table("Thresholds", columns, tuple(rows))
