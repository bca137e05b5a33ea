"""Operators: nesting, host and device cost, and which operator each GPU row belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host import profiler_overheads
from traceql.derived.launches import launches
from traceql.derived.steps import marks, step_of_time
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_THREAD = ["pid", "tid"]


@memoised
def cpu_ops(trace: Trace) -> pl.DataFrame:
    """Operators with ``parent_id``, ``depth`` and ``end_ns``, in order of op_id, which is the row number."""
    ops, nesting = trace.loaded["cpu_ops"], _nesting(trace)
    return ops.drop("parent_id", "depth").with_columns(
        end_ns=pl.col("start_ns") + pl.col("dur_ns"),
        parent_id=intervals.rows_or_null(nesting.parent),
        depth=pl.Series(nesting.depth),
    )


class _Nesting(NamedTuple):
    """Operators by thread (``threads``: pid, tid of each ``thread``), in ``order`` of (thread, start, −end); in their own
    order the row of the operator around each (−1 at the top) and how many are around it."""

    threads: pl.DataFrame
    thread: NDArray[np.int64]
    order: NDArray[np.int64]
    parent: NDArray[np.int64]
    depth: NDArray[np.int64]


@memoised
def _nesting(trace: Trace) -> _Nesting:
    ops = trace.loaded["cpu_ops"].select(
        *_THREAD, "start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"),
        thread=pl.struct(_THREAD).rank("dense").cast(pl.Int64),
    )  # fmt: skip
    order = ops.select(
        pl.arg_sort_by("thread", "start_ns", pl.col("end_ns") * -1, maintain_order=True)
    ).to_series().cast(pl.Int64).to_numpy()  # fmt: skip
    starts, ends, thread = (ops[name].to_numpy() for name in ("start_ns", "end_ns", "thread"))
    above, height = intervals.nesting(starts[order], ends[order], thread[order])
    parent, depth = np.empty_like(above), np.empty_like(height)
    parent[order] = np.where(above >= 0, order[above], -1)
    depth[order] = height
    return _Nesting(ops.select("thread", *_THREAD).unique(), thread, order, parent, depth)


@memoised
def launch_ops(trace: Trace) -> pl.DataFrame:
    """launch_id → the innermost operator open on that thread when the call started (op_id null when none)."""
    calls = launches(trace).select("launch_id", "start_ns", *_THREAD)
    return calls.select("launch_id", op_id=_innermost_op(trace, calls))


def _innermost_op(trace: Trace, points: pl.DataFrame) -> pl.Series:
    """The innermost operator open at each of ``points`` (start_ns, pid, tid), null where none is."""
    starts, op_ids = _pieces(trace)
    placed = points.join(_nesting(trace).threads, on=_THREAD, how="left", maintain_order="left")
    return intervals.rows_or_null(op_ids.gather(starts.last(placed, "start_ns")).fill_null(-1).to_numpy())


@memoised
def _pieces(trace: Trace) -> tuple[intervals.Starts, pl.Series]:
    """The pieces that each thread's time falls into, and the innermost operator of each, −1 for none."""
    nesting = _nesting(trace)
    starts, ends = (cpu_ops(trace)[name].to_numpy() for name in ("start_ns", "end_ns"))
    lasting = nesting.order[(ends > starts)[nesting.order]]
    pieces = intervals.innermost(starts[lasting], ends[lasting], nesting.thread[lasting])
    op_ids = np.append(lasting, -1)[pieces["row"].to_numpy()]
    return intervals.Starts(pieces.rename({"group": "thread"}), ["thread"]), pl.Series(op_ids)


@memoised
def op_gpu_rows(trace: Trace) -> pl.DataFrame:
    """``gpu_ops`` with ``op_id``: each GPU row belongs to one operator, or to none (null)."""
    rows = gpu_ops(trace)
    return rows.with_columns(launch_ops(trace)["op_id"].gather(rows["launch_id"]))


@memoised
def op_instances(trace: Trace) -> pl.DataFrame:
    """One row an operator call: op_id, name, step_id, cpu_ns, self_cpu_ns, self_cpu_with_launch_ns, device_ns,
    device_total_ns, kernels; the definitions are those of ``op_costs``."""
    ops = cpu_ops(trace)
    calls, overheads = trace.loaded["runtime_calls"], profiler_overheads(trace)
    rows = op_gpu_rows(trace).select("op_id", "dur_ns", one=pl.lit(1, pl.Int64))
    own = {
        "children_ns": _summed(trace, ops["parent_id"], ops["dur_ns"]),
        "calls_ns": _summed(trace, _innermost_op(trace, calls.select("start_ns", *_THREAD)), calls["dur_ns"]),
        "overhead_ns": _summed(
            trace, _innermost_op(trace, overheads.select("start_ns", *_THREAD)), overheads["dur_ns"]
        ),
        "device_ns": _summed(trace, rows["op_id"], rows["dur_ns"]),
        "kernels": _summed(trace, rows["op_id"], rows["one"]),
    }
    totals = {
        "overhead_total_ns": _with_descendants(trace, own["overhead_ns"]),
        "device_total_ns": _with_descendants(trace, own["device_ns"]),
    }
    busy = pl.col("dur_ns") - pl.col("children_ns") - pl.col("overhead_ns")
    return (
        step_of_time(trace, ops.select("op_id", "name", "start_ns", "dur_ns", "parent_id", "depth", *_THREAD))
        .with_columns(**own, **totals)
        .with_columns(
            cpu_ns=pl.max_horizontal(pl.col("dur_ns") - pl.col("overhead_total_ns"), pl.lit(0)),
            self_cpu_ns=pl.max_horizontal(busy - pl.col("calls_ns"), pl.lit(0)),
            self_cpu_with_launch_ns=pl.max_horizontal(busy, pl.lit(0)),
        )
    )


def _summed(trace: Trace, op_ids: pl.Series, values: pl.Series) -> pl.Series:
    """For every operator the sum of the values that are its."""
    return pl.Series(intervals.summed(op_ids, values, trace.loaded["cpu_ops"].height))


def _with_descendants(trace: Trace, own: pl.Series) -> pl.Series:
    """For every operator its own value plus those of all operators inside it."""
    nesting = _nesting(trace)
    return pl.Series(intervals.summed_upwards(own.to_numpy(), nesting.order, nesting.parent))


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
