"""traceql open"""

from __future__ import annotations

from pathlib import Path

import click

from traceql.errors import UsageError


@click.command(name="open")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--finding", type=click.IntRange(min=1), metavar="N", help="Cut around finding N, as the report numbers them."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the cut here instead of serving it.")
@click.option("--no-browser", is_flag=True, help="Print the link; do not open a browser.")
def open_(path: Path, finding: int | None, output: Path | None, no_browser: bool) -> None:
    """Show a trace, or the part of it around a finding, in the Perfetto UI.

    Serves the cut on 127.0.0.1:9001, the only place Perfetto fetches from, until it was fetched. Nothing is uploaded:
    the UI runs in your browser. Traces of Nsight Systems are converted.

    \b
    traceql open decode.trace.json.gz --finding 1
    traceql open decode.sqlite --finding 2 -o cut.json.gz
    """
    from traceql.cli import inputs
    from traceql.opening import TraceSet
    from traceql.perfetto import cut, window
    from traceql.reporting import analyze

    report = analyze(TraceSet(inputs.read([path]).traces))
    if finding is not None and finding > len(report.found):
        raise UsageError(f"--finding {finding}: the report of {path} has {len(report.found)} findings")
    chosen = None if finding is None else report.found[finding - 1]
    trace = report.traces[0 if chosen is None else chosen.trace]
    content = cut(trace, chosen)
    if output is not None:
        from traceql.writing import write_bytes

        write_bytes(output, content)
        click.echo(f"wrote {output}", err=True)
        return
    visible = None
    if chosen is not None and chosen.start_ns is not None:
        begin, end = window(trace, chosen)
        visible = (begin + trace.source_offset_ns, end + trace.source_offset_ns)
    _serve(content, visible, browse=not no_browser)


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
