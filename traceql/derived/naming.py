"""What names say, matched once a distinct name: a trace has few names and many rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl


def labels(names: pl.Series, patterns: Mapping[str, str]) -> pl.Series:
    """For each name the first label whose pattern matches it, null when none does."""
    return Names.of(names).labels(patterns)


def told(names: pl.Series, expression: pl.Expr) -> pl.Series:
    """For each name what ``expression`` makes of the column ``name``, null for a null."""
    return Names.of(names).told(expression)


@dataclass(frozen=True)
class Names:
    """Names of many rows, to be asked more than once: the ``distinct`` ones, and which each row has (null for none)."""

    distinct: pl.DataFrame
    number: pl.Series

    @classmethod
    def of(cls, names: pl.Series) -> Names:
        distinct = pl.DataFrame({"name": names.unique().drop_nulls()})
        numbered = distinct.with_row_index("number")
        rows = names.alias("name").to_frame().join(numbered, on="name", how="left", maintain_order="left")
        return cls(distinct, rows["number"])

    def labels(self, patterns: Mapping[str, str]) -> pl.Series:
        """For each row the first label whose pattern matches its name, null when none does."""
        name = pl.col("name")
        matched = (pl.when(name.str.contains(pattern)).then(pl.lit(word)) for word, pattern in patterns.items())
        return self.told(pl.coalesce(matched))

    def told(self, expression: pl.Expr) -> pl.Series:
        """For each row what ``expression`` makes of the column ``name``, null for a null."""
        return self.distinct.select(told=expression)["told"].gather(self.number)
