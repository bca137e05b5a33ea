"""What each host thread was doing at every moment: one nested tree of activities a thread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.module_ranges import displayed
from traceql.derived.naming import Names
from traceql.trace import Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEVEL = {"python": 0, "range": 1, "op": 2, "runtime": 3, "driver": 4, "profiler": 4}
"""Kinds of activity; of two with the same span the one with the lower number is the outer."""
_KINDS = pl.Enum(list(_LEVEL))

CUDA_ITSELF = r"(?i)driver compiler|module loading|lazy function loading|command buffer full"
"""CUPTI's kinds of overhead that are CUDA's own and happen without a profiler too: compiling and loading code on first use,
and launches that wait for room in the queue (CUPTI documentation, CUpti_ActivityOverheadKind)."""

_NEXT_CALL_WITHIN_NS = 1_000_000
"""CUPTI works before the call it delays is timed: that call starts within a millisecond of the overhead's end."""


@dataclass(frozen=True)
class HostTimeline:
    """Activities and the pieces each thread's time falls into.

    ``activities``: kind (python, range, op, runtime, driver, profiler), source_id, name, thread, start_ns, end_ns, parent
    (row of the activity around it, −1 at the top), in_op (an operator or inside one), sorted by (thread, start);
    ``waits``, whether it is a call that waits for the GPU.
    ``pieces``: thread, start_ns, end_ns, activity (row of the innermost one, −1 where nothing was recorded); sorted,
    disjoint, and together all time of each thread.
    ``threads``: pid and tid of each ``thread``, a dense number.
    """

    activities: pl.DataFrame
    pieces: pl.DataFrame
    threads: pl.DataFrame

    def column(self, name: str) -> NDArray[np.int64]:
        return self.activities[name].to_numpy()

    @cached_property
    def names(self) -> Names:
        """What the activities are called."""
        return Names.of(self.activities["name"])

    @cached_property
    def _starts(self) -> intervals.Starts:
        return intervals.Starts(self.pieces, ["thread"])

    def piece_at(self, points: pl.DataFrame, at: str) -> pl.Series:
        """Row of the piece that holds ``at`` on each point's ``thread``; null for a thread without activities."""
        return self._starts.last(points, at)

    def activity_at(self, points: pl.DataFrame, at: str) -> NDArray[np.int64]:
        """Row of the innermost activity at ``at`` on each point's ``thread``, −1 for none."""
        activity: NDArray[np.int64] = self.pieces["activity"].gather(self.piece_at(points, at)).fill_null(-1).to_numpy()
        return activity

    def spent(self, windows: pl.DataFrame, part: NDArray[np.int8], parts: int) -> NDArray[np.int64]:
        """How long the innermost activity was of each ``part`` (given for every activity, −1 for none) in each window
        (thread, start_ns, end_ns), ns: a row a window, a column a part."""
        first = self.piece_at(windows, "start_ns").fill_null(self.pieces.height).to_numpy()
        return intervals.spent(self.pieces, first, windows["start_ns"], windows["end_ns"], part, parts)


@memoised
def host_timeline(trace: Trace) -> HostTimeline:
    """The nested activities of every thread that has any."""
    frames = [
        _activities(trace.loaded["python_calls"], "python", "python_call_id"),
        _activities(_ranges(trace), "range", "annotation_id"),
        _activities(trace.loaded["cpu_ops"], "op", "op_id"),
        _activities(trace.loaded["runtime_calls"], "runtime", "call_id"),
        placed_overheads(trace).select(
            kind=pl.when(pl.col("kind").str.contains(CUDA_ITSELF)).then(pl.lit("driver")).otherwise(pl.lit("profiler")),
            source_id=pl.lit(-1, pl.Int64), name="kind", waits=pl.lit(False), pid="pid", tid="tid",
            start_ns="start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"),
        ),
    ]  # fmt: skip
    lasting = pl.col("tid").is_not_null() & (pl.col("end_ns") > pl.col("start_ns"))
    unsorted = pl.concat(frame.filter(lasting) for frame in frames).with_columns(pl.col("kind").cast(_KINDS))
    thread = unsorted.select(thread=pl.struct("pid", "tid").rank("dense").cast(pl.Int64))
    threads = pl.concat([thread, unsorted.select("pid", "tid")], how="horizontal").unique()
    level = pl.col("kind").replace_strict(_LEVEL, return_dtype=pl.Int8)
    numbered = pl.concat([thread, unsorted.drop("pid", "tid")], how="horizontal")
    del unsorted  # a trace with stacks has millions of rows here
    order = pl.arg_sort_by("thread", "start_ns", pl.col("end_ns") * -1, level, maintain_order=True)
    sorted_ = numbered[numbered.select(order).to_series()]
    del numbered
    starts, ends, group = (sorted_[c].to_numpy() for c in ("start_ns", "end_ns", "thread"))
    parent = intervals.parents(starts, ends, group)
    op = (sorted_["kind"] == "op").to_numpy()
    in_op = op | (intervals.nearest(op, parent) >= 0)
    activities = sorted_.with_columns(parent=pl.Series(parent), in_op=pl.Series(in_op))
    pieces = intervals.innermost(starts, ends, group).rename({"group": "thread", "row": "activity"})
    return HostTimeline(activities, pieces, threads)


