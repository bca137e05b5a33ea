"""Communication kernels."""

from __future__ import annotations

import polars as pl

from traceql import schema
from traceql.derived import memoised
from traceql.trace import Trace


@memoised
def collectives(trace: Trace) -> pl.DataFrame:
    """The contract's ``collectives``: kernels of category communication, the operation told from the name."""
    op = pl.col("name").str.to_lowercase()
    kernels = trace.table("kernels").filter(pl.col("category") == "communication")
    if kernels.is_empty():
        return schema.TABLES["collectives"].empty()
    return kernels.with_columns(
        collective_id=pl.int_range(pl.len(), dtype=pl.Int64),
        op=pl.when(op.str.contains("all_?reduce|cross_device_reduce|oneshot|twoshot")).then(pl.lit("all_reduce"))
        .when(op.str.contains("reduce_?scatter")).then(pl.lit("reduce_scatter"))
        .when(op.str.contains("all_?gather")).then(pl.lit("all_gather"))
        .when(op.str.contains("all_?to_?all|dispatch|combine")).then(pl.lit("all_to_all"))
        .when(op.str.contains("broadcast")).then(pl.lit("broadcast"))
        .when(op.str.contains("send_?recv|sendrecv")).then(pl.lit("send_recv")),
    )  # fmt: skip
