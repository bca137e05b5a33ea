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


_WORD = r'(?:[^\W\d]\w*|"[^"]*"|`[^`]*`)'
_PARTS = re.compile(
    r"(?P<comment>--[^\n]*|/\*(?:(?!/\*).)*?\*/)|(?P<text>'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`)|(?P<other>.)", re.DOTALL
)
_FILE_READERS = re.compile(
    r"(?:read|scan)_\w+(?=[\"`\]\s]*\()|\b(?:read|scan)_(?:csv|ipc|json|ndjson|parquet)", re.IGNORECASE
)
"""Polars reads files by table functions, in quotes or not; inside a text they are refused as well, to be sure."""
_TABLE_FUNCTION = re.compile(rf"\b(?:from|join)\s+(?:lateral\s+)?({_WORD}(?:\s*\.\s*{_WORD})*)\s*\(", re.IGNORECASE)
_HARMLESS = {"unnest", "range", "generate_series"}
_UNKNOWN_QUOTES = re.compile(r"\$\w*\$|\b(?:E|N|U&|R|Q)(?=['\"])|/\*|\*/", re.IGNORECASE)


def run(trace: HasTables, query: str) -> pl.DataFrame:
    """The result of one SELECT; QueryError with the reason for anything else, or when it does not run."""
    text, bare = _without_comments(query)
    if not re.match(r"(?:select|with)\b", text, re.IGNORECASE):
        first = text.split(None, 1)[0] if text else "nothing"
        raise QueryError(f"only SELECT is allowed, not {first!r}; tables: {', '.join(schema.TABLES)}")
    if ";" in bare:
        raise QueryError("one statement at a time: found a ';' inside the query")
    if odd := _UNKNOWN_QUOTES.search(bare):
        raise QueryError(
            f"found {odd.group()!r}: write texts as 'text' and names as \"name\", comments without nesting"
        )
    called = [found[1].strip('"`').lower() for found in _TABLE_FUNCTION.finditer(text)]
    if _FILE_READERS.search(text) or not _HARMLESS.issuperset(called):
        raise QueryError("a query reads the trace's tables only, not files")
    used = {name for name in schema.TABLES if re.search(rf"\b{name}\b", text, re.IGNORECASE)}
    context = pl.SQLContext({name: trace.table(name) for name in sorted(used)})
    try:
        return context.execute(text, eager=True)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise QueryError(
            f"{reason}; tables: {', '.join(schema.TABLES)} (`traceql tables PATH` shows columns)"
        ) from error


def _without_comments(query: str) -> tuple[str, str]:
    """The query without its comments, and that without what stands in quotes (a pair of quotes is left)."""
    text, bare = [], []
    for part in _PARTS.finditer(query.strip().rstrip("; \t\r\n")):
        kind = part.lastgroup
        text.append(" " if kind == "comment" else part.group())
        bare.append(" " if kind == "comment" else part.group()[0] * 2 if kind == "text" else part.group())
    return "".join(text).strip().rstrip(";").strip(), "".join(bare).strip().rstrip(";").strip()
