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
_DETAILS = (None, None, "op", "runtime", "range", "python", "idle")
"""gap_parts.detail of each class, where the cause is host."""


_CAUSES = ("profiler", "blocked", "graph launch", "launch", "host")
"""gap_parts.cause by its number here."""


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
    of_gap = _blames(trace, timeline, gaps, pieces.filter(~pl.col("in_launch") & (pl.col("class") > _WAIT)))
    of_gap = of_gap.with_columns(gaps["gap_id"], gaps["launch_name"], is_graph=gaps["launch_kind"] == "graph")
    cause = (
        pl.when(pl.col("class") == _PROFILER).then(0)
        .when(pl.col("class") == _WAIT).then(1)
        .when(pl.col("in_launch") & pl.col("is_graph")).then(2)
        .when(pl.col("in_launch")).then(3)
        .otherwise(4)
    )  # fmt: skip
    told = timeline.activities["name"].gather(pieces["told_by"])
    numbers = pl.concat([pieces, of_gap[pieces["gap"]]], how="horizontal").with_columns(told, cause=cause)
    is_host = pl.col("cause") == _CAUSES.index("host")
    parts = numbers.select(
        "gap_id",
        pl.Series(_CAUSES).gather(numbers["cause"]).alias("cause"),
        pl.when(is_host).then(pl.Series(_DETAILS).gather(numbers["class"])).alias("detail"),
        "start_ns",
        "end_ns",
        pl.when(is_host).then("blame").when("in_launch").then("launch_name").otherwise("name").alias("blame"),
    )
    return [parts, latency]


def _pieces(timeline: HostTimeline, stretches: pl.DataFrame) -> pl.DataFrame:
    """Each stretch cut where its launching thread's class of activity changes, and where the launch call starts.

    ``gap`` (row of the stretch), start_ns, end_ns, class, in_launch, and ``told_by``: the activity that names waits,
    overheads and ranges (null for the rest). A trace with stacks has millions of activities in its gaps: everything here
    is a number.
    """
    call = pl.col("launch_start").clip(pl.col("start_ns"), pl.col("end_ns"))
    found = stretches.select(_thread(timeline, stretches), "start_ns", "end_ns", call=call).with_row_index("gap")
    halves = (
        pl.concat(
            [
                found.with_columns(end_ns="call", in_launch=pl.lit(False)),
                found.with_columns(start_ns="call", in_launch=pl.lit(True)),
            ]
        )
        .filter(pl.col("end_ns") > pl.col("start_ns"), pl.col("thread").is_not_null())
        .with_columns(last_ns=pl.col("end_ns") - 1)
    )
    first, last = (timeline.piece_at(halves, at) for at in ("start_ns", "last_ns"))
    cut = halves.select(
        "gap", "in_launch", "start_ns", "end_ns", piece=pl.int_ranges(first, last + 1)
    ).explode("piece")  # fmt: skip
    piece = cut["piece"]
    starts, ends, activity = (timeline.pieces[c].gather(piece) for c in ("start_ns", "end_ns", "activity"))
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
        .pipe(runs, ["gap", "in_launch", "class", "told_by"])
    )


def _thread(timeline: HostTimeline, gaps: pl.DataFrame) -> pl.Series:
    """The timeline's number of each gap's launching thread, null for a thread without activities."""
    threads = timeline.threads.rename({"pid": "launch_pid", "tid": "launch_tid"})
    place = ["launch_pid", "launch_tid"]
    return gaps.select(place).join(threads, on=place, how="left", maintain_order="left", nulls_equal=True)["thread"]


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


def runs(pieces: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Neighbouring pieces, in order of time, that say the same in ``key`` and touch, as one."""
    changed = pl.any_horizontal(pl.col(c).ne_missing(pl.col(c).shift(1)) for c in key)
    touching = (pl.col("start_ns") == pl.col("end_ns").shift(1)).fill_null(False)
    begins = pieces.select(changed | ~touching).to_series()
    if begins.all():
        return pieces
    ends = pieces["end_ns"].filter(begins.shift(-1, fill_value=True))
    return pieces.filter(begins).with_columns(ends)


def _blames(trace: Trace, timeline: HostTimeline, gaps: pl.DataFrame, host: pl.DataFrame) -> pl.DataFrame:
    """``blame`` of every gap: the innermost op, range, frame or call that covers at least half of its host time.

    Whatever covers more than half of a stretch is open at its middle, so it is the activity there or one around it.
    Where that is only the step's own mark, the host code was not recorded: the range inside the gap that took most of
    it is named if it is a tenth, else the mark, with a note that nothing finer was recorded.
    """
    spans = (
        host.group_by("gap", maintain_order=True)
        .agg(start_ns=pl.col("start_ns").min(), end_ns=pl.col("end_ns").max())
        .with_columns(middle=(pl.col("start_ns") + pl.col("end_ns")) // 2)
    )
    activity = timeline.activity_at(spans.with_columns(_thread(timeline, gaps).gather(spans["gap"])), "middle").copy()
    start, end = spans["start_ns"].to_numpy(), spans["end_ns"].to_numpy()
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
    names = timeline.activities["name"].gather(intervals.rows_or_null(activity))
    marks = step_marks(trace)["name"].unique().drop_nulls()
    blames = (
        spans.select("gap", blame=names)
        .join(_largest_range(timeline, host, marks), on="gap", how="left", maintain_order="left")
        .select(
            "gap",
            pl.when(pl.col("blame").is_in(marks.implode()))
            .then(pl.coalesce("inner", pl.col("blame") + UNRECORDED))
            .otherwise(pl.col("blame").fill_null(UNCOVERED))
            .alias("blame"),
        )
    )
    every = gaps.select(pl.int_range(pl.len(), dtype=pl.UInt32).alias("gap"))
    return every.join(blames, on="gap", how="left", maintain_order="left").select("blame")


def _largest_range(timeline: HostTimeline, host: pl.DataFrame, marks: pl.Series) -> pl.DataFrame:
    """gap → ``inner``: the range, no step mark, that was innermost for most of the gap's host time, at least 10 %."""
    duration = pl.col("end_ns") - pl.col("start_ns")
    totals = host.group_by("gap").agg(total=duration.sum())
    ranges = host.filter(pl.col("class") == _RANGE)
    return (
        ranges.with_columns(inner=timeline.activities["name"].gather(ranges["told_by"]))
        .filter(~pl.col("inner").is_in(marks.implode()))
        .group_by("gap", "inner")
        .agg(own=duration.sum())
        .join(totals, on="gap")
        .filter(10 * pl.col("own") >= pl.col("total"))
        .sort("gap", pl.col("own") * -1, "inner")
        .unique("gap", keep="first", maintain_order=True)
        .select("gap", "inner")
    )
