"""From a Report to the View that every rendering shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import traceql
from traceql import registry
from traceql.report import headline
from traceql.report.cards import cards
from traceql.report.model import Cell, Column, Table, TraceView, View
from traceql.report.names import file_labels, shown
from traceql.report.sections import trace_view
from traceql.report.step_sections import are_ranks, ranks

if TYPE_CHECKING:
    from traceql.reporting import Report


def build(report: Report, *, timeline: bool = True) -> View:
    """The view of ``report``; ``timeline`` also packs the GPU timelines, which only HTML shows."""
    traces = report.traces
    files = file_labels([trace.path for trace in traces])
    labels = [f"rank {trace.rank}" for trace in traces] if are_ranks(traces) else files
    slowest = headline.slowest(traces) if traces else None
    lead = None if slowest is None else traces[slowest]
    found = cards(report, labels)
    share = 1 / max(len(traces), 1) if timeline else 0.0
    views = tuple(
        trace_view(trace, label, file, index, found, timeline_share=share)
        for index, (trace, label, file) in enumerate(zip(traces, labels, files, strict=True))
    )
    outcomes = report.rules
    return View(
        title=_title(files, ranks=labels is not files),
        scope=_scope(views, slowest),
        verdict=headline.verdict(lead) if lead else "No trace could be read.",
        headline=headline.figures(report, lead) if lead else (),
        cards=found,
        traces=views,
        ranks=ranks(traces, labels),
        passed=tuple(o.name for o in outcomes if o.outcome == "passed"),
        suppressed=tuple(
            (f"{s.finding.rule}: {shown(s.suppression.label)}", shown(s.suppression.reason)) for s in report.suppressed
        ),
        not_applicable=tuple((o.name, shown(o.reason or "")) for o in outcomes if o.outcome == "not_applicable"),
        crashed=tuple((o.name, shown(o.reason or "")) for o in outcomes if o.outcome == "error"),
        unreadable=tuple(shown(line) for line in report.unreadable),
        thresholds=_thresholds(report),
        version=traceql.__version__,
    )


def _title(files: list[str], *, ranks: bool) -> str:
    if len(files) < 2:
        return files[0] if files else "traceql report"
    return f"{len(files)} {'ranks' if ranks else 'traces'}: {files[0]} …"


def _scope(views: tuple[TraceView, ...], lead: int | None) -> tuple[str, ...]:
    if lead is None:
        return ()
    if len(views) == 1:
        return (*views[0].gpus, views[0].source)
    return (f"the figures are those of {views[lead].label}, the slowest",)


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
