"""When a graph replay that left no device record may have run: time that is neither busy nor idle."""

from __future__ import annotations

import polars as pl

from traceql.derived import api, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.trace import Trace

NAME = "graph replay (not recorded)"
"""What stands for such a replay beside GPU work with names."""

FAR = 2**62
"""Beyond any time of a trace, ns."""


@memoised
def opaque_windows(trace: Trace) -> pl.DataFrame:
    """device, start_ns, end_ns, and the launch_id and step_id of the call that opens each window; disjoint, sorted.

    From the launch call to the end of the next synchronising call on that thread: the work is done by then. With no
    such call, to the end of the trace (``FAR``). The call does not say its device: every device of the process is meant.
    """
    unrecorded = launches(trace).filter((pl.col("kind") == "graph") & (pl.col("gpu_ops") == 0))
    columns = ["device", "start_ns", "end_ns", "launch_id", "step_id"]
    if unrecorded.is_empty():
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.Int64))
    name = pl.col("name")
    waits = (
        trace.loaded["runtime_calls"]
        .filter(name.str.contains(api.SYNCHRONIZE) | (name.str.contains(api.MEMCPY) & ~name.str.contains("Async")))
        .select("pid", "tid", wait_start="start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"))
        .sort("wait_start")
    )
    return (
        unrecorded.select("pid", "tid", "start_ns", "launch_id", "step_id")
        .sort("start_ns")
        .join_asof(
            waits, left_on="start_ns", right_on="wait_start", by=["pid", "tid"], strategy="forward",
            check_sortedness=False,
        )
        .with_columns(pl.col("end_ns").fill_null(FAR))
        .join(_devices(trace), on="pid")
        .sort("device", "start_ns", "launch_id")
        .with_columns(new=(pl.col("start_ns") > pl.col("end_ns").cum_max().shift(1).over("device")).fill_null(True))
        .with_columns(window=pl.col("new").cum_sum().over("device"))
        .group_by("device", "window", maintain_order=True)
        .agg(pl.col("start_ns", "launch_id", "step_id").first(), pl.col("end_ns").max())
        .select(columns)
    )  # fmt: skip


@memoised
def unrecorded_devices(trace: Trace) -> frozenset[int]:
    """Devices whose busy time is not in the trace: a replay without record may have run between their first and last
    recorded work, or none of the replays of their process left a record."""
    span = gpu_ops(trace).group_by("device").agg(
        first=pl.col("start_ns").min(), last=(pl.col("start_ns") + pl.col("dur_ns")).max()
    )  # fmt: skip
    inside = pl.min_horizontal("end_ns", "last") > pl.max_horizontal("start_ns", "first")
    between = opaque_windows(trace).join(span, on="device").filter(inside)
    graphs = launches(trace).filter(pl.col("kind") == "graph")
    silent = graphs.group_by("pid").agg(rows=pl.col("gpu_ops").sum()).filter(pl.col("rows") == 0)
    return frozenset(between["device"]) | frozenset(_devices(trace).join(silent, on="pid")["device"])


def _devices(trace: Trace) -> pl.DataFrame:
    """pid → every device its work ran on; where GPU rows name no process, that of the call that launched them."""
    called_by = launches(trace).select("launch_id", call_pid="pid")
    return (
        gpu_ops(trace)
        .select("launch_id", "pid", "device")
        .join(called_by, on="launch_id", how="left")
        .select(pl.coalesce("pid", "call_pid"), "device")
        .drop_nulls()
        .unique()
        .sort("pid", "device")
    )
