"""traceql query"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traceql.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

_SHOWN = 101
"""Rows from each end of a long table: one more than is printed, so that the printed one says that rows are left out."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("sql")
@click.option(
    "--format", "format_", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here instead of to the terminal.")
@click.option("--no-cache", is_flag=True, help="Read the file itself, and keep nothing of it.")
def query(path: Path, sql: str, format_: str, output: Path | None, no_cache: bool) -> None:
    """Run one read-only SELECT over the tables of a trace (`traceql tables PATH` lists them).

    \b
    traceql query decode.json.gz "select short_name, count(*) n, sum(dur_ns) ns from kernels group by 1 order by 3 desc"
    traceql query decode.json.gz "select cause, sum(dur_ns)/1e6 ms from gap_parts group by cause" --format csv
    """
    from traceql.cli import inputs
    from traceql.opening import TraceSet

    opened = inputs.read([path], cache=not no_cache)
    source = opened.traces[0] if len(opened.traces) == 1 else TraceSet(opened.traces)
    _emit(source.sql(sql), format_, output)


def _emit(frame: pl.DataFrame, format_: str, output: Path | None) -> None:
    import io

    if format_ == "parquet":
        if output is None and sys.stdout.isatty():
            raise UsageError("parquet is binary: give -o FILE or a pipe")
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        if output is None:
            sys.stdout.buffer.write(buffer.getvalue())
        else:
            output.write_bytes(buffer.getvalue())
        return
    if format_ == "csv":
        text = frame.write_csv()
    else:
        text = f"{frame.write_json()}\n" if format_ == "json" else _table(frame)
    if output is None:
        click.echo(text, nl=False, color=True)  # otherwise it takes escape codes out of the data
    else:
        from traceql.writing import write_text

        write_text(output, text)


def _printable(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows that are shown, their texts without what a terminal acts upon."""
    import polars as pl
    import polars.selectors as cs

    from traceql.report.names import shown

    if frame.height > 2 * _SHOWN:
        frame = pl.concat([frame.head(_SHOWN), frame.tail(_SHOWN)])
    lists = cs.list().map_elements(lambda values: shown(str(values.to_list())), return_dtype=pl.String)
    return frame.with_columns(lists, cs.string().map_elements(shown, return_dtype=pl.String))


def _table(frame: pl.DataFrame) -> str:
    import polars as pl

    with pl.Config(
        tbl_rows=200, tbl_cols=-1, fmt_str_lengths=80, tbl_width_chars=-1, tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True, tbl_formatting="ASCII_MARKDOWN", thousands_separator=",",
        tbl_cell_numeric_alignment="RIGHT",
    ):  # fmt: skip
        table = str(_printable(frame))
    more = f"\n({frame.height} rows, the first and last shown; --format csv gives all)" if frame.height > 200 else ""
    return f"{table}{more}\n"
