"""Nsight Systems table directories (``nsys export --type parquetdir`` or ``arrowdir``): one file a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import polars as pl

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_trace
from traceql.loaders.nsys_export import Dtypes, Export
from traceql.trace import LoadedTrace, Problem

_SUFFIXES = (".parquet", ".arrow")
_PART_ROWS = 65_536
_READING_ERRORS = (pl.exceptions.PolarsError, OSError)

_T = TypeVar("_T")
_R = TypeVar("_R")


def load(path: Path) -> LoadedTrace:
    """Load a directory of tables; raises UnreadableTraceError when it holds none of Nsight Systems."""
    files = {file.stem: file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES}
    if not files:
        raise UnreadableTraceError(
            f"{path}: a directory without Nsight Systems tables (TABLE.parquet or TABLE.arrow); "
            "make one with `nsys export --type parquetdir REPORT.nsys-rep`"
        )
    return nsys_trace.load(DirectoryExport(path, files))


class DirectoryExport(Export):
    """The tables of one directory."""

    def __init__(self, path: Path, files: dict[str, Path]) -> None:
        tables: dict[str, list[str]] = {}
        problems = []
        for name, file in files.items():
            try:
                tables[name] = _columns(file)
            except _READING_ERRORS as error:
                problems.append(_unreadable(file, error))
        super().__init__(path, tables)
        self._files = files
        self.problems.extend(problems)

    def fetch(
        self, table: str, dtypes: Dtypes, then: Callable[[pl.DataFrame], _T], gather: Callable[[Iterable[_T]], _R]
    ) -> _R:
        file, columns = self._files[table], list(dtypes)
        try:
            read = pl.read_parquet if file.suffix == ".parquet" else pl.read_ipc_stream
            frame = read(file, columns=columns)
        except _READING_ERRORS as error:
            self.problems.append(_unreadable(file, error))
            frame = pl.DataFrame(schema=dict(dtypes))
        return gather(then(part) for part in (frame.iter_slices(_PART_ROWS) if frame.height else [frame]))


def _columns(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        return list(pl.read_parquet_schema(file))
    return pl.read_ipc_stream(file, n_rows=0).columns


def _unreadable(file: Path, error: Exception) -> Problem:
    return Problem("truncated", " ".join(f"{file.name} cannot be read ({error})".split()))
