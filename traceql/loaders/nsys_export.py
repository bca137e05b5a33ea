"""What the Nsight Systems loaders share: one export as typed frames, whatever file format holds its tables.

The schema changes between releases and tables are created only when they hold rows, so every table and every
column is optional: a table that is not there reads as an empty frame, a column that is not there as nulls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from traceql.trace import Problem

Dtypes = Mapping[str, pl.DataType]
"""Columns to read and the type each comes back in: Int64, Float64, String or Binary."""

_TIME_LIMIT_NS = 2**62  # 146 years either way; the difference of two times below it fits Int64


class Export(ABC):
    """The tables of one export and, in ``problems``, what could not be read or placed, in the order met.

    Attributes:
        path: the file or directory, for messages.
        tables: the columns of each table it holds.
    """

    def __init__(self, path: Path, tables: Mapping[str, Collection[str]]) -> None:
        self.path = path
        self.tables = tables
        self.problems: list[Problem] = []

    @abstractmethod
    def fetch(self, table: str, dtypes: Dtypes) -> pl.DataFrame:
        """Columns that ``table`` has, castable to their types; what cannot be read becomes a problem."""

    def report(self, kind: Literal["note", "skipped"], message: str, count: int) -> None:
        """Note a problem that concerns ``count`` rows; none when it concerns no row."""
        if count:
            self.problems.append(Problem(kind, message, count=count))

    def read(self, table: str, ints: str, texts: str = "", reals: str = "", blobs: str = "") -> pl.DataFrame:
        """The named columns (blank-separated) of a table, in the order given; empty texts count as null."""
        dtypes: dict[str, pl.DataType] = dict.fromkeys(ints.split(), pl.Int64())
        dtypes |= dict.fromkeys(texts.split(), pl.String()) | dict.fromkeys(reals.split(), pl.Float64())
        dtypes |= dict.fromkeys(blobs.split(), pl.Binary())
        held = {name: dtype for name, dtype in dtypes.items() if name in self.tables.get(table, ())}
        if not held:
            return pl.DataFrame(schema=dtypes)
        frame = self.fetch(table, held).select(
            pl.col(name).cast(dtype, strict=False) if name in held else pl.lit(None, dtype).alias(name)
            for name, dtype in dtypes.items()
        )
        return frame.with_columns(pl.when(pl.col(pl.String) != "").then(pl.col(pl.String)))

    def events(self, table: str, ints: str) -> pl.DataFrame:
        """Integer columns of a table with ``start_ns`` and ``dur_ns``, rows without a valid time left out.

        Those lack a start or an end, end before they start, or have 0 for both, by which CUPTI says that it
        could not collect the times. They are counted as a problem.
        """
        frame = self.read(table, f"start end {ints}")
        start, end = pl.col("start"), pl.col("end")
        timed = frame.filter(is_time("start"), is_time("end"), end >= start, (start != 0) | (end != 0))
        lost = frame.height - timed.height
        self.report("skipped", f"{table}: rows without a valid start and end were left out", lost)
        return timed.with_columns(start_ns=start, dur_ns=end - start)

    @cached_property
    def _strings(self) -> pl.DataFrame:
        frame = self.read("StringIds", "id", "value").drop_nulls("id")
        return frame.unique("id", keep="first", maintain_order=True)

    def string(self, id_column: str, *, strip: str | None = None) -> pl.Expr:
        """The text a StringIds id stands for, without what the regular expression ``strip`` matches."""
        values = self._strings["value"]
        if strip is not None:
            values = values.str.replace(strip, "")
        return _looked_up(id_column, self._strings["id"], values)

    def enum(self, id_column: str, table: str, documented: Mapping[int, str], naming: pl.Expr) -> pl.Expr:
        """The contract's word for an enumerated column.

        ``naming`` makes the word of ``name`` and ``label`` in the export's own ``table`` of the enumeration;
        ``documented`` serves exports that do not bring the table.
        """
        own = self.read(table, "id", "name label").select("id", word=naming).drop_nulls()
        words = {**documented, **dict(own.iter_rows())}
        return _looked_up(id_column, pl.Series(list(words), dtype=pl.Int64), pl.Series(words.values()))


def _looked_up(column: str, ids: pl.Series, values: pl.Series) -> pl.Expr:
    return pl.col(column).replace_strict(ids, values, default=None, return_dtype=pl.String)


def is_time(column: str) -> pl.Expr:
    """Whether a column holds a time that can be reckoned with; false for null."""
    return pl.col(column).is_between(-_TIME_LIMIT_NS, _TIME_LIMIT_NS, closed="none").fill_null(False)


def pid(global_id: str) -> pl.Expr:
    """The process id in a ``globalPid`` or ``globalTid``: bits 24 to 47."""
    return ((pl.col(global_id) // 2**24) & 0xFFFFFF).alias("pid")


def tid(global_id: str) -> pl.Expr:
    """The thread id in a ``globalTid``: bits 0 to 23."""
    return (pl.col(global_id) & 0xFFFFFF).alias("tid")
