"""What a report, a trace and a finding look like in a notebook: HTML fragments without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from traceql.report import evidence, headline, notes, step_sections, units
from traceql.report.labels import trace_labels
from traceql.report.model import Figure
from traceql.report.names import file_labels, shown
from traceql.report.templates import environment, source
from traceql.report.view import build
from traceql.twins import recording

if TYPE_CHECKING:
    from traceql.finding import Finding
    from traceql.reporting import Report
    from traceql.trace import Trace


def report_html(report: Report) -> str:
    """Verdict, headline figures, where the step goes, and the findings to unfold; ``report.save`` has the whole."""
    return _rendered("notebook_report.html.j2", view=build(report, timeline=False))


def trace_html(trace: Trace) -> str:
    """What was recorded, how long a step takes and where it goes; the tables by their number of rows."""
    rows = {name: frame.height for name, frame in trace.loaded.items() if frame.height}
    label = file_labels([trace.path])[0]
    return _rendered(
        "notebook_trace.html.j2",
        label=label,
        verdict=headline.verdict(trace),
        chains=step_sections.chains(trace)[:1],
        facts=notes.provenance(trace, label)[1:],
        notes=notes.notes(trace),
        tables=[(name, units.count(height)) for name, height in rows.items()],
    )


def traces_html(traces: Sequence[Trace]) -> str:
    """Several traces: what the slowest says, and a row for each."""
    labels = trace_labels(traces, [recording(trace) for trace in traces])
    ranks = step_sections.are_ranks(traces)
    slowest = headline.slowest(traces)
    return _rendered(
        "notebook_traces.html.j2",
        count=len(traces),
        ranks=ranks,
        verdict=headline.verdict(traces[slowest]),
        label=f"rank {traces[slowest].rank}" if ranks else labels[slowest],
        table=step_sections.ranks(traces, labels),
    )


def finding_html(finding: Finding) -> str:
    """One finding with its advice and evidence."""
    saving = finding.estimated_savings_us_per_step
    value, unit = units.quantity(saving or 0.0, "µs", "step")
    return _rendered(
        "notebook_finding.html.j2",
        finding=finding,
        severity=finding.severity.label,
        message=shown(finding.message),
        savings=None if saving is None else Figure("estimated saving", value, unit),
        advice=[shown(line) for line in finding.advice],
        facts=evidence.facts(finding.evidence),
        tables=evidence.tables(finding.evidence, None, finding.trace),
    )


def _rendered(template: str, **content: object) -> str:
    style = Markup(source("notebook.css"))
    return environment().get_template(template).render(style=style, **content)
