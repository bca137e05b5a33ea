"""From a Report to the View that every rendering shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import traceql
from traceql import registry
from traceql.report import headline
from traceql.report.cards import cards, grouped
from traceql.report.commands import analyze_command
from traceql.report.labels import run_name, trace_labels
from traceql.report.model import Card, Cell, Column, Handoff, Table, TraceView, View
from traceql.report.names import file_labels, shown
from traceql.report.sections import brief_view, trace_view
from traceql.report.step_sections import are_ranks, ranks

if TYPE_CHECKING:
    from traceql.report.rank_model import RankView
    from traceql.reporting import Report
    from traceql.trace import Trace


def build(report: Report, *, timeline: bool = True) -> View:
    """The view of ``report``; ``timeline`` also packs GPU timelines and downloads, which only HTML shows."""
    traces = report.traces
    files = file_labels([trace.path for trace in traces])
    by_rank = are_ranks(traces)
    labels = [f"rank {trace.rank}" for trace in traces] if by_rank else trace_labels(traces, report.recordings)
    slowest = headline.slowest(traces) if traces else None
    lead = None if slowest is None else traces[slowest]
    found = cards(report, labels)
    detailed = _detailed(report, slowest)
    found = tuple(_reachable(card, detailed) for card in found)
    share = 1 / max(len(detailed), 1) if timeline else 0.0
    every = tuple(each for card in found for each in card.every)
    views = tuple(
        trace_view(trace, label, file, index, every, timeline_share=share)
        if index in detailed
        else brief_view(trace, label)
        for index, (trace, label, file) in enumerate(zip(traces, labels, files, strict=True))
    )
    outcomes = report.rules
    return View(
        title=_title(files, run_name(report.recordings), "ranks" if by_rank else _kind(traces)),
        scope=_scope(views, slowest),
        verdict=headline.verdict(lead) if lead else "No trace could be read.",
        recorded=headline.without_profiler(traces, report.recordings),
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
        groups=grouped(found),
        command=analyze_command(report),
        lead=slowest,
        handoff=_handoff(report, every) if timeline else None,
        rank_views=_rank_views(report, detailed, labels) if timeline else (),
        brief_note=_brief_note(labels, detailed),
    )


_DETAILED = 6
"""Traces of one report whose evidence is shown; all of them where there are hardly more."""


def _detailed(report: Report, lead: int | None) -> list[int]:
    """The traces whose evidence is shown: the slowest, those the first findings are about, then the first ones."""
    count = len(report.traces)
    if count <= _DETAILED + 2:
        return list(range(count))
    wanted = [*([lead] if lead is not None else []), *(f.trace for f in report.found), *range(count)]
    return sorted(list(dict.fromkeys(wanted))[:_DETAILED])


def _reachable(card: Card, detailed: Sequence[int]) -> Card:
    """The card without links into timelines that are not on the page."""
    card = replace(card, twins=tuple(_reachable(twin, detailed) for twin in card.twins))
    if card.place is None or card.place.trace in detailed:
        return card
    tables = tuple(
        replace(table, rows=tuple(tuple(replace(cell, place=None) for cell in row) for row in table.rows))
        for table in card.tables
    )
    return replace(card, tables=tables)


def _brief_note(labels: Sequence[str], detailed: Sequence[int]) -> str:
    if len(detailed) == len(labels):
        return ""
    names = ", ".join(labels[index] for index in detailed)
    return (
        f"Timelines and evidence of {len(labels) - len(detailed)} of {len(labels)} traces are left out to keep the page "
        f"small. Shown are the slowest and those of the first findings: {names}. Give a trace alone for its own."
    )


def _rank_views(report: Report, detailed: Sequence[int], labels: Sequence[str]) -> tuple[RankView, ...]:
    from traceql.report.rank_views import rank_views

    return rank_views(report.traces, detailed, labels)


def _handoff(report: Report, every: Sequence[Card]) -> Handoff:
    from traceql.report.handoff import pack

    return pack(report, every)


def _title(files: list[str], run: str | None, what: str) -> str:
    if len(files) < 2:
        return files[0] if files else "traceql report"
    more = " …" if len(set(files)) > 1 else ""
    return f"{len(files)} {what}{f' of {run}' if run else f': {files[0]}{more}'}"


def _kind(traces: Sequence[Trace]) -> str:
    """What traces are called that are no ranks."""
    one_file = len({trace.path for trace in traces}) == 1 and all(trace.part is not None for trace in traces)
    return "processes" if one_file else "traces"


def _scope(views: tuple[TraceView, ...], lead: int | None) -> tuple[str, ...]:
    if lead is None:
        return ()
    if len(views) == 1:
        return (*views[0].gpus, views[0].source)
    return (f"the figures are those of {views[lead].label}, the slowest",)


def _thresholds(report: Report) -> Table:
    """Every option of the rules that ran: what it was, and what it is unless set."""
    ran = {outcome.code for outcome in report.rules}
    rows = []
    for code, rule in registry.rules().items():
        if code not in ran:
            continue
        used = rule.options_from(report.selection.options.get(code, {}))
        for option in fields(rule.Options):
            value = getattr(used, option.name)
            name = option.name.replace("_", "-")
            note = "" if value == option.default else " (set)"
            rows.append(
                (Cell(code), Cell(rule.name), Cell(name), Cell(f"{value:g}{note}"), Cell(f"{option.default:g}"),
                 Cell(shown(option.metadata["help"])))
            )  # fmt: skip
    columns = (
        Column("code"), Column("rule"), Column("option"), Column("used", numeric=True),
        Column("default", numeric=True), Column("meaning"),
    )  # fmt: skip
    return Table("Thresholds", columns, tuple(rows))
