"""How far the profiler changed what it measured: unprofiled step time, profiler overhead within the steps."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.host import profiler_overheads
from traceql.derived.steps import marks, steps
from traceql.run_manifest import UNPROFILED
from traceql.trace import Trace


def unprofiled_step_ns(trace: Trace) -> int | None:
    """The step time measured without a profiler, where the trace's collector states it."""
    stated = trace.loaded["metadata"].filter(pl.col("key") == UNPROFILED)["value"].drop_nulls()
    number = stated.cast(pl.Float64, strict=False).drop_nulls()
    return round(number[0] * 1e6) if len(number) and number[0] > 0 else None


def host_time_ratio(trace: Trace, step_id: int) -> float | None:
    """Time beside the GPU's work in the unprofiled decode step over that in the recorded one; None where one is unknown.

    A profiler slows the host, not the GPU: host time that a fix saves is this much of what it saves in the recording.
    """
    unprofiled = unprofiled_step_ns(trace)
    step = steps(trace).row(by_predicate=pl.col("step_id") == step_id, named=True)
    busy, period = step["gpu_busy_ns"], step["period_ns"]
    if unprofiled is None or step["kind"] not in (None, "decode") or busy is None or period <= busy:
        return None
    ratio: float = max(0, unprofiled - busy) / (period - busy)
    return ratio


@memoised
def step_overheads(trace: Trace) -> pl.DataFrame:
    """step_id → ``overhead_ns``: profiler overhead that began in the step's period on the thread of its mark.

    What CUDA itself does is left out.
    """
    period = steps(trace).select("step_id", "period_ns")
    periods = (
        marks(trace)
        .select("step_id", "start_ns", "pid", "tid")
        .join(period, on="step_id")
        .with_columns(end_ns=pl.col("start_ns") + pl.col("period_ns"))
    )
    rows = (
        profiler_overheads(trace)
        .filter(pl.col("dur_ns") > 0)
        .with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"))
    )
    held = intervals.holding(rows, "start_ns", periods, "step_id", ["pid", "tid"])
    return intervals.union_ns(held.filter(pl.col("step_id").is_not_null()), ["step_id"]).rename(
        {"union_ns": "overhead_ns"}
    )
