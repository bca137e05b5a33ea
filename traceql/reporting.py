"""Report: traces, what the rules said of them, and every form it can be shown in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from traceql import engine, metrics, suppressions
from traceql.engine import Outcome, Selection
from traceql.errors import UsageError
from traceql.finding import Finding
from traceql.opening import PathArgument, TraceSet, open_trace
from traceql.ranks.processes import apart
from traceql.suppressions import Suppressed
from traceql.trace import Trace
from traceql.twins import Entry, Recording, entries, recording

if TYPE_CHECKING:
    from traceql.savings import Recoverable

_ORDER = {"error": 0, "failed": 1, "passed": 2, "not_applicable": 3}


class Results(ABC):
    """What rules said of traces: ``outcomes`` holds for each trace one outcome a rule."""

    outcomes: tuple[tuple[Outcome, ...], ...]

    @property
    @abstractmethod
    def recoverable(self) -> tuple[Recoverable, ...]:
        """What the steps would save with all findings fixed that were timed again: trace by trace, the step that stands
        for the kind that takes most time first."""

    @property
    def found(self) -> list[Finding]:
        """All findings: worst severity first, then by estimated saving, then by code."""
        every = [f for outcomes in self.outcomes for o in outcomes for f in o.findings]
        return sorted(
            every,
            key=lambda f: (
                -f.severity,
                -(f.estimated_savings_us_per_step or 0.0),
                f.code,
                f.trace,
                f.fingerprint,
            ),
        )

    @property
    @abstractmethod
    def recordings(self) -> Sequence[Recording | None]:
        """What a run directory says of each trace."""

    @cached_property
    def entries(self) -> list[Entry]:
        """The findings as text and HTML tell and number them: one problem that two profilers saw is told once."""
        return entries(self.found, self.recordings)

    def overlaps(self, finding: Finding) -> list[tuple[str, float]] | None:
        """(fingerprint, µs per step) of findings of the same trace that save some of the same time; None where the saving
        was not modelled by re-timing."""
        of_trace = [each for each in self.recoverable if each.trace == finding.trace]
        if not any(finding.fingerprint in each.findings for each in of_trace):
            return None
        return [
            (other, shared.us_per_step)
            for each in of_trace
            for shared in each.shared
            for own, other in (shared.findings, shared.findings[::-1])
            if own == finding.fingerprint
        ]

    @property
    def findings(self) -> pl.DataFrame:
        """Findings as a frame: code, rule, severity, message, trace, step_id, start_ns, savings, subject, fingerprint."""
        rows = [
            {
                "code": f.code, "rule": f.rule, "severity": f.severity.label, "message": f.message, "trace": f.trace,
                "step_id": f.step_id, "start_ns": f.start_ns, "end_ns": f.end_ns, "subject": f.subject,
                "estimated_savings_us_per_step": f.estimated_savings_us_per_step, "fingerprint": f.fingerprint,
            }
            for f in self.found
        ]  # fmt: skip
        return pl.DataFrame(rows, schema=_FINDING_SCHEMA)

    @property
    def rules(self) -> list[Outcome]:
        """One outcome a rule over all traces: the worst wins; *not applicable* only when it applied to none."""
        by_code: dict[str, list[Outcome]] = {}
        for outcomes in self.outcomes:
            for outcome in outcomes:
                by_code.setdefault(outcome.code, []).append(outcome)
        return [min(group, key=lambda o: _ORDER[o.outcome]) for _, group in sorted(by_code.items())]


@dataclass(frozen=True, repr=False)
class Report(Results):
    """The result of ``analyze``; renders itself in a notebook.

    Attributes:
        traces: the traces, in order of rank; those of one file have the same path.
        outcomes: for each trace, one outcome a rule; those of rules over all traces stand with the first.
        unreadable: one line for each file that could not be read.
        suppressed: findings that the configuration says not to report, in no outcome.
        selection: the rules and options it was made with.
        command: arguments of ``traceql analyze`` that make it again; empty when it was made from Python.
    """

    traces: tuple[Trace, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]
    unreadable: tuple[str, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    selection: Selection = field(default_factory=Selection)
    command: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, Any]:
        """The JSON contract's metrics; with traces of several files ``gpus`` keys are ``rank/device``."""
        parts = [(trace.rank, metrics.of(trace)) for trace in self.traces]
        return metrics.merged(parts, one_file=len({trace.path for trace in self.traces}) == 1)

    @cached_property
    def recordings(self) -> tuple[Recording | None, ...]:
        return tuple(recording(trace) for trace in self.traces)

    @cached_property
    def recoverable(self) -> tuple[Recoverable, ...]:
        from traceql.savings import recoverable

        return tuple(
            each
            for index, trace in enumerate(self.traces)
            for each in recoverable(trace, [f for f in self.found if f.trace == index], index)
        )

    def render(self, format: str) -> str:
        """The report as ``html``, ``json``, ``text`` or ``markdown``; UsageError for another format."""
        from traceql.report import RENDERERS

        if format not in RENDERERS:
            raise UsageError(f"no format {format!r}; there are: {', '.join(RENDERERS)}")
        return RENDERERS[format](self)

    def save(self, path: PathArgument, format: str | None = None) -> Path:
        """Write the report; the format follows the suffix (.html, .json, .txt, .md) unless given."""
        from traceql.report import SUFFIXES
        from traceql.writing import write_text

        target = Path(path)
        chosen = format or SUFFIXES.get(target.suffix)
        if chosen is None:
            raise UsageError(
                f"{target}: no format for the suffix {target.suffix!r}; use one of {', '.join(SUFFIXES)} or give format"
            )
        write_text(target, self.render(chosen))
        return target

    def __repr__(self) -> str:
        from traceql.report.names import file_labels

        labels = file_labels([trace.path for trace in self.traces])
        return f"<Report of {', '.join(labels)}: {len(self.found)} findings>"

    def _repr_html_(self) -> str:
        from traceql.notebook import report_html

        return report_html(self)


_FINDING_SCHEMA = {
    "code": pl.String, "rule": pl.String, "severity": pl.String, "message": pl.String, "trace": pl.Int64,
    "step_id": pl.Int64, "start_ns": pl.Int64, "end_ns": pl.Int64, "subject": pl.String,
    "estimated_savings_us_per_step": pl.Float64, "fingerprint": pl.String,
}  # fmt: skip


def analyze(
    trace: Trace | TraceSet | PathArgument | Iterable[PathArgument],
    *,
    selection: Selection | None = None,
    unreadable: tuple[str, ...] = (),
    command: tuple[str, ...] = (),
) -> Report:
    """Run the rules over a trace, a set of traces, or what a path stands for; a file that holds several ranks is analysed
    as these.

    ``unreadable`` and ``command`` are shown with the result: files that were no traces, arguments that repeat it.
    """
    opened = trace if isinstance(trace, (Trace, TraceSet)) else open_trace(trace)
    traces = apart(opened.traces if isinstance(opened, TraceSet) else (opened,))
    outcomes = engine.run_all(traces, selection)
    chosen = selection or Selection()
    kept, suppressed = suppressions.applied(outcomes, chosen)
    return Report(traces, kept, unreadable, suppressed, chosen, command)
