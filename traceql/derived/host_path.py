"""How long each step keeps its launching thread busy."""

from __future__ import annotations

import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.steps import marks, steps
from traceql.trace import Trace


@memoised
def waits(trace: Trace) -> pl.DataFrame:
    """Calls in which a thread waits for the GPU: call_id, name, pid, tid, start_ns, end_ns, dur_ns, step_id.

    Synchronising calls, and copies that return only when done (cudaMemcpy and its kin without Async).
    """
    from traceql.derived.steps import step_of_time

    name = pl.col("name")
    waiting = name.str.contains(api.SYNCHRONIZE) | (name.str.contains(api.MEMCPY) & ~name.str.contains("Async"))
    calls = trace.loaded["runtime_calls"].filter(waiting).with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"))
    return step_of_time(trace, calls)


@memoised
def host_path(trace: Trace) -> pl.DataFrame:
    """step_id → ``host_path_ns``: the step's host time less the union of its thread's waits, with gpu_busy_ns."""
    waiting = waits(trace).join(
        marks(trace).select("step_id", "pid", "tid", step_end="end_ns"), on=["step_id", "pid", "tid"]
    )
    clipped = waiting.with_columns(end_ns=pl.min_horizontal("end_ns", "step_end"))
    waited = intervals.union_ns(clipped, ["step_id"])
    return (
        steps(trace)
        .select("step_id", "kind", "dur_ns", "gpu_busy_ns")
        .join(waited, on="step_id", how="left", maintain_order="left")
        .with_columns(host_path_ns=pl.col("dur_ns") - pl.col("union_ns").fill_null(0))
        .drop("union_ns")
    )
