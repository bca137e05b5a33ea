"""The overhead chain of a step and of a layer: Python, op dispatch, API calls and waits on the launching thread, beside
what the GPU was busy and idle.

Host parts split the launching thread's time in the window exactly: they add up to ``host_ns``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.gpu_work import gpu_work
from traceql.derived.host import host_timeline
from traceql.derived.launches import launches
from traceql.derived.layers import layer_kernels
from traceql.derived.naming import told
from traceql.derived.steps import marks, steps
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOST_PARTS = ("dispatch_ns", "launch_ns", "other_calls_ns", "wait_ns", "profiler_ns", "python_ns")
"""Where the launching thread's time goes: inside operators and outside API calls; in calls that put work on the GPU; in
other API calls; in calls that wait for the GPU; in the profiler; in none of these (Python, framework code)."""

_RECORDED = HOST_PARTS[:-1]
_THREAD = ["pid", "tid"]


@memoised
def step_chain(trace: Trace) -> pl.DataFrame:
    """One row a step: step_id, kind, period_ns, host_ns and its HOST_PARTS, gpu_busy_ns, gpu_work_ns, gpu_idle_ns.

    The thread is the one that made most of the step's launches (the mark's, when there is none); ``host_ns`` is the
    step's host range. ``gpu_idle_ns`` is idle time within the step, the lead-in from the step before left out;
    ``gpu_work_ns`` is as ``gpu_work`` has it.
    """
    windows = (
        marks(trace)
        .select("step_id", "start_ns", "end_ns", "pid", "tid")
        .join(_launching_thread(trace), on="step_id", how="left", maintain_order="left")
        .with_columns(tid=pl.coalesce("launch_tid", "tid"))
        .drop("launch_tid")
    )
    between = owned_gap_parts(trace).filter(pl.col("place") == "between steps")
    lead_in = between.group_by("step_id").agg(lead_in_ns=pl.col("dur_ns").sum())
    gpu = (
        steps(trace)
        .select("step_id", "kind", "period_ns", "gpu_busy_ns", "gpu_idle_ns")
        .join(gpu_work(trace), on="step_id", how="left", maintain_order="left")
        .join(lead_in, on="step_id", how="left", maintain_order="left")
        .with_columns(gpu_idle_ns=pl.col("gpu_idle_ns") - pl.col("lead_in_ns").fill_null(0))
        .drop("lead_in_ns")
    )
    return gpu.join(_host_parts(trace, windows, ["step_id"]), on="step_id", how="left", maintain_order="left")


@memoised
def layer_chain(trace: Trace, step_id: int) -> pl.DataFrame:
    """One row a layer of the step that was launched kernel by kernel: step_id, layer, device, host_ns and its HOST_PARTS,
    gpu_busy_ns, gpu_idle_ns.

    On the host a layer lasts from the launch call of its first kernel to that of the next layer's, on the GPU from
    its first kernel to the next layer's; the last layer of a run has no end and no row. Layers inside a graph replay
    have no launch calls of their own and no row either.
    """
    key = ["step_id", "device", "layer"]
    calls = launches(trace).select("launch_id", "pid", "tid", call_ns="start_ns")
    kernels = gpu_ops(trace).filter((pl.col("kind") == "kernel") & (pl.col("launch_kind") != "graph"))
    following = pl.col("call_ns", "gpu_ns").shift(-1).over("step_id", "device", order_by="layer").name.prefix("next_")
    windows = (
        layer_kernels(trace)
        .filter(pl.col("position") == 0, pl.col("step_id") == step_id)
        .join(kernels.select("launch_id", kernel_id="source_id", gpu_ns="start_ns"), on="kernel_id")
        .join(calls, on="launch_id")
        .with_columns(following)
        .filter(pl.col("next_call_ns") > pl.col("call_ns"), pl.col("next_gpu_ns") > pl.col("gpu_ns"))
    )
    host = windows.select(*key, *_THREAD, start_ns="call_ns", end_ns="next_call_ns")
    everything = gpu_ops(trace).filter(pl.col("device").is_not_null())
    until = intervals.busy_at(windows, ("gpu_ns", "next_gpu_ns"), everything, ["device"])
    gpu = windows.select(
        *key,
        gpu_busy_ns=until[1] - until[0],
        gpu_idle_ns=pl.col("next_gpu_ns") - pl.col("gpu_ns") - (until[1] - until[0]),
    )
    return _host_parts(trace, host, key).join(gpu, on=key, how="left", maintain_order="left").sort(key)


def _launching_thread(trace: Trace) -> pl.DataFrame:
    """step_id → the thread that made most of its launches."""
    calls = launches(trace).filter(pl.col("step_id").is_not_null())
    return (
        calls.group_by("step_id", "tid")
        .agg(calls=pl.len())
        .sort("step_id", pl.col("calls").cast(pl.Int64) * -1, "tid")
        .unique("step_id", keep="first", maintain_order=True)
        .select("step_id", launch_tid="tid")
    )


def _host_parts(trace: Trace, windows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """``windows`` (key, pid, tid, start_ns, end_ns) as key, host_ns and HOST_PARTS."""
    timeline = host_timeline(trace)
    placed = windows.join(timeline.threads, on=_THREAD, how="left", maintain_order="left")
    spent = pl.DataFrame(timeline.spent(placed, _part(trace), len(_RECORDED)), schema=list(_RECORDED))
    host = windows.select(*key, host_ns=pl.col("end_ns") - pl.col("start_ns"))
    return (
        pl.concat([host, spent], how="horizontal")
        .with_columns(python_ns=pl.col("host_ns") - pl.sum_horizontal(_RECORDED))
        .select(*key, "host_ns", *HOST_PARTS)
    )


@memoised
def _part(trace: Trace) -> NDArray[np.int8]:
    """For every activity which of ``_RECORDED`` its time is, −1 for none."""
    activities = host_timeline(trace).activities
    kind = activities["kind"]
    part = np.where(activities["in_op"].to_numpy(), _RECORDED.index("dispatch_ns"), -1).astype(np.int8)
    part[(kind == "profiler").to_numpy()] = _RECORDED.index("profiler_ns")
    calls = kind.is_in(["runtime", "driver"]).arg_true()
    called = activities.select("kind", "name", "waits", "parent")[calls]
    parent = called["parent"]
    around = activities.select("kind", "name")[parent.set(parent < 0, 0)]
    # what CUDA does itself belongs to the call around it, and is a call of its own where there is none
    in_call = (called["kind"] == "driver") & (around["kind"] == "runtime") & (parent >= 0)
    launches_work = told(around["name"].zip_with(in_call, called["name"]), api.kind(pl.col("name"))).is_not_null()
    part[calls.to_numpy()] = called.select(
        pl.when("waits")
        .then(_RECORDED.index("wait_ns"))
        .when(launches_work)
        .then(_RECORDED.index("launch_ns"))
        .otherwise(_RECORDED.index("other_calls_ns"))
        .cast(pl.Int8)
    ).to_series()
    return part
