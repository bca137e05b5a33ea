"""Device idle time: every gap, split by what held up the work that ended it."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host import HostTimeline, host_timeline
from traceql.derived.launches import launches
from traceql.derived.steps import marks as step_marks
from traceql.trace import Trace

_FAR = 2**62

UNRECORDED = " (nothing finer recorded)"
"""Suffix of a blame that is only the step's own mark."""

UNCOVERED = "no host activity recorded"
"""Blame of host time in which the launching thread has no op, range, frame or call."""


@memoised
def _gaps(trace: Trace) -> pl.DataFrame:
    """One row a gap: place, neighbours, and the launch call of the work that ended it."""
    ops = gpu_ops(trace).filter(pl.col("device").is_not_null())
    reaches = pl.col("end_ns") == pl.col("end_ns").cum_max()
    first_of_launch = pl.col("gpu_op_id").min().over("launch_id") == pl.col("gpu_op_id")
    before = pl.when(reaches).then("gpu_op_id").forward_fill().shift(1).over("device", order_by=["start_ns", "end_ns"])
    with_before = ops.with_columns(before_op_id=before, first_of_launch=first_of_launch)
    found = intervals.idle(with_before, ["device"]).sort("device", "start_ns", maintain_order=True)
    calls = launches(trace).select(
        "launch_id", launch_name="name", launch_start="start_ns",
        launch_end=pl.col("start_ns") + pl.col("dur_ns"), launch_pid="pid", launch_tid="tid",
    )  # fmt: skip
    names = ops.select(before_op_id="gpu_op_id", before="name")
    return (
        found.select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("gap_id"),
            "rank", "device", "before_op_id", "launch_id", "launch_kind", "first_of_launch", "step_id",
            start_ns="gap_start_ns", dur_ns="gap_ns", end_ns="start_ns", after="name", after_op_id="gpu_op_id",
        )
        .join(names, on="before_op_id", how="left", maintain_order="left")
        .join(calls, on="launch_id", how="left", maintain_order="left")
        .pipe(_assigned_to_steps, ops)
    )  # fmt: skip


def _assigned_to_steps(gaps: pl.DataFrame, ops: pl.DataFrame) -> pl.DataFrame:
    """A gap belongs to the step of the work after it; between two steps, to the one that follows.

    Before a device's first step and after its last there is no step: warm-up and what follows is not a step's loss.
    """
    spans = (
        ops.filter(pl.col("step_id").is_not_null())
        .group_by("device", "step_id")
        .agg(first=pl.col("start_ns").min(), last=pl.col("end_ns").max())
        .sort("first")
    )
    if spans.is_empty():
        return gaps
    bounds = spans.group_by("device").agg(first_step=pl.col("first").min())
    following = (
        gaps.select("gap_id", "device", "end_ns")
        .sort("end_ns")
        .join_asof(
            spans.select("device", "first", next_step="step_id"),
            left_on="end_ns", right_on="first", by="device", strategy="forward", check_sortedness=False,
        )
        .join(bounds, on="device", how="left")
        .select("gap_id", "next_step", "first_step")
    )  # fmt: skip
    between = pl.col("start_ns") >= pl.col("first_step")
    return (
        gaps.join(following, on="gap_id", how="left", maintain_order="left")
        .with_columns(step_id=pl.when(between).then(pl.coalesce("step_id", "next_step")))
        .drop("next_step", "first_step")
    )


@memoised
def gap_parts(trace: Trace) -> pl.DataFrame:
    """The contract's ``gap_parts``: each gap cut by cause, in order of time; parts of a gap add up to it exactly."""
    found = _gaps(trace)
    visible = _outside_opaque(found, opaque_windows(trace))
    hidden = _opaque_parts(found, opaque_windows(trace))
    whole = _whole_gap_cause()
    parts = [
        hidden,
        visible.with_columns(cause=whole).filter(pl.col("cause").is_not_null()).select(_PART),
        *_host_parts(trace, visible.filter(whole.is_null())),
    ]
    order = ["gap_id", "start_ns"]
    return pl.concat(parts).filter(pl.col("end_ns") > pl.col("start_ns")).sort(order).pipe(_merged)


_PART = [
    pl.col("gap_id"), pl.col("cause"), pl.lit(None, pl.String).alias("detail"), pl.col("start_ns"), pl.col("end_ns"),
    pl.lit(None, pl.String).alias("blame"),
]  # fmt: skip


