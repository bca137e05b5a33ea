"""What each host thread was doing at every moment: one nested tree of activities a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.module_ranges import displayed
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVEL = {"python": 0, "range": 1, "op": 2, "runtime": 3, "driver": 4, "profiler": 4}
"""Kinds of activity; of two with the same span the one with the lower number is the outer."""

CUDA_ITSELF = r"(?i)driver compiler|module loading|lazy function loading|command buffer full"
"""CUPTI's kinds of overhead that are CUDA's own and happen without a profiler too: compiling and loading code on first use,
and launches that wait for room in the queue (CUPTI documentation, CUpti_ActivityOverheadKind)."""

_NEXT_CALL_WITHIN_NS = 1_000_000
"""CUPTI works before the call it delays is timed: that call starts within a millisecond of the overhead's end."""


@dataclass(frozen=True)
class HostTimeline:
    """Activities and the pieces each thread's time falls into.

    ``activities``: activity_id, kind (python, range, op, runtime, driver, profiler), source_id, name, pid, tid, thread (a
    dense number), start_ns, end_ns, parent (activity_id, −1 at the top), in_op (an operator or inside one), sorted by
    (thread, start);
    ``waits``, whether it is a call that waits for the GPU.
    ``pieces``: thread, start_ns, end_ns, activity_id of the innermost activity, −1 where nothing was recorded; sorted,
    disjoint, and together all time of each thread; ``piece`` is the row number.
    """

    activities: pl.DataFrame
    pieces: pl.DataFrame

    def column(self, name: str) -> NDArray[np.int64]:
        return self.activities[name].to_numpy()


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
    joined = pl.concat(frames).filter(pl.col("tid").is_not_null() & (pl.col("end_ns") > pl.col("start_ns")))
    sorted_ = (
        joined.with_columns(
            thread=pl.struct("pid", "tid").rank("dense").cast(pl.Int64),
            level=pl.col("kind").replace_strict(_LEVEL, return_dtype=pl.Int64),
        )
        .sort("thread", "start_ns", pl.col("end_ns") * -1, "level", maintain_order=True)
        .drop("level")
        .with_columns(activity_id=pl.int_range(pl.len(), dtype=pl.Int64))
    )
    starts, ends, thread = (sorted_[c].to_numpy() for c in ("start_ns", "end_ns", "thread"))
    parent = intervals.parents(starts, ends, thread)
    in_op = _or_any_ancestor((sorted_["kind"] == "op").to_numpy(), parent)
    activities = sorted_.with_columns(parent=pl.Series(parent, dtype=pl.Int64), in_op=pl.Series(in_op))
    pieces = intervals.innermost(starts, ends, thread).rename({"group": "thread", "row": "activity_id"})
    return HostTimeline(activities, pieces.with_columns(piece=pl.int_range(pl.len(), dtype=pl.Int64)))


def _ranges(trace: Trace) -> pl.DataFrame:
    rows = trace.loaded["annotations"].filter(pl.col("side") == "cpu")
    return rows.with_columns(name=displayed(rows["name"]))


def _or_any_ancestor(flag: NDArray[np.bool_], parent: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a row or any row around it has the flag, in log₂(depth) passes: each doubles the reach upwards."""
    reached = np.append(flag, False)  # the last entry stands for "no parent", which −1 indexes
    ancestor = np.append(parent, -1)
    while (ancestor[:-1] >= 0).any():
        reached |= reached[ancestor]
        ancestor = ancestor[ancestor]
    found: NDArray[np.bool_] = reached[:-1]
    return found


def nearest(mask: NDArray[np.bool_], parent: NDArray[np.int64], *, itself: bool = False) -> NDArray[np.int64]:
    """Row of each row's nearest ancestor in ``mask`` (or its own, with ``itself``), −1 if none.

    Takes log₂(depth) passes: each doubles the reach.
    """
    wanted = np.append(mask, True)  # the last entry stands for "no parent", which −1 indexes
    found = np.append(parent, -1)
    if itself:
        found[:-1] = np.where(mask, np.arange(len(parent)), parent)
    while (moving := ~wanted[found[:-1]]).any():
        rows = np.flatnonzero(moving)
        found[rows] = found[found[rows]]
    return found[:-1]


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
