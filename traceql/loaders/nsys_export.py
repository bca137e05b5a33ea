"""What the Nsight Systems loaders share: one export as typed frames, whatever file format holds its tables.

The schema changes between releases and tables are created only when they hold rows, so every table and every
column is optional: a table that is not there reads as an empty frame, a column that is not there as nulls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import polars as pl

from traceql.loaders.gathering import gathered
from traceql.loaders.limits import MOST_INTEGER, possible
from traceql.trace import Problem

Dtypes = Mapping[str, pl.DataType]
"""Columns to read and the type each comes back in: Int64, Float64, String or Binary."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_SPARSE = 8  # ids in use to ids there may be, from which on a text is searched instead of looked up


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
    def fetch(
        self, table: str, dtypes: Dtypes, then: Callable[[pl.DataFrame], _T], gather: Callable[[Iterable[_T]], _R]
    ) -> _R:
        """What ``gather`` makes of what ``then`` makes of columns that ``table`` has, castable to their types.

        A large table comes in parts of some rows each, which ``then`` gets one by one, several at the same time: no
        more than those are held as they lie in the file. ``gather`` gets them in order, and once more from the start
        where reading failed on the way. What cannot be read becomes a problem.
        """

    def report(self, kind: Literal["note", "skipped"], message: str, count: int) -> None:
        """Note a problem that concerns ``count`` rows; none when it concerns no row."""
        if count:
            self.problems.append(Problem(kind, message, count=count))

    def read(
        self,
        table: str,
        ints: str,
        texts: str = "",
        reals: str = "",
        blobs: str = "",
        columns: Sequence[pl.Expr] = (pl.all(),),
    ) -> pl.DataFrame:
        """The named columns (blank-separated) of a table or, row by row, ``columns`` made of them.

        Unless told otherwise they come in the order given. Empty texts count as null.
        """
        dtypes: dict[str, pl.DataType] = dict.fromkeys(ints.split(), pl.Int64())
        dtypes |= dict.fromkeys(texts.split(), pl.String()) | dict.fromkeys(reals.split(), pl.Float64())
        dtypes |= dict.fromkeys(blobs.split(), pl.Binary())
        return self._parts(table, dtypes, lambda frame: frame.select(columns), gathered)

    def events(self, table: str, ints: str, *columns: pl.Expr | str) -> pl.DataFrame:
        """``columns`` made of integer columns of a table and of ``start_ns`` and ``dur_ns``, row by row.

        Rows without a valid time are left out and counted as a problem. Those lack a start or an end, end before they
        start, or have 0 for both, by which CUPTI says that it could not collect the times.
        """

        def timed(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
            start, end = pl.col("start"), pl.col("end")
            held = frame.filter(is_time("start"), is_time("end"), end >= start, (start != 0) | (end != 0))
            held = held.with_columns(start_ns=start, dur_ns=end - start).filter(possible())
            return held.select(columns), frame.height - held.height

        def whole(parts: Iterable[tuple[pl.DataFrame, int]]) -> tuple[pl.DataFrame, int]:
            lost = 0

            def kept() -> Iterator[pl.DataFrame]:
                nonlocal lost
                for rows, without in parts:
                    lost += without
                    yield rows

            return gathered(kept()), lost

        dtypes = dict.fromkeys(["start", "end", *ints.split()], pl.Int64())
        rows, lost = self._parts(table, dtypes, timed, whole)
        self.report("skipped", f"{table}: rows without a valid start and end were left out", lost)
        return rows

    def _parts(
        self, table: str, dtypes: Dtypes, then: Callable[[pl.DataFrame], _T], gather: Callable[[Iterable[_T]], _R]
    ) -> _R:
        """``fetch``, with null for columns the table lacks and for empty texts."""
        held = {name: dtype for name, dtype in dtypes.items() if name in self.tables.get(table, ())}

        def conform(frame: pl.DataFrame) -> _T:
            whole = frame.select(
                pl.col(name).cast(dtype, strict=False) if name in held else pl.lit(None, dtype).alias(name)
                for name, dtype in dtypes.items()
            )
            return then(whole.with_columns(pl.when(pl.col(pl.String) != "").then(pl.col(pl.String))))

        if not held:
            return gather([then(pl.DataFrame(schema=dict(dtypes)))])
        return self.fetch(table, held, conform, gather)

    @cached_property
    def _strings(self) -> pl.DataFrame:
        frame = self.read("StringIds", "id", "value").drop_nulls("id")
        return frame.unique("id", keep="first", maintain_order=True)

    @cached_property
    def _texts(self) -> pl.Series | None:
        """The text of every id from 0 on, null for those not in use; None where most are not."""
        first, last = self._strings["id"].min(), self._strings["id"].max()
        if not isinstance(first, int) or not isinstance(last, int) or first < 0:
            return None
        if last > _SPARSE * self._strings.height:
            return None
        every = pl.select(id=pl.int_range(last + 1)).join(self._strings, "id", how="left", maintain_order="left")
        return every["value"].rechunk()  # from one piece Polars takes a text without copying it

    def string(self, id_column: str, *, strip: str | None = None) -> pl.Expr:
        """The text a StringIds id stands for, without what the regular expression ``strip`` matches."""
        texts = self._strings["value"] if self._texts is None else self._texts
        if strip is not None:
            texts = texts.str.replace(strip, "")
        if self._texts is None:
            return _looked_up(id_column, self._strings["id"], texts)
        known = pl.col(id_column).is_between(0, len(texts) - 1)
        return pl.lit(texts).gather(pl.when(known).then(id_column)).alias(id_column)

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
    return pl.col(column).is_between(-MOST_INTEGER, MOST_INTEGER, closed="none").fill_null(False)


def pid(global_id: str) -> pl.Expr:
    """The process id in a ``globalPid`` or ``globalTid``: bits 24 to 47."""
    return ((pl.col(global_id) // 2**24) & 0xFFFFFF).alias("pid")


def tid(global_id: str) -> pl.Expr:
    """The thread id in a ``globalTid``: bits 0 to 23."""
    return (pl.col(global_id) & 0xFFFFFF).alias("tid")
