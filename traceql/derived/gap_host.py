"""What the thread that launched the next GPU work was doing while the GPU had none."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import intervals
from traceql.derived.host import HostTimeline, host_timeline
from traceql.derived.steps import marks as step_marks
from traceql.trace import Trace

UNRECORDED = " (nothing finer recorded)"
"""Suffix of a blame that is only the step's own mark."""

UNCOVERED = "no host activity recorded"
"""Blame of host time in which the launching thread has no op, range, frame or call."""

_PROFILER, _WAIT, _OP, _RUNTIME, _RANGE, _PYTHON, _IDLE = range(7)
"""Classes of host activity, most telling first."""
_DETAIL = {_OP: "op", _RUNTIME: "runtime", _RANGE: "range", _PYTHON: "python", _IDLE: "idle"}
"""Class → gap_parts.detail where the cause is host."""


def host_parts(trace: Trace, gaps: pl.DataFrame) -> list[pl.DataFrame]:
    """Parts of the gaps whose launch call had not returned when the GPU ran dry.

    ``gaps``: gap_id, start_ns, end_ns and the launch of the work after them (launch_start, launch_end, launch_name,
    launch_kind, launch_pid, launch_tid). Before the call's start the host had other things to do, from there to its
    end it was launching, after that the launch was on its way.
    """
    if gaps.is_empty():
        return []
    timeline = host_timeline(trace)
    returned = pl.col("launch_end").clip(pl.col("start_ns"), pl.col("end_ns"))
    latency = gaps.select(
        "gap_id", pl.lit("launch latency").alias("cause"), pl.lit(None, pl.String).alias("detail"),
        returned.alias("start_ns"), "end_ns", pl.col("launch_name").alias("blame"),
    )  # fmt: skip
    pieces = _pieces(timeline, gaps.with_columns(end_ns=returned))
    before_call = pieces.filter(~pl.col("in_launch") & (pl.col("class") > _WAIT))
    blames = _blames(trace, timeline, before_call)
    launch = gaps.select("gap_id", "launch_name", is_graph=pl.col("launch_kind") == "graph")
    names = timeline.activities["name"].gather(pieces["told_by"])
    cause = (
        pl.when(pl.col("class") == _PROFILER).then(pl.lit("profiler"))
        .when(pl.col("class") == _WAIT).then(pl.lit("blocked"))
        .when(pl.col("in_launch") & pl.col("is_graph")).then(pl.lit("graph launch"))
        .when(pl.col("in_launch")).then(pl.lit("launch"))
        .otherwise(pl.lit("host"))
    )  # fmt: skip
    detail = pl.col("class").replace_strict(_DETAIL, default=None, return_dtype=pl.String)
    parts = (
        pieces.with_columns(names.alias("told"))
        .join(launch.unique("gap_id"), on="gap_id", how="left", maintain_order="left")
        .join(blames, on="gap_id", how="left", maintain_order="left")
        .with_columns(cause=cause)
        .select(
            "gap_id", "cause", pl.when(pl.col("cause") == "host").then(detail).alias("detail"), "start_ns", "end_ns",
            pl.when(pl.col("cause") == "host").then("blame").when(pl.col("in_launch")).then("launch_name").otherwise("told")
            .alias("blame"),
        )
    )  # fmt: skip
    return [parts, latency]


def _pieces(timeline: HostTimeline, stretches: pl.DataFrame) -> pl.DataFrame:
    """Each stretch cut where its launching thread's class of activity changes, and where the launch call starts.

    gap_id, thread, start_ns, end_ns, class, in_launch, and ``told_by``: the activity that names waits, overheads and
    ranges (null for the rest). A trace with stacks has millions of activities in its gaps: everything here is a number.
    """
    threads = timeline.activities.select("thread", launch_pid="pid", launch_tid="tid").unique()
    call = pl.col("launch_start").clip(pl.col("start_ns"), pl.col("end_ns"))
    halves = (
        pl.concat(
            [
                stretches.with_columns(end_ns=call, in_launch=pl.lit(False)),
                stretches.with_columns(start_ns=call, in_launch=pl.lit(True)),
            ]
        )
        .filter(pl.col("end_ns") > pl.col("start_ns"))
        .join(threads, on=["launch_pid", "launch_tid"], how="inner", nulls_equal=True)
        .select("gap_id", "thread", "start_ns", "end_ns", "in_launch", last_ns=pl.col("end_ns") - 1)
    )
    first, last = (_piece_at(timeline, halves, at) for at in ("start_ns", "last_ns"))
    cut = halves.drop("last_ns").with_columns(piece=pl.int_ranges(first, last + 1)).explode("piece")
    piece = cut["piece"]
    starts, ends, activity = (timeline.pieces[c].gather(piece) for c in ("start_ns", "end_ns", "activity_id"))
    kind = _classes(timeline).gather(activity.set(activity < 0, timeline.activities.height))
    telling = kind.is_in([_PROFILER, _WAIT, _RANGE])
    return (
        cut.drop("piece")
        .with_columns(
            start_ns=pl.max_horizontal("start_ns", starts),
            end_ns=pl.min_horizontal("end_ns", ends),
            told_by=pl.when(telling).then(activity),
            **{"class": kind},
        )
        .pipe(_runs)
    )


