"""Steps: one model forward each, and which step GPU work and host calls belong to."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.trace import Trace


@memoised
def marks(trace: Trace) -> pl.DataFrame:
    """Step ranges on the host with ``step_id`` in order of start, from the best evidence each process has; a process of
    several that shows too few steps is asked for those of the others."""
    from traceql.derived.steps_of_another import from_another

    own = _own_marks(trace)
    siblings = (trace,) if trace.part is None else trace.part.siblings
    examples = [(each, pid, found) for each in siblings for pid, found in _own_marks(each).items() if found.height]
    lacking = [pid for pid, found in own.items() if found.is_empty()] if examples else []
    every = pl.concat([*own.values(), *(from_another(trace, pid, examples) for pid in lacking)])
    if every.is_empty():  # too few in any one process
        every = _marks_of(trace, None)
    ordered = every.sort("start_ns", maintain_order=True)
    return ordered.with_columns(step_id=pl.int_range(pl.len(), dtype=pl.Int64))


@memoised
def _own_marks(trace: Trace) -> dict[int | None, pl.DataFrame]:
    """Process → step ranges as it shows them by itself."""
    return {pid: _marks_of(trace, pid) for pid in _processes(trace)}


def _processes(trace: Trace) -> list[int | None]:
    """The processes that put work on a GPU; ``[None]``, for all that is there, where that is not several."""
    from traceql.derived.launches import calls_with_gpu_work

    working = calls_with_gpu_work(trace).filter(pl.col("gpu_ops") > 0)["pid"].drop_nulls().unique().sort()
    return working.to_list() if len(working) > 1 else [None]


def _marks_of(trace: Trace, pid: int | None) -> pl.DataFrame:
    from traceql.derived import step_marks, step_structure

    finders = (
        step_marks.engine_marks, step_structure.from_ranges, step_marks.profiler_steps,
        step_structure.from_graph_replays, step_marks.ranges_on_gpu, step_structure.from_kernel_sequence,
    )  # fmt: skip
    found = pl.DataFrame(schema=step_marks.MARK_SCHEMA)
    for finder in finders:
        found = finder(trace, pid)
        if not found.is_empty():
            break
    return found


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
    """For GPU work that no host call can be joined to: the step whose GPU range holds the row's start.

    Marks that were found on the GPU are such ranges, else those the profiler drew there, the nth of a name for the nth mark
    on the host. Marks on the host alone do not tell: the GPU works behind the host.
    """
    steps = marks(trace)
    if steps.is_empty() or found_on_gpu(trace):
        return intervals.holding(rows, "start_ns", steps, "step_id", [])
    nth = pl.int_range(pl.len())
    nth_mark = steps.with_columns(nth=nth.over("name", order_by="start_ns")).select("name", "nth", "step_id")
    place = ["name", "device", "stream"]
    drawn = (
        trace.loaded["annotations"]
        .filter(pl.col("side") == "gpu")
        .with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"), nth=nth.over(place, order_by="start_ns"))
        .join(nth_mark, on=["name", "nth"])
    )
    return intervals.holding(rows, "start_ns", drawn, "step_id", ["device", "stream"])


@memoised
def found_on_gpu(trace: Trace) -> bool:
    """Whether the step marks are times on the GPU: no host call can be joined to GPU work, and none was marked there."""
    from traceql.derived.launches import launched_by

    unlinked = launched_by(trace)["launch_id"].null_count() == launched_by(trace).height
    host_marks = not trace.loaded["annotations"].filter(pl.col("side") == "cpu").is_empty()
    without_host = trace.loaded["runtime_calls"].is_empty() and not host_marks
    return unlinked and (without_host or bool((marks(trace)["found_by"] == "kernel_sequence").all()))


@memoised
def steps(trace: Trace) -> pl.DataFrame:
    """The contract's ``steps``: the marks with what their work cost on the GPU.

    Busy and idle time are those of the step's busiest device; null where replays left no record, and where no GPU work
    was recorded or none of it could be assigned to a step.
    """
    from traceql.derived.gpu_ops import gpu_ops
    from traceql.derived.graphs import graph_launches
    from traceql.derived.launches import launches
    from traceql.derived.step_devices import step_devices
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
    )
    on_devices = step_devices(trace)
    devices = on_devices.group_by("step_id").agg(devices=pl.len().cast(pl.Int64))
    times = ["gpu_busy_ns", "gpu_idle_ns", "lead_in_ns"]
    busiest = on_devices.filter("stands_for_step").select("step_id", "device", *times)
    counts = ["kernels", "gpu_ops", "launch_calls", "graph_launches", "graph_segments", "devices"]
    joined = marks(trace)
    for part in (calls, work, devices, busiest, unrecorded, step_shapes(trace)):
        joined = joined.join(part, on="step_id", how="left", maintain_order="left")
    known = pl.col("opaque").is_null() & (not ops.is_empty())
    return (
        joined.with_columns(
            pl.col(counts).fill_null(0),
            dur_ns=pl.lit(None, pl.Int64) if found_on_gpu(trace) else pl.col("end_ns") - pl.col("start_ns"),
            period_ns=_period(),
            gpu_dur_ns=pl.col("gpu_end_ns") - pl.col("gpu_start_ns"),
            rank=pl.lit(trace.rank, pl.Int64),
            tokens=pl.coalesce("tokens", "shape_tokens"),
            batch_size=pl.coalesce("batch_size", "shape_batch"),
            # one token a request is a decode; more may be a prefill or a mixed batch, which shapes do not tell apart
            kind=pl.coalesce("kind", pl.when(pl.col("shape_tokens") == pl.col("shape_batch")).then(pl.lit("decode"))),
        )
        .with_columns(pl.when(known).then(pl.col(times).fill_null(0)).name.keep())
        .with_columns(whole_ns=pl.max_horizontal("period_ns", pl.col("gpu_busy_ns") + pl.col("gpu_idle_ns")))
    )


def _period() -> pl.Expr:
    """Start to the next start on the thread; the last one: to the end of its GPU work or its own, the later."""
    following = pl.col("start_ns").shift(-1).over("pid", "tid", order_by="start_ns")
    last = pl.max_horizontal("gpu_end_ns", "end_ns")
    return pl.coalesce(following, last) - pl.col("start_ns")
