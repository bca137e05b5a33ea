"""API calls of interest inside steps, and who made them: operator, Python frame, named range."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.host import host_timeline
from traceql.derived.launches import launches
from traceql.derived.steps import marks, step_of_time
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STAGED_BYTES = 64 * 1024
"""Host-to-device copies up to this size return once staged, without waiting: CUDA programming guide, "Asynchronous
Concurrent Execution"."""

_FRAMES = {
    "library": r"(?:^|/)(?:torch|threading|contextlib|functools)(?:/|\.py)",
    "program": r"\.py\(\d+\): ",
}
"""Python frames that call on somebody's behalf, and the rest; built-in functions are neither."""


@memoised
def in_step_calls(trace: Trace) -> pl.DataFrame:
    """API calls that start in a step: call_id, name, pid, tid, start_ns, dur_ns, end_ns, step_id."""
    calls = trace.loaded["runtime_calls"].select(
        "call_id", "name", "pid", "tid", "start_ns", "dur_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns")
    )
    return step_of_time(trace, calls).filter(pl.col("step_id").is_not_null())


@memoised
def blocking_copies(trace: Trace) -> pl.DataFrame:
    """Copies made in a step whose call holds the host until the data has moved: the columns of ``in_step_calls`` and
    memcpy_id, device, direction, bytes, copy_ns, src_memory, dst_memory.

    Synchronous calls (no Async in the name), and asynchronous ones from or to pageable memory. Copies within the
    device return at once whatever the name, and so do host-to-device copies of up to 64 KiB.
    """
    copies = trace.table("memcpys").select(
        "memcpy_id", "launch_id", "device", "bytes", "src_memory", "dst_memory", direction="kind", copy_ns="dur_ns"
    )
    call_ids = launches(trace).select("launch_id", "call_id")
    pageable = pl.any_horizontal(pl.col("src_memory", "dst_memory") == "pageable")
    staged = (pl.col("direction") == "HtoD") & (pl.col("bytes") <= _STAGED_BYTES)
    within = pl.col("direction").is_in(["DtoD", "PtoP"])
    return (
        in_step_calls(trace)
        .join(call_ids, on="call_id")
        .join(copies, on="launch_id")
        .filter((~pl.col("name").str.contains("Async") | pageable) & ~staged & ~within)
        .sort("call_id", "memcpy_id")
    )


@memoised
def allocations(trace: Trace) -> pl.DataFrame:
    """API calls that allocate or free memory, in a step or not: the columns of runtime_calls and end_ns. Stream-ordered
    ones (cudaMallocAsync) come from a pool and are left out."""
    name = pl.col("name")
    made = name.str.contains(api.ALLOCATION) & ~name.str.contains(api.STREAM_ORDERED)
    return trace.loaded["runtime_calls"].filter(made).with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"))


class _Around(NamedTuple):
    """For every activity the row of what is around it, −1 when not recorded: the outermost operator, the innermost
    Python frame that is neither built-in nor torch's own, the innermost named range that is no step."""

    op: NDArray[np.int64]
    frame: NDArray[np.int64]
    range: NDArray[np.int64]


@memoised
def _around(trace: Trace) -> _Around:
    timeline = host_timeline(trace)
    parent, kind = timeline.column("parent"), timeline.activities["kind"]
    op_above = np.append(timeline.activities["in_op"].to_numpy(), False)[parent]
    no_step = ~timeline.activities["name"].is_in(marks(trace)["name"].implode())
    masks = (
        (kind == "op").to_numpy() & ~op_above,
        ((kind == "python") & (timeline.names.labels(_FRAMES) == "program").fill_null(False)).to_numpy(),
        ((kind == "range") & no_step).fill_null(False).to_numpy(),
    )
    return _Around(*(intervals.nearest(mask, parent) for mask in masks))


def _names_around(trace: Trace, rows: pl.Series) -> pl.DataFrame:
    """``op``, ``frame`` and ``range`` around activities, given as row numbers (null: none)."""
    names = host_timeline(trace).activities["name"]
    at = rows.fill_null(-1).to_numpy()
    return pl.DataFrame(
        {
            label: names.gather(intervals.rows_or_null(np.append(around, -1)[at]))
            for label, around in _around(trace)._asdict().items()
        }
    )


@memoised
def callers(trace: Trace) -> pl.DataFrame:
    """call_id → ``op``, ``frame`` and ``range`` around the API call, and ``caller``, the most telling of them."""
    activities = host_timeline(trace).activities
    rows = (activities["kind"] == "runtime").arg_true()
    return _names_around(trace, rows).with_columns(
        activities["source_id"].gather(rows).alias("call_id"),
        caller=pl.coalesce(pl.concat_str("op", pl.lit(" in "), "frame"), "frame", "op", "range"),
    )


@memoised
def _row_of_op(trace: Trace) -> NDArray[np.int64]:
    """For every operator the row of its activity, −1 where it has none."""
    activities = host_timeline(trace).activities
    rows = (activities["kind"] == "op").arg_true()
    found = np.full(trace.loaded["cpu_ops"].height, -1, np.int64)
    found[activities["source_id"].gather(rows).to_numpy()] = rows.to_numpy()
    return found


def op_callers(trace: Trace, op_ids: pl.Series) -> pl.DataFrame:
    """``frame`` and ``range`` around each of the operator calls."""
    rows = intervals.rows_or_null(_row_of_op(trace)[op_ids.to_numpy()])
    return _names_around(trace, rows).select("frame", "range")
