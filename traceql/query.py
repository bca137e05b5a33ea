"""Read-only SQL over a trace's tables and derived frames."""

from __future__ import annotations

import re
from typing import Protocol

import polars as pl

from traceql import schema
from traceql.errors import QueryError


class HasTables(Protocol):
    """A Trace or a TraceSet."""

    def table(self, name: str) -> pl.DataFrame: ...


_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_FILE_READERS = re.compile(r"\b(?:read_\w+|scan_\w+)\s*\(", re.IGNORECASE)


def run(trace: HasTables, query: str) -> pl.DataFrame:
    """The result of one SELECT; QueryError with the reason for anything else, or when it does not run."""
    text = _COMMENT.sub(" ", query).strip().rstrip(";").strip()
    if not re.match(r"(?:select|with)\b", text, re.IGNORECASE):
        first = text.split(None, 1)[0] if text else "nothing"
        raise QueryError(f"only SELECT is allowed, not {first!r}; tables: {', '.join(schema.TABLES)}")
    if ";" in re.sub(r"'(?:[^']|'')*'", "", text):
        raise QueryError("one statement at a time: found a ';' inside the query")
    if _FILE_READERS.search(re.sub(r"'(?:[^']|'')*'", "''", text)):
        raise QueryError("a query reads the trace's tables only, not files")
    used = {name for name in schema.TABLES if re.search(rf"\b{name}\b", text, re.IGNORECASE)}
    context = pl.SQLContext({name: trace.table(name) for name in sorted(used)})
    try:
        return context.execute(text, eager=True)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise QueryError(
            f"{reason}; tables: {', '.join(schema.TABLES)} (`traceql tables PATH` shows columns)"
        ) from error
