"""traceql scrub"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True), metavar="IN")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT")
def scrub(source: Path, target: Path) -> None:
    """Write a copy of a trace without environment, host, user and command line; it analyzes to the same findings.

    A .nsys-rep becomes the SQLite file that nsys exports it to. Of a run directory the copy is a new folder with its
    traces, its manifest, and of logs what is read from them.

    \b
    traceql scrub capture.sqlite share.sqlite
    traceql scrub runs/latest shared-run
    """
    from traceql.scrub import scrub as run

    run(source, target)
    click.echo(f"wrote {target}", err=True)
