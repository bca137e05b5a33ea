"""What the dependency graphs of steps are made of: host calls in their periods, and the device's work in order."""

from __future__ import annotations

import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host_calls import blocking_copies
from traceql.derived.launches import launches
from traceql.derived.steps import steps
from traceql.trace import Trace

NO_RECORD = "its graph replays left no device record"
NO_WORK = "no GPU work is linked to it"
NO_CALLS = "the calls that launched its GPU work are not in the trace"
SEVERAL_DEVICES = "it works on several devices"
OTHER_THREADS = "other threads than the step's own launched most of its GPU work"
CONTRADICTION = "its times contradict each other: work begins before its launch, or a wait ends before its cause"
"""Why a step has no graph; each completes "step N has no model because …"."""

MARK = ["pid", "tid"]
_PLACE = ["device", "start_ns", "end_ns", "gpu_op_id"]


def windows_of(trace: Trace, step_ids: tuple[int, ...] | None) -> tuple[pl.DataFrame, dict[int, str]]:
    """step_id, pid, tid, start_ns, end_ns, period_ns of the steps that may have a graph; why the others have none."""
    every = steps(trace).select(
        "step_id", "pid", "tid", "start_ns", "period_ns", "gpu_busy_ns", "gpu_ops",
        end_ns=pl.col("start_ns") + pl.col("period_ns"),
    )  # fmt: skip
    asked = every if step_ids is None else every.filter(pl.col("step_id").is_in(list(step_ids)))
    no_calls = launches(trace).is_empty()
    told = asked.with_columns(
        why=pl.when((pl.col("gpu_ops") == 0) | (pl.col("period_ns") <= 0).fill_null(True))
        .then(pl.lit(NO_WORK))
        .when(pl.lit(no_calls))
        .then(pl.lit(NO_CALLS))
        .when(pl.col("gpu_busy_ns").is_null())
        .then(pl.lit(NO_RECORD))
    )
    refused = told.filter(pl.col("why").is_not_null()).select("step_id", "why")
    kept = told.filter(pl.col("why").is_null()).drop("why", "gpu_busy_ns", "gpu_ops")
    return kept.sort("start_ns", "step_id"), dict(refused.rows())


