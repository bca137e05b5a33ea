"""How long the GPU worked for a step, waiting for other ranks left out."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.steps import steps
from traceql.trace import Trace

_ALIKE = ["name", "grid_x", "block_x", "step_kind", "batch_size"]
"""Communication kernels that agree in these carry as much data, so their shortest run waited least."""


@memoised
def gpu_work(trace: Trace) -> pl.DataFrame:
    """step_id → ``gpu_work_ns``, on the device that stands for the step: busy time less what communication kernels took
    beyond the shortest alike, and at least the union of all other work; null where the busy time is.

    What such a kernel takes longer than the shortest is waiting for a rank that came late. Payloads are not recorded:
    where one kernel serves several sizes in steps of one kind, part of it is transfer, and the work is understated.
    """
    place = ["step_id", "device"]
    step = steps(trace).select(*place, "gpu_busy_ns", "batch_size", step_kind="kind")
    talking = trace.table("kernels").filter((pl.col("category") == "communication") & pl.col("step_id").is_not_null())
    beyond = pl.col("dur_ns") - pl.col("dur_ns").min().over(_ALIKE)
    waiting = talking.join(step, on=place).with_columns(beyond=beyond).group_by("step_id").agg(pl.col("beyond").sum())
    is_talking = (pl.col("kind") == "kernel") & pl.col("source_id").is_in(talking["kernel_id"].implode())
    rest = gpu_ops(trace).filter(~is_talking).join(step, on=place, how="semi")
    other = intervals.union_ns(rest, ["step_id"]).rename({"union_ns": "other_ns"})
    working = pl.max_horizontal(pl.col("gpu_busy_ns") - pl.col("beyond").fill_null(0), "other_ns")
    return (
        step.join(waiting, on="step_id", how="left", maintain_order="left")
        .join(other, on="step_id", how="left", maintain_order="left")
        .select("step_id", gpu_work_ns=pl.when(pl.col("gpu_busy_ns").is_not_null()).then(working))
    )
