"""What rules' fixes take out of the steps, from the frames that the rules measure with."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host_path import waits
from traceql.derived.ops import cpu_ops
from traceql.fix import Fix
from traceql.trace import Trace

_THREAD = ["pid", "tid"]


def closing(trace: Trace, which: pl.Expr) -> Fix:
    """Close gaps: without the host time in those rows of ``owned_gap_parts`` for which ``which`` holds, without the latency
    of the launches that ended them, and without waiting in the calls that blocked."""
    cause = pl.col("cause")
    parts = owned_gap_parts(trace).lazy().filter(which).select("cause", *_THREAD, "start_ns", "end_ns").collect()
    blocked = parts.filter(cause == "blocked")
    held = intervals.holding(blocked, "start_ns", waits(trace), "call_id", _THREAD)
    return Fix.union(
        [
            Fix.host_time(parts.filter(~cause.is_in(["blocked", "launch latency"]))),
            Fix.launch_latency(parts.filter(cause == "launch latency")),
            Fix.waits(held.select(pl.col("call_id").drop_nulls())),
        ]
    )


def kernel_time(trace: Trace, kernels: pl.DataFrame) -> Fix:
    """With these kernels (kernel_id, saved_ns) shorter."""
    ids = gpu_ops(trace).filter(pl.col("kind") == "kernel").select("gpu_op_id", kernel_id="source_id")
    return Fix.device_time(ids.join(kernels, on="kernel_id", how="inner"))


def operator_time(trace: Trace, op_ids: pl.Series) -> Fix:
    """Without the host time of these operator calls, whatever they call included."""
    called = cpu_ops(trace).filter(pl.col("op_id").is_in(op_ids.drop_nulls().implode()))
    return Fix.host_time(called.with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns")))