def _piece_at(timeline: HostTimeline, stretches: pl.DataFrame, at: str) -> pl.Series:
    """Row in ``timeline.pieces`` that holds time ``at`` of each stretch's thread; pieces cover all time."""
    right = timeline.pieces.select("thread", "piece", piece_start="start_ns").sort("piece_start")
    return (
        stretches.select("thread", at)
        .with_row_index("order")
        .sort(at, maintain_order=True)
        .join_asof(right, left_on=at, right_on="piece_start", by="thread", strategy="backward", check_sortedness=False)
        .sort("order")["piece"]
    )


def _classes(timeline: HostTimeline) -> pl.Series:
    """The class of every activity, and at the end that of "no activity"."""
    kind = pl.col("kind")
    classes = timeline.activities.select(
        pl.when(kind == "profiler").then(_PROFILER)
        .when(pl.col("waits")).then(_WAIT)
        .when(kind.is_in(["runtime", "driver"])).then(_RUNTIME)
        .when(pl.col("in_op")).then(_OP)
        .when(kind == "range").then(_RANGE)
        .otherwise(_PYTHON)
        .cast(pl.Int8)
        .alias("class")
    )["class"]  # fmt: skip
    return pl.concat([classes, pl.Series("class", [_IDLE], dtype=pl.Int8)])


def _runs(pieces: pl.DataFrame) -> pl.DataFrame:
    """Neighbouring pieces of one stretch that say the same as one."""
    key = ["gap_id", "in_launch", "class", "told_by"]
    changed = pl.any_horizontal(pl.col(c).ne_missing(pl.col(c).shift(1)) for c in key)
    touching = pl.col("start_ns") == pl.col("end_ns").shift(1)
    return (
        pieces.with_columns(run=(changed | ~touching.fill_null(False)).cum_sum())
        .group_by("run", maintain_order=True)
        .agg(pl.col(*key, "thread").first(), pl.col("start_ns").first(), pl.col("end_ns").last())
        .drop("run")
    )


def _blames(trace: Trace, timeline: HostTimeline, host: pl.DataFrame) -> pl.DataFrame:
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
    is_wait = timeline.activities["waits"].to_numpy()
    open_ = np.flatnonzero(activity >= 0)
    while len(open_):
        row = activity[open_]
        covered = np.minimum(ends[row], end[open_]) - np.maximum(begins[row], start[open_])
        short = (2 * covered < end[open_] - start[open_]) | is_wait[row]
        activity[open_[short]] = parent[row[short]]
        open_ = open_[short]
        open_ = open_[activity[open_] >= 0]
    names = timeline.activities["name"]
    marks = step_marks(trace)["name"].unique().drop_nulls()
    chosen = pl.Series(activity, dtype=pl.Int64)
    return (
        spans.select("gap_id", blame=names.gather(chosen.set(chosen < 0, None)))
        .join(_largest_range(timeline, host, marks), on="gap_id", how="left", maintain_order="left")
        .select(
            "gap_id",
            pl.when(pl.col("blame").is_in(marks.implode()))
            .then(pl.coalesce("inner", pl.col("blame") + UNRECORDED))
            .otherwise(pl.col("blame").fill_null(UNCOVERED))
            .alias("blame"),
        )
    )


def _largest_range(timeline: HostTimeline, host: pl.DataFrame, marks: pl.Series) -> pl.DataFrame:
    """gap_id → ``inner``: the range, no step mark, that was innermost for most of the gap's host time, at least 10 %."""
    duration = pl.col("end_ns") - pl.col("start_ns")
    totals = host.group_by("gap_id").agg(total=duration.sum())
    ranges = host.filter(pl.col("class") == _RANGE)
    return (
        ranges.with_columns(inner=timeline.activities["name"].gather(ranges["told_by"]))
        .filter(~pl.col("inner").is_in(marks.implode()))
        .group_by("gap_id", "inner")
        .agg(own=duration.sum())
        .join(totals, on="gap_id")
        .filter(10 * pl.col("own") >= pl.col("total"))
        .sort("gap_id", pl.col("own") * -1, "inner")
        .unique("gap_id", keep="first", maintain_order=True)
        .select("gap_id", "inner")
    )
