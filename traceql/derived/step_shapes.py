"""Tokens and batch size of a step, told from the shapes of its matrix products."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.gemms import gemm_ops
from traceql.derived.steps import step_of_time
from traceql.trace import Trace

_SHAPE_SCHEMA = {"step_id": pl.Int64, "shape_tokens": pl.Int64, "shape_batch": pl.Int64}


@memoised
def step_shapes(trace: Trace) -> pl.DataFrame:
    """step_id → ``shape_tokens`` (the M most of its GEMMs share) and ``shape_batch`` (the M of its last one, lm_head).

    Every projection multiplies one row a token; the last product computes logits, one row a request.
    """
    products = gemm_ops(trace).filter(pl.col("batch") == 1)
    if products.is_empty():
        return pl.DataFrame(schema=_SHAPE_SCHEMA)
    return (
        step_of_time(trace, products.select("start_ns", "pid", "tid", "m"))
        .filter(pl.col("step_id").is_not_null())
        .sort("start_ns")
        .group_by("step_id")
        .agg(shape_tokens=pl.col("m").mode().max(), shape_batch=pl.col("m").last())
    )
