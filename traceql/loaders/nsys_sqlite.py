"""Nsight Systems SQLite exports (``nsys export --type sqlite``), schema 3.7 to 3.28."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import polars as pl

from traceql.errors import UnreadableTraceError
from traceql.loaders import files, nsys_trace
from traceql.loaders.nsys_export import Dtypes, Export
from traceql.trace import LoadedTrace, Problem

_BATCH_ROWS = 16_384  # rows the driver turns into columns at once
_PART_ROWS = 65_536  # rows read at a time by one thread; smaller parts take longer, larger ones memory
_MOST_RANGES = 1000  # row ids may be far apart
_SMALLEST_PAGE_ROWS = 16  # how near to a damaged place its table is read
_LIST_TABLES = "select name from sqlite_master where type = 'table' and rootpage > 0"  # no views, no virtual tables
_WRONG = "wrong values"  # no column of nsys has a name with spaces
_RECOVER = "pragma writable_schema = on"  # SQLite then opens a file whose size is not the one in its header

_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)  # names that are no text, in the schema

_T = TypeVar("_T")
_R = TypeVar("_R")


def load(path: Path) -> LoadedTrace:
    """Load an export; raises UnreadableTraceError when it is none or nothing in it can be read."""
    return nsys_trace.load(SqliteExport(path))


class SqliteExport(Export):
    """The tables of one SQLite file, opened read-only."""

    def __init__(self, path: Path) -> None:
        self._uri = _uri(path)
        self._recover = False
        missing = _missing_bytes(path)
        try:
            super().__init__(path, self._columns())
        except _DAMAGE as damage:
            self._recover = True
            try:
                super().__init__(path, self._columns())
            except _DAMAGE as error:
                raise UnreadableTraceError(
                    f"{path}: SQLite cannot read it ({error}); an intact Nsight Systems export is expected, "
                    "export the report again with `nsys export --type sqlite REPORT.nsys-rep`"
                ) from error
            self.problems.append(
                Problem("truncated", f"{damage}: only what is left of the file was read", bytes=missing)
            )
        else:
            if missing:
                message = "the file is shorter than its header says"
                self.problems.append(Problem("truncated", message, bytes=missing))

    def _columns(self) -> dict[str, list[str]]:
        """The columns of every table."""
        with closing(sqlite3.connect(self._uri, uri=True)) as connection:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            if self._recover:
                connection.execute(_RECOVER)
            names = [name for (name,) in connection.execute(_LIST_TABLES)]
            return {
                name: [row[1] for row in connection.execute(f"pragma table_info({_quoted(name)})")] for name in names
            }

    def fetch(
        self, table: str, dtypes: Dtypes, then: Callable[[pl.DataFrame], _T], gather: Callable[[Iterable[_T]], _R]
    ) -> _R:
        """Fast where every value has the type it should and no page is damaged, else with care."""
        if not self._recover:
            with suppress(*_reading_errors()):
                return self._fetch_parallel(table, dtypes, then, gather)
        return gather(self._fetch_carefully(table, dtypes, then))

    def _fetch_parallel(
        self, table: str, dtypes: Dtypes, then: Callable[[pl.DataFrame], _T], gather: Callable[[Iterable[_T]], _R]
    ) -> _R:
        select = _select(table, {name: _sql(name, dtype) for name, dtype in dtypes.items()})

        def read_range(condition: str) -> _T:
            with self._connected() as connection:
                return then(_typed(_query(connection, select + condition), dtypes))

        with ThreadPoolExecutor(files.threads()) as pool:
            return gather(pool.map(read_range, self._ranges(table)))

    def _ranges(self, table: str) -> list[str]:
        """Conditions that cut a large table into ranges of row ids; one empty condition for any other."""
        row_id = self._row_id(table)
        if row_id is None:
            return [""]
        ends = {end: f"(select {end}({row_id}) from {_quoted(table)})" for end in ("min", "max")}
        with self._connected() as connection:
            low, high = _query(connection, f"select {ends['min']} as low, {ends['max']} as high").row(0)
        if low is None or high - low < _PART_ROWS:
            return [""]
        parts = min((high - low) // _PART_ROWS + 1, _MOST_RANGES)
        edges = [low + (high + 1 - low) * part // parts for part in range(parts + 1)]
        return [f" where {row_id} between {start} and {end - 1}" for start, end in pairwise(edges)]

    def _row_id(self, table: str) -> str | None:
        """A name for SQLite's row id that no column hides; None for a table without row ids."""
        hidden = {column.lower() for column in self.tables[table]}
        row_id = next((name for name in ("rowid", "oid", "_rowid_") if name not in hidden), None)
        try:
            with self._connected() as connection:
                _query(connection, f"select {row_id} from {_quoted(table)} limit 0")
        except _reading_errors():
            return None
        return row_id

    def _fetch_carefully(self, table: str, dtypes: Dtypes, then: Callable[[pl.DataFrame], _T]) -> list[_T]:
        """Rows up to the first damaged page, null for values of a wrong type; reports what that lost."""
        wrong = [f"({_is_no_integer(name)})" for name, dtype in dtypes.items() if dtype == pl.Int64]
        columns = {name: _sql(name, dtype, guarded=True) for name, dtype in dtypes.items()}
        columns[_WRONG] = " + ".join(wrong) or "0"
        types = {**dtypes, _WRONG: pl.Int64()}
        rows = wrong_values = 0
        parts = [then(pl.DataFrame(schema=dict(dtypes)))]
        try:
            for page in self._pages(table, columns, types):
                rows += page.height
                wrong_values += int(page[_WRONG].sum())
                parts.append(then(page.drop(_WRONG)))
        except _reading_errors() as error:
            message = f"{table}: {_cause(error)}; {rows} rows before that could be read"
            self.problems.append(Problem("truncated", message))
        message = f"{table}: values that are no integers where integers belong were read as missing"
        self.report("skipped", message, wrong_values)
        return parts

    def _pages(self, table: str, columns: dict[str, str], types: Dtypes) -> Iterator[pl.DataFrame]:
        """The table in pages by row id, smaller ones near a damaged place; raises when it gets there."""
        row_id = self._row_id(table)
        with self._connected() as connection:
            if row_id is None:
                yield _typed(_query(connection, _select(table, columns)), types)
                return
            select = _select(table, {**columns, "row id": row_id})
            last, rows = -(2**63), _PART_ROWS
            while True:
                try:
                    page = _query(connection, f"{select} where {row_id} > {last} order by {row_id} limit {rows}")
                except _reading_errors():
                    if rows <= _SMALLEST_PAGE_ROWS:
                        raise
                    rows //= 4
                    continue
                ids = page["row id"]
                ascending = ids > ids.shift(1, fill_value=last)
                if not ascending.all():  # a page that is cut off reads as zeros
                    yield _typed(page.head(int(ascending.cum_min().sum())), types)
                    raise sqlite3.DatabaseError("malformed: row ids do not ascend")
                yield _typed(page, types)
                if page.height < rows:
                    return
                last = ids[-1]

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        import adbc_driver_sqlite
        from adbc_driver_manager import AdbcConnection

        # the driver's own interface: the one of DB-API loads pyarrow where that is installed
        with adbc_driver_sqlite.connect(self._uri) as database, AdbcConnection(database) as connection:
            if self._recover:
                _query(connection, _RECOVER)
            yield connection


