"""Kernels in the order the host launched them, as a sequence of symbols."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.launches import calls_with_gpu_work, launched_by
from traceql.kernel_names import described
from traceql.trace import Trace

_SCHEMA = {
    "call_ns": pl.Int64, "tid": pl.Int64, "category": pl.String, "pid": pl.Int64, "kernel_id": pl.Int64, "symbol": pl.Int64,
}  # fmt: skip


@memoised
def kernels_in_launch_order(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """Kernels of the busiest device (of one process with ``pid``): kernel_id, symbol (a number for each distinct name, 0
    for none), category, call_ns, pid, tid.

    ``call_ns`` is when the launch call started; kernels of one replay share it. Without launch calls in the trace, the
    kernel's own start stands in.
    """
    names = described(trace.loaded["kernels"]).select("category", source_id="kernel_id", kernel="name")
    calls = calls_with_gpu_work(trace).select("launch_id", "tid", call_ns="start_ns", call_pid="pid")
    rows = (
        launched_by(trace)
        .filter((pl.col("kind") == "kernel") & pl.col("device").is_not_null())
        .join(calls, on="launch_id", how="left", maintain_order="left")
        .with_columns(pid=pl.coalesce("call_pid", "pid"))
        .filter(pl.lit(True) if pid is None else pl.col("pid") == pid)
    )
    if rows.is_empty():
        return pl.DataFrame(schema=_SCHEMA)
    device = rows["device"].mode().sort()[0]
    return (
        rows.filter(pl.col("device") == device)
        .join(names, on="source_id", how="left", maintain_order="left")
        .filter(pl.col("call_ns").is_not_null() | pl.col("call_ns").is_null().all())
        .with_columns(call_ns=pl.coalesce("call_ns", "start_ns"))
        .sort("call_ns", "start_ns", maintain_order=True)
        .select(
            "call_ns", "tid", "category", "pid", kernel_id="source_id",
            symbol=pl.col("kernel").rank("dense").cast(pl.Int64).fill_null(0),
        )
    )  # fmt: skip
