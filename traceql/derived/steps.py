"""Steps: one model forward each, and which step GPU work and host calls belong to."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.trace import Trace


@memoised
def marks(trace: Trace) -> pl.DataFrame:
    """Step ranges on the host with ``step_id`` in order of start, from the best evidence the trace has."""
    from traceql.derived import step_marks, step_structure

    finders = (
        step_marks.engine_marks, step_structure.from_ranges, step_marks.profiler_steps,
        step_structure.from_graph_replays, step_structure.from_kernel_sequence,
    )  # fmt: skip
    found = pl.DataFrame(schema=step_marks.MARK_SCHEMA)
    for finder in finders:
        found = finder(trace)
        if not found.is_empty():
            break
    return found.sort("start_ns", maintain_order=True).with_columns(step_id=pl.int_range(pl.len(), dtype=pl.Int64))


def step_of_time(trace: Trace, frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` (start_ns, pid, tid of host calls) with the ``step_id`` whose host range holds ``start_ns``.

    Ranges of one process are matched across its threads; where its ranges overlap in time (several ranks as threads),
    thread by thread.
    """
    steps = marks(trace)
    if steps.is_empty():
        return frame.with_columns(step_id=pl.lit(None, pl.Int64))
    reach = pl.col("end_ns").cum_max().shift(1).over("pid", order_by="start_ns")
    overlapping = steps.select((pl.col("start_ns") < reach).any()).item()
    by = ["pid", "tid"] if overlapping else ["pid"]
    return intervals.holding(frame, "start_ns", steps, "step_id", by)


def step_of_gpu_time(trace: Trace, rows: pl.DataFrame) -> pl.DataFrame:
    """For traces without host calls: the step whose GPU range holds the row's start."""
    ranges = trace.loaded["annotations"].filter(pl.col("side") == "gpu")
    steps = marks(trace)
    if steps.is_empty():
        return rows.with_columns(step_id=pl.lit(None, pl.Int64))
    if ranges.is_empty():  # found on the GPU alone: the marks are GPU times
        return intervals.holding(rows, "start_ns", steps, "step_id", [])
    names = ranges.with_columns(
        end_ns=pl.col("start_ns") + pl.col("dur_ns"),
        nth=pl.int_range(pl.len()).over("name", order_by="start_ns"),
    )
    nth_mark = steps.with_columns(nth=pl.int_range(pl.len()).over("name", order_by="start_ns")).select(
        "name", "nth", "step_id"
    )
    gpu = names.join(nth_mark, on=["name", "nth"])
    return intervals.holding(rows, "start_ns", gpu, "step_id", ["device"])


@memoised
def steps(trace: Trace) -> pl.DataFrame:
    """The contract's ``steps``: the marks with what their work cost on the GPU."""
    from traceql.derived.gaps import gaps
    from traceql.derived.gpu_ops import gpu_ops
    from traceql.derived.graphs import graph_launches
    from traceql.derived.launches import launches
    from traceql.derived.step_shapes import step_shapes

    ops = gpu_ops(trace).filter(pl.col("step_id").is_not_null())
    is_launch = pl.col("gpu_ops") > 0
    calls = launches(trace).group_by("step_id").agg(
        launch_calls=(pl.col("kind") == "kernel").sum().cast(pl.Int64),
        graph_launches=(pl.col("kind") == "graph").sum().cast(pl.Int64),
        graph_segments=((pl.col("kind") == "graph") & is_launch).sum().cast(pl.Int64),
    )  # fmt: skip
    unrecorded = (
        graph_launches(trace).filter(pl.col("traced").is_null()).select("step_id", opaque=pl.lit(True)).unique()
    )
    work = ops.group_by("step_id").agg(
        gpu_start_ns=pl.col("start_ns").min(),
        gpu_end_ns=pl.col("end_ns").max(),
        kernels=(pl.col("kind") == "kernel").sum().cast(pl.Int64),
        gpu_ops=pl.len().cast(pl.Int64),
        device=pl.when(pl.col("device").n_unique() == 1).then(pl.col("device").first()),
    )
    busy = _busy(trace, ops)
    idle = gaps(trace).group_by("step_id").agg(gpu_idle_ns=pl.col("dur_ns").sum())
    counts = ["kernels", "gpu_ops", "launch_calls", "graph_launches", "graph_segments", "gpu_idle_ns"]
    joined = marks(trace)
    for part in (calls, work, busy, idle, unrecorded, step_shapes(trace)):
        joined = joined.join(part, on="step_id", how="left", maintain_order="left")
    known = pl.col("opaque").is_null()
    return joined.with_columns(
        pl.col(counts).fill_null(0),
        dur_ns=pl.col("end_ns") - pl.col("start_ns"),
        period_ns=_period(),
        gpu_dur_ns=pl.col("gpu_end_ns") - pl.col("gpu_start_ns"),
        rank=pl.lit(trace.rank, pl.Int64),
        tokens=pl.coalesce("tokens", "shape_tokens"),
        batch_size=pl.coalesce("batch_size", "shape_batch"),
        # one token a request is a decode; more may be a prefill or a mixed batch, which shapes do not tell apart
        kind=pl.coalesce("kind", pl.when(pl.col("shape_tokens") == pl.col("shape_batch")).then(pl.lit("decode"))),
    ).with_columns(
        gpu_busy_ns=pl.when(known).then(pl.col("gpu_busy_ns").fill_null(0)),
        gpu_idle_ns=pl.when(known).then("gpu_idle_ns"),
    )


def _busy(trace: Trace, ops: pl.DataFrame) -> pl.DataFrame:
    """step_id → ``gpu_busy_ns``: how long its devices were busy between its first GPU start and its last end.

    Work of other steps or of none that runs in that span counts: the device was busy.
    """
    from traceql.derived.gpu_ops import gpu_ops

    everything = gpu_ops(trace).filter(pl.col("device").is_not_null())
    spans = ops.group_by("step_id", "device").agg(first=pl.col("start_ns").min(), last=pl.col("end_ns").max())
    until = [intervals.busy_until(spans, edge, everything, ["device"]) for edge in ("first", "last")]
    return spans.with_columns(gpu_busy_ns=until[1] - until[0]).group_by("step_id").agg(pl.col("gpu_busy_ns").sum())


def _period() -> pl.Expr:
    """Start to the next start on the thread; the last one: to the end of its GPU work or its own, the later."""
    following = pl.col("start_ns").shift(-1).over("pid", "tid", order_by="start_ns")
    last = pl.max_horizontal("gpu_end_ns", "end_ns")
    return pl.coalesce(following, last) - pl.col("start_ns")
