"""What names say, matched once a distinct name: a trace has few names and many rows."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl


def labels(names: pl.Series, patterns: Mapping[str, str]) -> pl.Series:
    """For each name the first label whose pattern matches it, null when none does."""
    label = pl.coalesce(pl.when(pl.col("name").str.contains(p)).then(pl.lit(word)) for word, p in patterns.items())
    told = pl.DataFrame({"name": names.unique().drop_nulls()}).select("name", label=label)
    rows = names.alias("name").to_frame()
    return rows.join(told, on="name", how="left", maintain_order="left")["label"]
