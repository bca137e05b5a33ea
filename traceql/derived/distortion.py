"""How far the profiler changed what it measured: unprofiled step time, profiler overhead within the steps."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.compilation import LOADING
from traceql.derived.host import placed_overheads
from traceql.derived.steps import marks, steps
from traceql.run_manifest import UNPROFILED
from traceql.trace import Trace

_NOT_PROFILER = rf"{LOADING}|(?i)command buffer full"
"""Overhead rows that are the program's own: kernels loaded on first use, launches that wait for room in the queue."""


def unprofiled_step_ns(trace: Trace) -> int | None:
    """The step time measured without a profiler, where the trace's collector states it."""
    stated = trace.loaded["metadata"].filter(pl.col("key") == UNPROFILED)["value"].drop_nulls()
    number = stated.cast(pl.Float64, strict=False).drop_nulls()
    return round(number[0] * 1e6) if len(number) and number[0] > 0 else None


@memoised
def step_overheads(trace: Trace) -> pl.DataFrame:
    """step_id → ``overhead_ns``: profiler overhead that began in the step's period on the thread of its mark.

    Rows that are the program's own doing are left out.
    """
    period = steps(trace).select("step_id", "period_ns")
    periods = (
        marks(trace)
        .select("step_id", "start_ns", "pid", "tid")
        .join(period, on="step_id")
        .with_columns(end_ns=pl.col("start_ns") + pl.col("period_ns"))
    )
    rows = (
        placed_overheads(trace)
        .filter(~pl.col("kind").str.contains(_NOT_PROFILER) & (pl.col("dur_ns") > 0))
        .with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"))
    )
    held = intervals.holding(rows, "start_ns", periods, "step_id", ["pid", "tid"])
    return intervals.union_ns(held.filter(pl.col("step_id").is_not_null()), ["step_id"]).rename(
        {"union_ns": "overhead_ns"}
    )
