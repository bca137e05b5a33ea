"""What one step cost, as plain figures to gate or to compare: one row a step, null where the trace cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from traceql.derived import api, memoised
from traceql.derived.graphs import graph_launches
from traceql.derived.host_calls import in_step_calls
from traceql.derived.steps import steps
from traceql.trace import Trace


@dataclass(frozen=True)
class Metric:
    """A figure of a step: its column, unit (empty for counts) and what it is. ``counted`` ones repeat exactly in another
    run of the same program; times do not."""

    name: str
    unit: str
    doc: str
    counted: bool = False


_METRICS = [
    Metric("period_ns", "ns", "start of the step to the start of the next"),
    Metric("cpu_ns", "ns", "duration of the step's mark on the host"),
    Metric("gpu_busy_ns", "ns", "time its busiest device was busy between the step's first and last work there"),
    Metric("gpu_idle_ns", "ns", "gaps of that device that belong to the step, the one before its first work included"),
    Metric("gpu_idle_pct", "%", "gpu_idle_ns of the period, or of busy and idle time where they are longer"),
    Metric("kernels", "", "kernels, those of graph replays included", counted=True),
    Metric("gpu_ops", "", "kernels, copies and fills", counted=True),
    Metric("launch_calls", "", "kernel launch calls", counted=True),
    Metric("graph_launches", "", "graph launch calls", counted=True),
    Metric("graph_segments", "", "graph launches that ran GPU work", counted=True),
    Metric("memcpys", "", "copies on the GPU", counted=True),
    Metric("memcpy_bytes", "B", "bytes moved by copies", counted=True),
    Metric("synchronizes", "", "stream, device and event synchronising calls", counted=True),
]

METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""Every metric of a step by its name, in the order to show them."""


@memoised
def step_metrics(trace: Trace) -> pl.DataFrame:
    """step_id, name, kind, batch_size and a column for each of ``METRICS``.

    GPU counts are null in steps with a replay whose nodes were not recorded, busy and idle time where a replay left no
    record at all; host counts are null in traces without API calls.
    """
    has = trace.capabilities
    replays = graph_launches(trace).group_by("step_id").agg(
        unrecorded=pl.col("traced").is_null().any(), whole=(pl.col("traced") == "graph").any()
    )  # fmt: skip
    copies = trace.table("memcpys").group_by("step_id").agg(
        memcpys=pl.len().cast(pl.Int64), memcpy_bytes=pl.col("bytes").sum()
    )  # fmt: skip
    waits = (
        in_step_calls(trace)
        .filter(pl.col("name").str.contains(api.SYNCHRONIZE))
        .group_by("step_id")
        .agg(synchronizes=pl.len().cast(pl.Int64))
    )
    joined = steps(trace).rename({"dur_ns": "cpu_ns"})
    for part in (replays, copies, waits):
        joined = joined.join(part, on="step_id", how="left", maintain_order="left")
    counts = ["memcpys", "memcpy_bytes", "synchronizes"]
    # a replay without nodes hides its kernels and copies; one without any record hides its time as well
    hidden = (pl.col("unrecorded") | pl.col("whole")).fill_null(False)
    rows = ["kernels", "gpu_ops", "memcpys", "memcpy_bytes"]
    return (
        joined.with_columns(pl.col(counts).fill_null(0))
        .with_columns(pl.when(~hidden & has.gpu_rows).then(pl.col(rows)).name.keep())
        .with_columns(
            pl.when(has.host_calls).then(pl.col("launch_calls", "graph_launches", "synchronizes")).name.keep(),
            graph_segments=pl.when(pl.lit(has.host_calls) & has.gpu_rows & ~pl.col("unrecorded").fill_null(False)).then(
                "graph_segments"
            ),
        )
        .with_columns(
            gpu_idle_pct=pl.when(pl.col("whole_ns") > 0).then(100 * pl.col("gpu_idle_ns") / pl.col("whole_ns"))
        )
        .select("step_id", "name", "kind", "batch_size", *METRICS)
    )
