"""traceql cache"""

from __future__ import annotations

import click


@click.group()
def cache() -> None:
    """Large traces are kept as Parquet, so that they open in a moment the second time.

    TRACEQL_CACHE names another folder for the copies, or is "off".

    \b
    traceql cache ls
    traceql cache clear
    """


@cache.command()
def ls() -> None:
    """List the kept traces with their size and where they lie.

    \b
    traceql cache ls
    """
    from traceql import cache as kept
    from traceql.wording import counted, size

    found = kept.entries()
    for entry in found:
        stale = "" if entry.current else "  (the trace has changed or is gone)"
        click.echo(f"{size(entry.bytes):>10}  {entry.path}{stale}")
    click.echo(f"{size(sum(e.bytes for e in found)):>10} in {counted(len(found), 'trace')}", err=True)


@cache.command()
def clear() -> None:
    """Remove every kept trace; the traces themselves stay.

    \b
    traceql cache clear
    """
    from traceql import cache as kept
    from traceql.wording import size

    click.echo(f"{size(kept.clear())} given back", err=True)
