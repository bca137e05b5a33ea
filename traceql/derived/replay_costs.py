"""What launching a CUDA graph costs: host time of the call, and how long the GPU waits for the first node."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gaps import gap_parts, gaps
from traceql.derived.graphs import graph_launches, graph_segments
from traceql.derived.host_path import waits
from traceql.derived.launches import launches
from traceql.derived.steps import marks, steps
from traceql.trace import Trace

_LAUNCHING = ["graph launch", "launch latency"]


@memoised
def replay_costs(trace: Trace) -> pl.DataFrame:
    """One row a graph launch made in a step: launch_id, step_id, name, graph, nodes, start_ns, end_ns, host_ns, idle_ns,
    delay_ns, first.

    ``graph`` names the graph: its id where the file tells, else its size and first kernel; null without device record.
    ``host_ns`` is the call; ``idle_ns`` the device idle time from the call's start to the first node, ``delay_ns`` what
    of it follows the call's return on an idle stream. ``first``: no earlier launch of this graph is in the trace.
    """
    idle = (
        gap_parts(trace)
        .filter(pl.col("cause").is_in(_LAUNCHING))
        .join(gaps(trace).filter("first_of_launch").select("gap_id", "launch_id"), on="gap_id")
        .group_by("launch_id")
        .agg(idle_ns=pl.col("dur_ns").sum())
    )
    starts = graph_segments(trace).unique("launch_id", keep="first", maintain_order=True)
    told = (
        graph_launches(trace)
        .select("launch_id", "step_id", "name", "graph_id", "start_ns", nodes="node_count", host_ns="dur_ns")
        .join(starts.select("launch_id", "first_kernel"), on="launch_id", how="left", maintain_order="left")
        .join(idle, on="launch_id", how="left", maintain_order="left")
        .join(launches(trace).select("launch_id", "delay_ns"), on="launch_id", how="left", maintain_order="left")
    )
    described = pl.format("{} nodes from {}", "nodes", pl.col("first_kernel").fill_null("an unnamed one"))
    by_id = pl.format("graph {} ({} nodes)", "graph_id", "nodes")
    return (
        told.with_columns(
            pl.col("idle_ns").fill_null(0),
            graph=pl.when(pl.col("nodes") > 0).then(
                pl.when(pl.col("graph_id").is_not_null()).then(by_id).otherwise(described)
            ),
            end_ns=pl.col("start_ns") + pl.col("host_ns"),
        )
        .with_columns(first=pl.col("launch_id") == pl.col("launch_id").min().over("graph"))
        .filter(pl.col("step_id").is_not_null())
    )


@memoised
def waited_in_period(trace: Trace) -> pl.DataFrame:
    """step_id → ``waited_ns``: how long the step's thread waited for the GPU in the step's period."""
    period = steps(trace).select("step_id", "period_ns")
    periods = (
        marks(trace)
        .select("step_id", "start_ns", "pid", "tid")
        .join(period, on="step_id")
        .with_columns(end_ns=pl.col("start_ns") + pl.col("period_ns"))
    )
    held = intervals.holding(waits(trace).drop("step_id"), "start_ns", periods, "step_id", ["pid", "tid"])
    return held.filter(pl.col("step_id").is_not_null()).group_by("step_id").agg(waited_ns=pl.col("dur_ns").sum())
