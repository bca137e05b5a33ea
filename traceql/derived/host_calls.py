"""API calls of interest inside steps, and who made them: operator, Python frame, named range."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import api, memoised
from traceql.derived.host import host_timeline, nearest
from traceql.derived.launches import launches
from traceql.derived.naming import labels
from traceql.derived.steps import marks, step_of_time
from traceql.trace import Trace

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


@memoised
def _around(trace: Trace) -> pl.DataFrame:
    """For every activity: kind, source_id and what is around it, null when not recorded.

    ``op`` is the outermost operator, ``frame`` the innermost Python frame that is neither built-in nor torch's own,
    ``range`` the innermost named range that is no step.
    """
    activities = host_timeline(trace).activities
    parent = activities["parent"].to_numpy()
    kind, name = activities["kind"], activities["name"]
    op_above = np.append(activities["in_op"].to_numpy(), False)[parent]
    masks = {
        "op": (kind == "op").to_numpy() & ~op_above,
        "frame": ((kind == "python") & (labels(name, _FRAMES) == "program").fill_null(False)).to_numpy(),
        "range": ((kind == "range") & ~name.is_in(marks(trace)["name"].implode())).fill_null(False).to_numpy(),
    }
    return activities.select("kind", "source_id").with_columns(
        name.gather(pl.Series(nearest(mask, parent), dtype=pl.Int64).replace(-1, None)).alias(label)
        for label, mask in masks.items()
    )


@memoised
def callers(trace: Trace) -> pl.DataFrame:
    """call_id → ``op``, ``frame`` and ``range`` around the API call, and ``caller``, the most telling of them."""
    return _around(trace).filter(pl.col("kind") == "runtime").select(
        "op", "frame", "range", call_id="source_id",
        caller=pl.coalesce(pl.concat_str("op", pl.lit(" in "), "frame"), "frame", "op", "range"),
    )  # fmt: skip


@memoised
def op_callers(trace: Trace) -> pl.DataFrame:
    """op_id → ``frame`` and ``range`` around the operator call."""
    return _around(trace).filter(pl.col("kind") == "op").select("frame", "range", op_id="source_id")
