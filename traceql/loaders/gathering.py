"""Frames put together from parts that come one after the other, without holding any of them twice.

Joining parts that are all there takes twice their memory, and what is freed of them lies in pieces too small for the
columns of the whole. Here integers, most of a trace, go to where they stay as they come.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

_FIRST_ROWS = 1 << 20


def gathered(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The parts, at least one and of the same columns, one under the other; a column in one piece or one value."""
    columns: dict[str, _Column] = {}
    for part in parts:
        for name in part.columns:
            columns.setdefault(name, _Column(part.schema[name])).add(part[name])
    values = {name: column.value() for name, column in columns.items() if column.is_one_value}
    if len(values) == len(columns):  # something must say how many rows there are
        values.pop(next(iter(columns)))
    frame = pl.DataFrame({name: column.series() for name, column in columns.items() if name not in values})
    return frame.with_columns(value.alias(name) for name, value in values.items()).select(list(columns))


class _Column:
    """One column: one value as long as no other has come, then integers without nulls in an array, all else in parts."""

    def __init__(self, dtype: pl.DataType) -> None:
        self._dtype = dtype
        self._rows = 0
        self._value: int | None = None
        self._array: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
        self._parts: list[pl.Series] | None = None if dtype == pl.Int64 else []

    def add(self, part: pl.Series) -> None:
        if self._parts is None:
            self._add_integers(part)
        elif len(part):
            self._parts.append(part)

    def _add_integers(self, part: pl.Series) -> None:
        nulls = part.null_count()
        if not len(part):
            return
        if self._array is None:
            value = part.min()
            alike = nulls == len(part) or (not nulls and value == part.max())
            if alike and (not self._rows or value == self._value):
                self._value = value if isinstance(value, int) else None
                self._rows += len(part)
                return
        if nulls or (self._array is None and self._rows and self._value is None):
            self._parts = [self.series(), part]
            self._array = None
            return
        array = self._with_room(self._rows + len(part))
        array[self._rows : self._rows + len(part)] = part.to_numpy()
        self._rows += len(part)

    def _with_room(self, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The array, large enough; large arrays grow where they are."""
        if self._array is None:
            self._array = np.empty(max(_FIRST_ROWS, rows), np.int64)
            self._array[: self._rows] = self._value or 0
        elif len(self._array) < rows:
            self._array.resize(max(rows, len(self._array) * 3 // 2), refcheck=False)
        return self._array

    @property
    def is_one_value(self) -> bool:
        """Whether all rows, at least one, say the same, which ``value`` is then."""
        return self._rows > 0 and self._array is None and self._parts is None

    def value(self) -> pl.Expr:
        return pl.lit(self._value, self._dtype)

    def series(self) -> pl.Series:
        """All of it; the column is used up."""
        if self._parts is not None:
            parts, self._parts = self._parts, []
            return pl.concat(parts, rechunk=True) if parts else pl.Series(dtype=self._dtype)
        if self._array is None:
            return pl.repeat(self._value, self._rows, dtype=self._dtype, eager=True)
        self._array.resize(self._rows, refcheck=False)
        return pl.Series(self._array)
