"""What names say, matched once a distinct name: a trace has few names and many rows."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl


def labels(names: pl.Series, patterns: Mapping[str, str]) -> pl.Series:
    """For each name the first label whose pattern matches it, null when none does."""
    name = pl.col("name")
    return told(names, pl.coalesce(pl.when(name.str.contains(p)).then(pl.lit(word)) for word, p in patterns.items()))


def told(names: pl.Series, expression: pl.Expr) -> pl.Series:
    """For each name what ``expression`` makes of the column ``name``, null for a null."""
    distinct = pl.DataFrame({"name": names.unique().drop_nulls()}).select("name", told=expression)
    rows = names.alias("name").to_frame()
    return rows.join(distinct, on="name", how="left", maintain_order="left")["told"]