def _whole_gap_cause() -> pl.Expr:
    """The causes that take a whole gap; null for the gaps that the host's doings split."""
    return (
        pl.when(pl.col("launch_start").is_null())
        .then(pl.lit("unknown"))
        .when((pl.col("launch_kind") == "graph") & ~pl.col("first_of_launch"))
        .then(pl.lit("in-graph"))
        .when(pl.col("launch_end") <= pl.col("gap_start"))
        .then(pl.lit("device latency"))
    )


# --- replays that left no record --------------------------------------------------------------------------------


@memoised
def opaque_windows(trace: Trace) -> pl.DataFrame:
    """When a replay without device record may have run: device, start_ns, end_ns; disjoint, sorted.

    From its launch call to the end of the next synchronising call on that thread: the work is done by then. With no
    such call, to the end of the trace. The call does not say its device: every device of the process is meant.
    """
    calls = launches(trace)
    unrecorded = calls.filter((pl.col("kind") == "graph") & (pl.col("gpu_ops") == 0))
    if unrecorded.is_empty():
        return pl.DataFrame(schema={"device": pl.Int64, "start_ns": pl.Int64, "end_ns": pl.Int64})
    name = pl.col("name")
    waits = (
        trace.loaded["runtime_calls"]
        .filter(name.str.contains(api.SYNCHRONIZE) | (name.str.contains(api.MEMCPY) & ~name.str.contains("Async")))
        .select("pid", "tid", wait_start="start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"))
        .sort("wait_start")
    )
    devices = gpu_ops(trace).select("pid", "device").drop_nulls().unique()
    return (
        unrecorded.select("pid", "tid", "start_ns")
        .sort("start_ns")
        .join_asof(
            waits,
            left_on="start_ns",
            right_on="wait_start",
            by=["pid", "tid"],
            strategy="forward",
            check_sortedness=False,
        )
        .with_columns(pl.col("end_ns").fill_null(_FAR))
        .join(devices, on="pid")
        .sort("device", "start_ns")
        .with_columns(new=(pl.col("start_ns") > pl.col("end_ns").cum_max().shift(1).over("device")).fill_null(True))
        .with_columns(window=pl.col("new").cum_sum().over("device"))
        .group_by("device", "window", maintain_order=True)
        .agg(pl.col("start_ns").min(), pl.col("end_ns").max())
        .drop("window")
    )