def _query(connection: Any, sql: str) -> pl.DataFrame:
    from adbc_driver_manager import AdbcStatement

    with AdbcStatement(connection) as statement:
        statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_BATCH_ROWS)})
        statement.set_sql_query(sql)
        stream, _ = statement.execute_query()
        # copied into one piece: a column that is kept would keep all columns of its batches
        return pl.DataFrame(stream).rechunk()


def _reading_errors() -> tuple[type[BaseException], ...]:
    import adbc_driver_manager

    # older Polars panics where the driver reports an error in the middle of a table
    return (adbc_driver_manager.Error, pl.exceptions.PolarsError, pl.exceptions.PanicException, sqlite3.Error)


def _select(table: str, columns: dict[str, str]) -> str:
    listed = ", ".join(f"{sql} as {_quoted(name)}" for name, sql in columns.items())
    return f"select {listed} from {_quoted(table)}"


def _sql(name: str, dtype: pl.DataType, *, guarded: bool = False) -> str:
    """SQL for a column that always yields one type, as the driver takes the type from the first rows.

    Texts come as blobs, for Polars trusts a text to be UTF-8. Integers come as they are stored or,
    ``guarded``, with null for what is no integer.
    """
    column = _quoted(name)
    if dtype in (pl.String, pl.Binary):
        return f"ifnull(cast({column} as blob), x'')"
    if dtype == pl.Float64:
        return f"ifnull(cast({column} as real), 9e999)"
    return f"case when {_is_no_integer(name)} then null else cast({column} as integer) end" if guarded else column


def _is_no_integer(name: str) -> str:
    """SQL: 1 for a value that is neither null nor an integer, stored as 7, '7' or (within 53 bits) 7.0."""
    column = _quoted(name)
    return (
        f"case typeof({column}) when 'integer' then 0 when 'null' then 0 "
        f"when 'real' then cast({column} as integer) <> {column} or abs({column}) >= 9007199254740992.0 "
        f"when 'text' then cast(cast({column} as integer) as text) <> {column} else 1 end"
    )


def _typed(frame: pl.DataFrame, dtypes: Dtypes) -> pl.DataFrame:
    """The columns of ``_sql`` in their types; raises SchemaError when integers are none."""
    if frame.is_empty():
        return pl.DataFrame(schema=dict(dtypes))
    columns = {}
    for name, dtype in dtypes.items():
        column = frame[name]
        if dtype == pl.String:
            column = _lenient_text(column)
        elif dtype == pl.Float64:
            column = column.set(column.is_infinite(), None)
        elif dtype != pl.Binary and column.dtype != pl.Int64:
            raise pl.exceptions.SchemaError(f"{name} holds {column.dtype}")
        columns[name] = column
    return pl.DataFrame(columns)


def _lenient_text(raw: pl.Series) -> pl.Series:
    """Bytes as text; what is not UTF-8 becomes U+FFFD."""
    try:
        return raw.cast(pl.String)
    except pl.exceptions.PolarsError:
        distinct = raw.unique()
        texts = [value.decode("utf-8", "replace") for value in distinct]
        return raw.replace_strict(distinct, pl.Series(texts), return_dtype=pl.String)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _uri(path: Path) -> str:
    """The file, read-only, and without locks unless a write-ahead log lies beside it."""
    log = Path(f"{path}-wal")
    immutable = "" if log.exists() and log.stat().st_size else "&immutable=1"
    return f"file:{quote(os.fsencode(path.absolute()))}?mode=ro{immutable}"


def _missing_bytes(path: Path) -> int | None:
    """By how much the file is shorter than its header says; None when it is not, or the header does not tell.

    https://www.sqlite.org/fileformat2.html#the_database_header
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return None  # SQLite says what is wrong
    page_bytes = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    is_valid = len(header) == 100 and header[24:28] == header[92:96]
    missing = (65_536 if page_bytes == 1 else page_bytes) * pages - size
    return missing if is_valid and missing > 0 else None


def _cause(error: BaseException) -> str:
    return "the file is damaged" if "malformed" in str(error) else " ".join(f"reading failed ({error})".split())