def _step_of(trace: Trace, calls: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """``calls`` with the step whose period holds their start: of their process, or of their thread where the periods of a
    process overlap (several ranks as threads)."""
    period = steps(trace).select("pid", "start_ns", end_ns=pl.col("start_ns") + pl.col("period_ns"))
    reach = pl.col("end_ns").cum_max().shift(1).over("pid", order_by="start_ns")
    overlapping = period.select((pl.col("start_ns") < reach).any()).item()
    by = MARK if overlapping else ["pid"]
    held = intervals.holding(calls, "start_ns", windows, "step_id", by)
    return held.filter(pl.col("step_id").is_not_null())


@memoised
def _host_calls(trace: Trace) -> pl.DataFrame:
    """Launch calls with GPU work and synchronising calls: kind, name, pid, tid, start_ns, end_ns, launch_id, call_id, blocks."""
    columns = ["name", "pid", "tid", "start_ns", "dur_ns", "call_id"]
    calls = launches(trace).filter(pl.col("gpu_ops") > 0).select(*columns, "launch_id", kind=pl.lit("launch"))
    name = trace.loaded["runtime_calls"]["name"]
    waiting = pl.DataFrame({"name": name.unique()}).filter(pl.col("name").str.contains(api.SYNCHRONIZE))["name"]
    waits = (
        trace.loaded["runtime_calls"]
        .filter(pl.col("name").is_in(waiting.implode()))
        .select(*columns, launch_id=pl.lit(None, pl.Int64), kind=pl.lit("wait"))
    )
    copies = blocking_copies(trace)["call_id"].implode()
    return pl.concat([calls, waits]).with_columns(
        end_ns=pl.col("start_ns") + pl.col("dur_ns"),
        blocks=(pl.col("kind") == "wait") | pl.col("call_id").is_in(copies),
    )


def events_of(trace: Trace, windows: pl.DataFrame) -> pl.DataFrame:
    """``_host_calls`` of the steps, thread by thread in order, with ``event`` (the row), step_id, ``main`` (on the thread
    of the step's mark), ``before_ns`` (when the thread was done with the call before, or the period began) and ``first``.

    A call inside another (a wait inside a copy) is the outer one's time.
    """
    if windows.is_empty():
        span = _host_calls(trace).clear()
    else:
        first, last = windows["start_ns"].min(), windows["end_ns"].max()
        span = _host_calls(trace).filter(pl.col("start_ns").is_between(first, last, closed="left"))
    thread = ["step_id", *MARK]
    held = _step_of(trace, span, windows).sort(*thread, "start_ns", pl.col("end_ns") * -1)
    outermost = (pl.col("start_ns") >= pl.col("end_ns").cum_max().shift(1).over(thread)).fill_null(True)
    mark = windows.select("step_id", mark_pid="pid", mark_tid="tid", begin_ns="start_ns")
    return (
        held.filter(outermost)
        .join(mark, on="step_id", how="left", maintain_order="left")
        .with_columns(
            event=pl.int_range(pl.len(), dtype=pl.Int64),
            main=pl.col("pid").eq_missing(pl.col("mark_pid")) & pl.col("tid").eq_missing(pl.col("mark_tid")),
            before_ns=pl.coalesce(pl.col("end_ns").shift(1).over(thread), "begin_ns"),
        )
        .with_columns(previous_event=pl.col("event").shift(1).over(thread))
        .drop("mark_pid", "mark_tid")
    )


@memoised
def device_order(trace: Trace) -> pl.DataFrame:
    """GPU work in the order each device began it, with running sums over the device.

    ``begin_ns``: when it began to add to the device's busy time; ``exec_ns``: how much it adds; ``gap_ns``: idle time
    before it; ``reach_ns``: the latest end up to it; ``busy_before_ns`` and ``idle_ns``: busy time before it began, idle
    time up to then.
    """
    rows = gpu_ops(trace).filter(pl.col("device").is_not_null()).sort(_PLACE)
    reached = pl.col("end_ns").cum_max().over("device")
    return (
        rows.select(*_PLACE, "launch_id", "name", reach_ns=reached, place=pl.int_range(pl.len(), dtype=pl.Int64))
        .with_columns(before_ns=pl.col("reach_ns").shift(1).over("device"))
        .with_columns(
            begin_ns=pl.max_horizontal("start_ns", "before_ns"),
            gap_ns=(pl.col("start_ns") - pl.col("before_ns")).clip(lower_bound=0).fill_null(0),
        )
        .with_columns(exec_ns=(pl.col("end_ns") - pl.col("begin_ns")).clip(lower_bound=0))
        .with_columns(
            busy_before_ns=(pl.col("exec_ns").cum_sum() - pl.col("exec_ns")).over("device"),
            idle_ns=pl.col("gap_ns").cum_sum().over("device"),
            first_of_launch=pl.col("launch_id").is_first_distinct() & pl.col("launch_id").is_not_null(),
        )
    )


def operations_of(trace: Trace, events: pl.DataFrame) -> pl.DataFrame:
    """``device_order`` of the work these events launched, with ``op`` (the row), step_id, its event, call_start and
    call_end, and ``queued``: its call had returned when the device ran out of other work, or an earlier node of the same
    replay came before it, so that no launch held it up."""
    calls = events.filter(pl.col("launch_id").is_not_null()).select(
        "launch_id", "event", "step_id", "pid", "tid", "main", call_start="start_ns", call_end="end_ns"
    )
    return (
        device_order(trace)
        .join(calls, on="launch_id", how="inner", maintain_order="left")
        .sort("step_id", "device", "place")
        .with_columns(
            op=pl.int_range(pl.len(), dtype=pl.Int64),
            queued=~pl.col("first_of_launch") | (pl.col("call_end") <= pl.col("before_ns")).fill_null(False),
        )
    )


def sound(windows: pl.DataFrame, ops: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, str]]:
    """The windows whose work the chains describe, and why others are refused."""
    told = windows.select("step_id").join(
        ops.group_by("step_id").agg(devices=pl.col("device").n_unique(), own=pl.col("main").mean()),
        on="step_id", how="left", maintain_order="left",
    ).with_columns(
        why=pl.when(pl.col("own").is_null())
        .then(pl.lit(NO_CALLS))
        .when(pl.col("devices") > 1)
        .then(pl.lit(SEVERAL_DEVICES))
        .when(pl.col("own") < 0.5)
        .then(pl.lit(OTHER_THREADS))
    )  # fmt: skip
    refused = told.filter(pl.col("why").is_not_null()).select("step_id", "why")
    return windows.join(refused, on="step_id", how="anti", maintain_order="left"), dict(refused.rows())
