"""traceql analyze --engine dask"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traceql.errors import UnreadableTraceError, UsageError

if TYPE_CHECKING:
    from traceql.config import Configuration
    from traceql.fleet.cluster import Progress
    from traceql.fleet.summaries import FleetReport


def analyze(
    paths: Sequence[Path],
    configuration: Configuration,
    scheduler: str | None,
    workers: int | None,
    format_: str | None,
    output: Path | None,
    *,
    quiet: bool,
) -> None:
    """Summarise every trace on Dask, then print or write the report over all of them: text, JSON, or both."""
    from traceql.fleet import cluster as distributed
    from traceql.fleet.summaries import Setup
    from traceql.writing import write_text

    form = format_ or {".json": "json", ".txt": "text"}.get(output.suffix if output else "")
    if form not in (None, "json", "text") or (output is not None and form is None):
        raise UsageError("--engine dask writes json or text: a page of thousands of ranks shows nothing")
    setup = Setup(configuration.selection, configuration.hardware, configuration.kernel_patterns)
    report = distributed.analyze(
        paths, setup=setup, scheduler=scheduler, workers=workers, progress=None if quiet else _progress()
    )
    if not report.summaries:
        for line in report.unreadable[:-1]:
            click.echo(f"traceql: {line}", err=True)
        raise UnreadableTraceError(report.unreadable[-1] if report.unreadable else "no trace given")
    for line in report.unreadable:
        click.echo(f"traceql: skipped: {line}", err=True)
    if output is not None:
        write_text(output, _rendered(report, form))
        if not quiet:
            click.echo(f"wrote {output}", err=True)
    elif form is not None:
        click.echo(_rendered(report, form), nl=False)
    else:
        written = Path("report.json")
        write_text(written, report.json())
        if not quiet:
            click.echo(report.text())
            click.echo(f"report: {written.resolve()}")


def _rendered(report: FleetReport, form: str | None) -> str:
    return report.text() if form == "text" else report.json()


def _progress() -> Progress | None:
    """A line on stderr that counts traces; none where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, every: int) -> None:
        click.echo(f"\r{done} of {every} traces", nl=done == every, err=True)

    return show