def _ranges(trace: Trace) -> pl.DataFrame:
    rows = trace.loaded["annotations"].filter(pl.col("side") == "cpu")
    return rows.with_columns(name=displayed(rows["name"]))


def _activities(frame: pl.DataFrame, kind: str, identity: str) -> pl.DataFrame:
    return frame.select(
        kind=pl.lit(kind), source_id=identity, name="name", waits=_waits(frame) if kind == "runtime" else pl.lit(False),
        pid="pid", tid="tid", start_ns="start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"),
    )  # fmt: skip


def _waits(calls: pl.DataFrame) -> pl.Expr:
    """Whether a call waits for the GPU: a synchronise, or a copy that returns when it is done."""
    name = pl.col("name")
    waiting = name.str.contains(api.SYNCHRONIZE) | (name.str.contains(api.MEMCPY) & ~name.str.contains("Async"))
    names = calls.select(name.unique()).filter(waiting)["name"]  # a trace has few names and many calls
    return name.is_in(names.implode()).fill_null(False)  # null for a call without a name


def profiler_overheads(trace: Trace) -> pl.DataFrame:
    """``placed_overheads`` that are the profiler's work; CUDA's own is left out."""
    return placed_overheads(trace).filter(~pl.col("kind").str.contains(CUDA_ITSELF))


@memoised
def placed_overheads(trace: Trace) -> pl.DataFrame:
    """Overhead rows with a thread: the stated one, else the thread they must have delayed.

    Kineto does not say on which thread CUPTI worked. It is the thread that made no API call meanwhile and whose next
    call follows at once; with none, the overhead is on no thread we know and delays nobody.
    """
    overheads = trace.loaded["overheads"]
    unplaced = overheads.filter(pl.col("tid").is_null()).with_row_index("overhead")
    stated = overheads.filter(pl.col("tid").is_not_null())
    if unplaced.is_empty():
        return stated
    thread = ["pid", "tid"]
    calls = (
        trace.loaded["runtime_calls"]
        .filter(pl.col("tid").is_not_null())
        .select(*thread, call_start="start_ns", call_end=pl.col("start_ns") + pl.col("dur_ns"))
        .sort("call_start")
    )
    delayed = (
        unplaced.select("overhead", "start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"))
        .join(calls.select(thread).unique(maintain_order=True), how="cross")
        .sort("start_ns")
        .join_asof(
            calls,
            left_on="start_ns",
            right_on="call_start",
            by=thread,
            strategy="backward",
            check_sortedness=False,
        )
        .drop("call_start")
        .rename({"call_end": "previous_end"})
        .join_asof(
            calls,
            left_on="start_ns",
            right_on="call_start",
            by=thread,
            strategy="forward",
            check_sortedness=False,
        )
        .filter(
            pl.col("previous_end").is_null()
            | (pl.col("previous_end") <= pl.col("start_ns"))
            | (pl.col("previous_end") >= pl.col("end_ns")),
            (pl.col("call_start") - pl.col("end_ns")).is_between(0, _NEXT_CALL_WITHIN_NS),
        )
        .sort("call_start")
        .unique("overhead", keep="first", maintain_order=True)
    )
    placed = (
        unplaced.drop("pid", "tid").join(delayed.select("overhead", *thread), on="overhead").select(overheads.columns)
    )
    return pl.concat([stated, placed]).sort("start_ns")
