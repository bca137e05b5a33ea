"""Operators: nesting, host and device cost, and which operator each GPU row belongs to."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host import profiler_overheads
from traceql.derived.launches import launches
from traceql.derived.steps import marks, step_of_time
from traceql.trace import Trace

_THREAD = ["pid", "tid"]


@memoised
def cpu_ops(trace: Trace) -> pl.DataFrame:
    """Operators with ``parent_id``, ``depth`` and ``end_ns``, in order of op_id."""
    ops = (
        trace.loaded["cpu_ops"]
        .drop("parent_id", "depth")
        .with_columns(
            end_ns=pl.col("start_ns") + pl.col("dur_ns"),
            thread=pl.struct(_THREAD).rank("dense").cast(pl.Int64),
        )
        .sort("thread", "start_ns", pl.col("end_ns") * -1, "op_id")
    )
    starts, ends, thread = (ops[c].to_numpy() for c in ("start_ns", "end_ns", "thread"))
    parent = pl.Series(intervals.parents(starts, ends, thread), dtype=pl.Int64)
    identity = ops["op_id"]
    nested = ops.with_columns(parent_id=identity.gather(parent.set(parent < 0, None)), depth=_depth(parent))
    return nested.drop("thread").sort("op_id")


def _depth(parent: pl.Series) -> pl.Series:
    """Steps from each row to its top, given parent row numbers (−1 at the top), in log₂(depth) passes."""
    above = parent.to_numpy()
    depth = (above >= 0).astype(np.int64)
    while (open_ := np.flatnonzero(above >= 0)).size:
        reached = above[open_]
        depth[open_] += depth[reached]
        above = above.copy()
        above[open_] = above[reached]
    return pl.Series(depth)


@memoised
def launch_ops(trace: Trace) -> pl.DataFrame:
    """launch_id → the innermost operator open on that thread when the call started (op_id null when none)."""
    calls = launches(trace).select("launch_id", "start_ns", *_THREAD)
    return _innermost_op(trace, calls).select("launch_id", "op_id")


def _innermost_op(trace: Trace, points: pl.DataFrame) -> pl.DataFrame:
    """``points`` (start_ns, pid, tid) with the innermost operator open there."""
    ops = cpu_ops(trace).filter(pl.col("end_ns") > pl.col("start_ns"))
    if ops.is_empty():
        return points.with_columns(op_id=pl.lit(None, pl.Int64))
    sorted_ = ops.with_columns(thread=pl.struct(_THREAD).rank("dense").cast(pl.Int64)).sort(
        "thread", "start_ns", pl.col("end_ns") * -1, "op_id"
    )
    starts, ends, thread = (sorted_[c].to_numpy() for c in ("start_ns", "end_ns", "thread"))
    pieces = intervals.innermost(starts, ends, thread).filter(pl.col("row") >= 0)
    owners = sorted_.select(*_THREAD, "op_id")[pieces["row"]]
    pieces = pl.concat([owners, pieces.select("start_ns", "end_ns")], how="horizontal")
    return intervals.holding(points, "start_ns", pieces, "op_id", _THREAD)


@memoised
def op_gpu_rows(trace: Trace) -> pl.DataFrame:
    """``gpu_ops`` with ``op_id``: each GPU row belongs to one operator, or to none (null)."""
    return gpu_ops(trace).join(launch_ops(trace), on="launch_id", how="left", maintain_order="left")


@memoised
def op_instances(trace: Trace) -> pl.DataFrame:
    """One row an operator call: op_id, name, step_id, cpu_ns, self_cpu_ns, self_cpu_with_launch_ns, device_ns,
    device_total_ns, kernels; the definitions are those of ``op_costs``."""
    ops = cpu_ops(trace)
    step = step_of_time(trace, ops.select("op_id", "start_ns", *_THREAD)).select("op_id", "step_id")
    children = (
        ops.filter(pl.col("parent_id").is_not_null())
        .group_by(op_id="parent_id")
        .agg(children_ns=pl.col("dur_ns").sum())
    )
    calls = trace.loaded["runtime_calls"]
    launched = (
        _innermost_op(trace, calls.select("start_ns", "dur_ns", *_THREAD))
        .group_by("op_id")
        .agg(calls_ns=pl.col("dur_ns").sum())
    )
    overhead = (
        _innermost_op(trace, profiler_overheads(trace).select("start_ns", "dur_ns", *_THREAD))
        .group_by("op_id")
        .agg(overhead_ns=pl.col("dur_ns").sum())
    )
    own = op_gpu_rows(trace).group_by("op_id").agg(device_ns=pl.col("dur_ns").sum(), kernels=pl.len().cast(pl.Int64))
    joined = ops.select("op_id", "name", "start_ns", "dur_ns", "parent_id", "depth")
    for part in (step, children, launched, overhead, own):
        joined = joined.join(part.filter(pl.col("op_id").is_not_null()), on="op_id", how="left", maintain_order="left")
    filled = joined.with_columns(
        pl.col("children_ns", "calls_ns", "overhead_ns", "device_ns", "kernels").fill_null(0)
    ).pipe(_with_totals)
    busy = pl.col("dur_ns") - pl.col("children_ns") - pl.col("overhead_ns")
    return filled.with_columns(
        cpu_ns=pl.max_horizontal(pl.col("dur_ns") - pl.col("overhead_total_ns"), pl.lit(0)),
        self_cpu_ns=pl.max_horizontal(busy - pl.col("calls_ns"), pl.lit(0)),
        self_cpu_with_launch_ns=pl.max_horizontal(busy, pl.lit(0)),
    )


def _with_totals(ops: pl.DataFrame) -> pl.DataFrame:
    """Adds ``device_total_ns`` and ``overhead_total_ns``: own plus all descendants', summed level by level upwards."""
    totals = ops.with_columns(device_total_ns="device_ns", overhead_total_ns="overhead_ns")
    for depth in range(int(ops["depth"].max() or 0), 0, -1):  # type: ignore[arg-type]
        level = totals.filter(pl.col("depth") == depth)
        up = level.group_by(op_id="parent_id").agg(
            device_up=pl.col("device_total_ns").sum(), overhead_up=pl.col("overhead_total_ns").sum()
        )
        totals = (
            totals.join(up, on="op_id", how="left", maintain_order="left")
            .with_columns(
                device_total_ns=pl.col("device_total_ns") + pl.col("device_up").fill_null(0),
                overhead_total_ns=pl.col("overhead_total_ns") + pl.col("overhead_up").fill_null(0),
            )
            .drop("device_up", "overhead_up")
        )
    return totals


def costs(instances: pl.DataFrame) -> pl.DataFrame:
    """Operator calls summed by name, most self CPU time first."""
    summed = ["self_cpu_ns", "self_cpu_with_launch_ns", "cpu_ns", "device_ns", "device_total_ns", "kernels"]
    return (
        instances.group_by("name")
        .agg(pl.len().cast(pl.Int64).alias("calls"), pl.col(summed).sum())
        .with_columns(
            cpu_gpu_ratio=pl.when(pl.col("device_ns") > 0).then(pl.col("self_cpu_with_launch_ns") / pl.col("device_ns"))
        )
        .sort(pl.col("self_cpu_with_launch_ns") * -1, "name")
    )


@memoised
def op_costs(trace: Trace) -> pl.DataFrame:
    """The contract's ``op_costs``: in-step calls where the trace has steps, else all."""
    instances = op_instances(trace)
    if not marks(trace).is_empty():
        instances = instances.filter(pl.col("step_id").is_not_null())
    return costs(instances).with_columns(rank=pl.lit(trace.rank, pl.Int64))
