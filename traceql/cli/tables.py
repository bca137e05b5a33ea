"""traceql tables"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--columns", is_flag=True, help="List every column with its type and meaning.")
def tables(path: Path | None, columns: bool) -> None:
    """List the tables and derived frames, with the rows PATH has in each.

    \b
    traceql tables decode.json.gz
    traceql tables --columns
    """
    from traceql import schema
    from traceql.cli import inputs
    from traceql.opening import TraceSet

    source = None if path is None else TraceSet(inputs.read([path]).traces)
    for table in schema.TABLES.values():
        rows = "" if source is None else f"{source.table(table.name).height:>12,}"
        kind = "derived" if table.derived else "loaded"
        click.echo(f"{table.name:<18}{rows}  {kind:<8} {table.doc}")
        if columns:
            for column in table.columns:
                click.echo(f"    {column.name:<28} {column.dtype.__name__:<8} {column.doc}")
