"""traceql open"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from traceql.cli.analysis import Inputs
from traceql.cli.selection import companion_options, configuration_from, selection_options
from traceql.errors import UsageError

if TYPE_CHECKING:
    from traceql.engine import Selection
    from traceql.finding import Finding
    from traceql.trace import Trace

_LEAST_AROUND_NS = 100_000


@click.command(name="open")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option(
    "--finding", type=click.IntRange(min=1), metavar="N", help="Cut around finding N, as the report numbers them."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the cut here instead of serving it.")
@click.option("--no-browser", is_flag=True, help="Print the link; do not open a browser.")
@click.option("--sample", metavar="NAME", help="Open a bundled real capture.")
@companion_options
@selection_options
def open_(
    *,
    paths: tuple[Path, ...],
    finding: int | None,
    output: Path | None,
    no_browser: bool,
    sample: str | None,
    eager: Path | None,
    reports: tuple[Path, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    options: tuple[str, ...],
    config: Path | None,
) -> None:
    """Show a trace, or the part of it around a finding, in the Perfetto UI.

    Serves the cut on 127.0.0.1:9001, the only place Perfetto fetches from, until it was fetched. Nothing is uploaded:
    the UI runs in your browser. Traces of Nsight Systems are converted. Findings are numbered as analyze numbers them
    when it is given the same arguments.

    \b
    traceql open decode.trace.json.gz --finding 1
    traceql open decode.sqlite --finding 2 -o cut.json.gz
    """
    from traceql.perfetto import cut

    given = Inputs(paths, sample, eager, reports, select, ignore, options, config)
    configuration = configuration_from(select, ignore, options, config)
    traces = given.read(configuration, cache=True).traces
    chosen = None
    trace = traces[0]
    if finding is not None:
        trace, chosen = _found(traces, configuration.selection, finding)
    if trace.source == "ncu":
        raise UsageError(f"{trace.path}: Nsight Compute profiles kernels one by one; there is no timeline to show")
    content = cut(trace, chosen)
    if output is not None:
        from traceql.writing import write_bytes

        write_bytes(output, content)
        click.echo(f"wrote {output}", err=True)
        return
    _serve(content, _visible(trace, chosen), browse=not no_browser)


def _found(traces: tuple[Trace, ...], selection: Selection, number: int) -> tuple[Trace, Finding]:
    """Finding ``number`` and its trace; says which it is."""
    from traceql.opening import TraceSet
    from traceql.reporting import analyze

    report = analyze(TraceSet(traces), selection=selection)
    if number > len(report.entries):
        raise UsageError(f"--finding {number}: the report has {len(report.entries)} findings; see `traceql analyze`")
    finding = report.entries[number - 1].findings[0]
    click.echo(f"finding {number}: {finding.rule} ({finding.code}): {finding.message}", err=True)
    return report.traces[finding.trace], finding


def _visible(trace: Trace, finding: Finding | None) -> tuple[int, int] | None:
    """What Perfetto shows at first, ns of the source's clock: the finding, as much again on both sides of it."""
    if finding is None or finding.start_ns is None:
        return None
    start, end = finding.start_ns, finding.start_ns if finding.end_ns is None else finding.end_ns
    around = max(end - start, _LEAST_AROUND_NS)
    return start - around + trace.source_offset_ns, end + around + trace.source_offset_ns


def _serve(content: bytes, visible: tuple[int, int] | None, *, browse: bool) -> None:
    import webbrowser

    from traceql.serving import CutServer

    server = CutServer(content, visible_ns=visible)
    click.echo(server.link)
    click.echo("waiting for Perfetto to fetch it; Ctrl-C ends", err=True)
    if browse:
        webbrowser.open(server.link)
    try:
        server.serve_once()
    finally:
        server.close()
