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

    found = kept.entries()
    for entry in found:
        stale = "" if entry.current else "  (the trace has changed or is gone)"
        click.echo(f"{entry.bytes / 1e6:9.1f} MB  {entry.path}{stale}")
    click.echo(f"{sum(e.bytes for e in found) / 1e6:9.1f} MB in {len(found)} traces", err=True)


@cache.command()
def clear() -> None:
    """Remove every kept trace; the traces themselves stay.

    \b
    traceql cache clear
    """
    from traceql import cache as kept

    click.echo(f"{kept.clear() / 1e6:.1f} MB given back", err=True)
