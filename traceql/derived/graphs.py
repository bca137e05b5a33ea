"""CUDA graph replays: launches, the segments they ran as, and what lies between two segments of a step."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gaps import gap_parts, gaps
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.trace import Trace


@memoised
def _replay_rows(trace: Trace) -> pl.DataFrame:
    """GPU rows that belong to a graph launch, with graph ids where the file tells."""
    kernel_ids = trace.loaded["kernels"].select(source_id="kernel_id", kernel_graph="graph_id")
    replay_ids = trace.loaded["graph_traces"].select(
        source_id="graph_trace_id", replay_graph="graph_id", graph_exec_id="graph_exec_id"
    )
    rows = gpu_ops(trace).filter(pl.col("launch_kind") == "graph")
    is_kernel = pl.col("kind") == "kernel"
    return pl.concat(
        [
            rows.filter(is_kernel).join(kernel_ids, on="source_id", how="left"),
            rows.filter(pl.col("kind") == "graph").join(replay_ids, on="source_id", how="left"),
            rows.filter(~is_kernel & (pl.col("kind") != "graph")),
        ],
        how="diagonal",
    ).with_columns(graph_id=pl.coalesce("kernel_graph", "replay_graph"))


@memoised
def graph_launches(trace: Trace) -> pl.DataFrame:
    """The contract's ``graph_launches``: every graph launch call, with or without device rows."""
    replays = (
        _replay_rows(trace)
        .group_by("launch_id")
        .agg(
            pl.col("graph_id").drop_nulls().first(),
            pl.col("graph_exec_id").drop_nulls().first(),
            pl.col("device").first(),
            pl.col("stream").first(),
            node_count=pl.len().cast(pl.Int64),
            gpu_start_ns=pl.col("start_ns").min(),
            gpu_end_ns=pl.col("end_ns").max(),
            # a whole-replay record beside kernel rows of the same launch does not happen in one capture
            traced=pl.when((pl.col("kind") == "graph").any()).then(pl.lit("graph")).otherwise(pl.lit("node")),
        )
        .with_columns(gpu_dur_ns=pl.col("gpu_end_ns") - pl.col("gpu_start_ns"))
    )
    calls = launches(trace).filter(pl.col("kind") == "graph").drop("gpu_start_ns")
    return calls.join(replays, on="launch_id", how="left", maintain_order="left").with_columns(
        pl.col("node_count").fill_null(0)
    )


@memoised
def graph_segments(trace: Trace) -> pl.DataFrame:
    """The contract's ``graph_segments``: one row a graph launch and device it ran on, in order of GPU start."""
    rows = _replay_rows(trace).filter(pl.col("device").is_not_null())
    key = ["launch_id", "device"]
    busy = intervals.union_ns(rows, key).rename({"union_ns": "gpu_busy_ns"})
    kernel = pl.col("name").filter(pl.col("kind") != "memset")
    return (
        rows.sort("start_ns", "end_ns", maintain_order=True)
        .group_by(key, maintain_order=True)
        .agg(
            pl.col("rank", "step_id").first(),
            pl.col("graph_id").drop_nulls().first(),
            start_ns=pl.col("start_ns").min(),
            end_ns=pl.col("end_ns").max(),
            kernels=(pl.col("kind") == "kernel").sum().cast(pl.Int64),
            first_kernel=kernel.first(),
            last_kernel=kernel.last(),
        )
        .with_columns(dur_ns=pl.col("end_ns") - pl.col("start_ns"))
        .join(busy, on=key, maintain_order="left")
        .sort("device", "start_ns", maintain_order=True)
    )


@memoised
def graph_boundaries(trace: Trace) -> pl.DataFrame:
    """The contract's ``graph_boundaries``: one row between each two consecutive segments of a step on a device."""
    place = ["step_id", "device"]
    previous = ["launch_id", "end_ns", "last_kernel"]
    pairs = (
        graph_segments(trace)
        .filter(pl.col("step_id").is_not_null())
        .sort(*place, "start_ns", maintain_order=True)
        .with_columns(pl.col(previous).shift(1).over(place).name.prefix("before_"))
        .filter(pl.col("before_launch_id").is_not_null())
        .select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("boundary_id"), *place, "rank", "before_launch_id",
            after_launch_id="launch_id", start_ns="before_end_ns", end_ns="start_ns",
            before="before_last_kernel", after="first_kernel",
        )
        .with_columns(dur_ns=pl.max_horizontal(pl.col("end_ns") - pl.col("start_ns"), pl.lit(0)))
    )  # fmt: skip
    joined = pairs
    for part in (_idle_between(trace, pairs), _eager_between(trace, pairs)):
        joined = joined.join(part, on="boundary_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("idle_ns", "eager_gpu_ops", "eager_gpu_ns").fill_null(0))


def _within(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """``rows`` (device, start_ns) with the ``boundary_id`` of the boundary their start lies in, others dropped.

    Segments of one stream follow each other, so boundaries of a device do not overlap.
    """
    return intervals.holding(rows, "start_ns", pairs, "boundary_id", ["device"]).filter(
        pl.col("boundary_id").is_not_null()
    )


def _idle_between(trace: Trace, pairs: pl.DataFrame) -> pl.DataFrame:
    """Idle time, dominant cause and host activity of each boundary."""
    found = _within(gaps(trace).select("gap_id", "device", "start_ns", "dur_ns", "blame"), pairs)
    parts = gap_parts(trace).join(found.select("gap_id", "boundary_id"), on="gap_id")
    dominant = (
        parts.group_by("boundary_id", "cause", maintain_order=True)
        .agg(total=pl.col("dur_ns").sum(), blame=pl.col("blame").drop_nulls().first())
        .sort("boundary_id", pl.col("total") * -1, maintain_order=True)
        .unique("boundary_id", keep="first", maintain_order=True)
    )
    host = (
        parts.filter(pl.col("cause") == "host")
        .group_by("boundary_id", "blame", maintain_order=True)
        .agg(total=pl.col("dur_ns").sum())
        .sort("boundary_id", pl.col("total") * -1, maintain_order=True)
        .unique("boundary_id", keep="first", maintain_order=True)
        .select("boundary_id", host="blame")
    )
    idle = found.group_by("boundary_id").agg(idle_ns=pl.col("dur_ns").sum())
    return (
        idle.join(dominant, on="boundary_id", how="left")
        .join(host, on="boundary_id", how="left")
        .select("boundary_id", "idle_ns", "cause", cpu_activity=pl.coalesce("host", "blame"))
    )


def _eager_between(trace: Trace, pairs: pl.DataFrame) -> pl.DataFrame:
    """Work outside graphs that started within each boundary."""
    rows = gpu_ops(trace).filter(pl.col("launch_kind").ne_missing("graph"))
    found = _within(rows, pairs)
    summary = found.group_by("boundary_id").agg(
        eager_gpu_ops=pl.len().cast(pl.Int64), eager=pl.col("name").unique(maintain_order=True).str.join(", ")
    )
    return summary.join(
        intervals.union_ns(found, ["boundary_id"]).rename({"union_ns": "eager_gpu_ns"}), on="boundary_id"
    )
