"""traceql scrub"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="IN")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT")
def scrub(source: Path, target: Path) -> None:
    """Write a copy of a trace without environment, host, user and command line; it analyzes to the same findings.

    \b
    traceql scrub capture.sqlite share.sqlite
    """
    from traceql.scrub import scrub as run

    run(source, target)
    click.echo(f"wrote {target}", err=True)
