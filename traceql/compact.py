"""Columns that hold one value throughout, kept as that value.

Most traces come from one process on one GPU: a third of their columns say the same thing in every row.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl


def compact(frame: pl.DataFrame) -> pl.DataFrame:
    """The same frame, its constant integer, text and null columns stored once by Polars instead of once a row."""
    if frame.height < 2:
        return frame
    # most columns are told apart by their ends, without a look at what lies between
    likely = _those(frame, frame.columns, lambda name: pl.col(name).first().eq_missing(pl.col(name).last()))
    constant = _those(frame, likely, lambda name: _is_constant(name, frame.schema[name]))
    values = frame.select(pl.col(constant).first()).row(0) if constant else ()
    return frame.with_columns(
        pl.lit(value, frame.schema[name]).alias(name) for name, value in zip(constant, values, strict=True)
    )


def _is_constant(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype in (pl.Int64, pl.String):
        return column.eq_missing(column.first()).all()
    return column.is_null().all()  # 0.0 and -0.0 are equal and not the same


def _those(frame: pl.DataFrame, names: list[str], condition: Callable[[str], pl.Expr]) -> list[str]:
    """The names of the columns for which the condition holds."""
    if not names:
        return []
    held = frame.select(condition(name).alias(name) for name in names).row(0)
    return [name for name, holds in zip(names, held, strict=True) if holds]