def _overlaps(gaps: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """Each (gap, window) overlap as start_ns, end_ns with gap_id."""
    return (
        gaps.select("gap_id", "device", gap_start="start_ns", gap_end="end_ns")
        .join(windows, on="device")
        .filter((pl.col("start_ns") < pl.col("gap_end")) & (pl.col("end_ns") > pl.col("gap_start")))
        .select(
            "gap_id",
            start_ns=pl.max_horizontal("start_ns", "gap_start"),
            end_ns=pl.min_horizontal("end_ns", "gap_end"),
        )
        .sort("gap_id", "start_ns")
    )


def _opaque_parts(gaps: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    return _overlaps(gaps, windows).with_columns(cause=pl.lit("opaque replay")).select(_PART)


def _outside_opaque(gaps: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """The stretches of each gap outside the windows; a gap without any is one stretch. Keeps ``gap_start``."""
    plain = gaps.with_columns(gap_start="start_ns")
    if windows.is_empty():
        return plain
    hidden = _overlaps(gaps, windows)
    edges = pl.concat(
        [
            gaps.select("gap_id", start_ns="start_ns"),
            hidden.select("gap_id", start_ns="end_ns"),
        ]
    ).sort("gap_id", "start_ns")
    stops = pl.concat([hidden.select("gap_id", end_ns="start_ns"), gaps.select("gap_id", "end_ns")]).sort(
        "gap_id", "end_ns"
    )
    stretches = edges.with_columns(stops.get_column("end_ns")).filter(pl.col("end_ns") > pl.col("start_ns"))
    return stretches.join(plain.drop("start_ns", "end_ns"), on="gap_id", how="left", maintain_order="left")


# --- what the launching thread did ------------------------------------------------------------------------------


def _host_parts(trace: Trace, gaps: pl.DataFrame) -> list[pl.DataFrame]:
    """Parts of the gaps whose launch call had not returned when the GPU ran dry."""
    if gaps.is_empty():
        return []
    timeline = host_timeline(trace)
    returned = pl.col("launch_end").clip(pl.col("start_ns"), pl.col("end_ns"))
    latency = gaps.select(
        "gap_id", pl.lit("launch latency").alias("cause"), pl.lit(None, pl.String).alias("detail"),
        returned.alias("start_ns"), "end_ns", pl.col("launch_name").alias("blame"),
    )  # fmt: skip
    busy = _cut_by_pieces(timeline, gaps.with_columns(end_ns=returned))
    in_launch = pl.col("start_ns") >= pl.col("launch_start")
    is_runtime = pl.col("kind") == "runtime"
    blocking = pl.col("name").str.contains(api.SYNCHRONIZE) | (
        pl.col("name").str.contains(api.MEMCPY) & ~pl.col("name").str.contains("Async")
    )
    cause = (
        pl.when(pl.col("kind") == "profiler")
        .then(pl.lit("profiler"))
        .when(is_runtime & blocking)
        .then(pl.lit("blocked"))
        .when(in_launch & (pl.col("launch_kind") == "graph"))
        .then(pl.lit("graph launch"))
        .when(in_launch)
        .then(pl.lit("launch"))
        .otherwise(pl.lit("host"))
    )
    inside_op = pl.col("in_op").fill_null(False) & ~is_runtime
    what = pl.when(inside_op).then(pl.lit("op")).otherwise(pl.col("kind").fill_null("idle"))
    detail = pl.when(pl.col("cause") == "host").then(what)
    split = busy.with_columns(cause=cause).with_columns(detail=detail)
    blames = _host_blame(trace, timeline, split.filter(pl.col("cause") == "host"))
    parts = split.join(blames, on="gap_id", how="left", maintain_order="left").select(
        "gap_id", "cause", "detail", "start_ns", "end_ns",
        blame=pl.when(pl.col("cause") == "host").then("blame")
        .when(pl.col("cause").is_in(["launch", "graph launch"])).then("launch_name")
        .otherwise("name"),
    )  # fmt: skip
    return [parts, latency]


def _cut_by_pieces(timeline: HostTimeline, stretches: pl.DataFrame) -> pl.DataFrame:
    """Each stretch cut where the launching thread's innermost activity changes.

    Adds ``kind`` and ``name`` of that activity (null where none was recorded), also cuts at ``launch_start``.
    """
    threads = timeline.activities.select("thread", launch_pid="pid", launch_tid="tid").unique()
    pieces = _filled(timeline.pieces)
    before_launch = pl.col("launch_start").clip(pl.col("start_ns"), pl.col("end_ns"))
    halves = pl.concat(
        [stretches.with_columns(end_ns=before_launch), stretches.with_columns(start_ns=before_launch)]
    ).filter(pl.col("end_ns") > pl.col("start_ns"))
    on_thread = halves.join(threads, on=["launch_pid", "launch_tid"], how="inner", nulls_equal=True)
    right = pieces.select("thread", "piece", piece_start="start_ns").sort("piece_start")

    def piece_at(at: pl.Expr, name: str) -> pl.DataFrame:
        return (
            on_thread.with_columns(at.alias("_at"))
            .sort("_at")
            .join_asof(
                right,
                left_on="_at",
                right_on="piece_start",
                by="thread",
                strategy="backward",
                check_sortedness=False,
            )
            .select("gap_id", "start_ns", pl.col("piece").alias(name))
        )

    key = ["gap_id", "start_ns"]
    first, last = piece_at(pl.col("start_ns"), "first"), piece_at(pl.col("end_ns") - 1, "last")
    names = timeline.activities.select("activity_id", "kind", "name", "in_op")
    return (
        on_thread.join(first, on=key).join(last, on=key)
        .with_columns(piece=pl.int_ranges("first", pl.col("last") + 1))
        .explode("piece")
        .join(pieces.select("piece", "activity_id", piece_start="start_ns", piece_end="end_ns"), on="piece", how="left")
        .with_columns(start_ns=pl.max_horizontal("start_ns", "piece_start"), end_ns=pl.min_horizontal("end_ns", "piece_end"))
        .join(names, on="activity_id", how="left", maintain_order="left")
    )  # fmt: skip


def _filled(pieces: pl.DataFrame) -> pl.DataFrame:
    """``pieces`` with the time between them, before the first and after the last as pieces of no activity."""
    following = pl.col("start_ns").shift(-1, fill_value=_FAR).over("thread", order_by="start_ns")
    nothing = pl.lit(None, pl.Int64).alias("activity_id")
    after = pieces.select("thread", pl.col("end_ns").alias("start_ns"), following.alias("end_ns"), nothing)
    head = (
        pieces.group_by("thread")
        .agg(end_ns=pl.col("start_ns").min())
        .select("thread", pl.lit(-_FAR).alias("start_ns"), "end_ns", nothing)
    )
    return (
        pl.concat([pieces, after.filter(pl.col("end_ns") > pl.col("start_ns")), head])
        .sort("thread", "start_ns")
        .with_columns(piece=pl.int_range(pl.len(), dtype=pl.Int64))
    )


def _host_blame(trace: Trace, timeline: HostTimeline, host: pl.DataFrame) -> pl.DataFrame:
    """gap_id → the innermost op, range, frame or call that covers at least half of the gap's host time.

    Whatever covers more than half of a stretch is open at its middle, so it is the activity there or one around it.
    Where that is only the step's own mark, the host code was not recorded: the range inside the gap that took most of
    it is named if it is a tenth, else the mark, with a note that nothing finer was recorded.
    """
    spans = host.group_by("gap_id", maintain_order=True).agg(
        start_ns=pl.col("start_ns").min(), end_ns=pl.col("end_ns").max(), thread=pl.col("thread").first()
    )
    middle = spans.with_columns(middle=(pl.col("start_ns") + pl.col("end_ns")) // 2)
    at = intervals.holding(middle, "middle", timeline.pieces, "activity_id", ["thread"])
    start, end = spans["start_ns"].to_numpy(), spans["end_ns"].to_numpy()
    activity = at["activity_id"].fill_null(-1).to_numpy().copy()
    begins, ends, parent = (timeline.column(c) for c in ("start_ns", "end_ns", "parent"))
    waiting = (timeline.activities["kind"] == "runtime") & timeline.activities["name"].str.contains(api.SYNCHRONIZE)
    is_wait = waiting.to_numpy()
    open_ = np.flatnonzero(activity >= 0)
    while len(open_):
        row = activity[open_]
        covered = np.minimum(ends[row], end[open_]) - np.maximum(begins[row], start[open_])
        short = (2 * covered < end[open_] - start[open_]) | is_wait[row]
        activity[open_[short]] = parent[row[short]]
        open_ = open_[short]
        open_ = open_[activity[open_] >= 0]
    marks = step_marks(trace)["name"].unique().drop_nulls()
    names = timeline.activities.select("activity_id", blame="name", is_mark=pl.col("name").is_in(marks.implode()))
    return (
        spans.select("gap_id", activity_id=pl.Series(activity, dtype=pl.Int64))
        .join(names, on="activity_id", how="left", maintain_order="left")
        .join(_largest_range(host, marks), on="gap_id", how="left", maintain_order="left")
        .select(
            "gap_id",
            pl.when(pl.col("is_mark"))
            .then(pl.coalesce("inner", pl.col("blame") + UNRECORDED))
            .otherwise(pl.col("blame").fill_null(UNCOVERED))
            .alias("blame"),
        )
    )


def _largest_range(host: pl.DataFrame, marks: pl.Series) -> pl.DataFrame:
    """gap_id → ``inner``: the range, no step mark, that was innermost for most of the gap's host time, at least 10 %."""
    duration = pl.col("end_ns") - pl.col("start_ns")
    totals = host.group_by("gap_id").agg(total=duration.sum())
    return (
        host.filter((pl.col("kind") == "range") & ~pl.col("name").is_in(marks.implode()))
        .group_by("gap_id", inner="name")
        .agg(own=duration.sum())
        .join(totals, on="gap_id")
        .filter(10 * pl.col("own") >= pl.col("total"))
        .sort("gap_id", pl.col("own") * -1, "inner")
        .unique("gap_id", keep="first", maintain_order=True)
        .select("gap_id", "inner")
    )


def _merged(parts: pl.DataFrame) -> pl.DataFrame:
    """Neighbouring parts of one gap with the same cause, detail and blame as one."""
    key = ["gap_id", "cause", "detail", "blame"]
    run = pl.struct(key).rle_id()
    return (
        parts.with_columns(run=run)
        .group_by("run", maintain_order=True)
        .agg(pl.col(key).first(), pl.col("start_ns").min(), end_ns=pl.col("end_ns").max())
        .with_columns(dur_ns=pl.col("end_ns") - pl.col("start_ns"))
        .drop("run")
    )


@memoised
def gaps(trace: Trace) -> pl.DataFrame:
    """The contract's ``gaps``, with the dominant cause and its blame."""
    by_cause = (
        gap_parts(trace)
        .group_by("gap_id", "cause", maintain_order=True)
        .agg(total=pl.col("dur_ns").sum(), blame=pl.col("blame").drop_nulls().first())
        .sort("gap_id", pl.col("total") * -1, maintain_order=True)
        .unique("gap_id", keep="first", maintain_order=True)
    )
    return _gaps(trace).join(
        by_cause.select("gap_id", "cause", "blame"), on="gap_id", how="left", maintain_order="left"
    )
