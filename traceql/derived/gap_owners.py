"""Which idle time belongs to which finding, so that the savings of different rules never count one gap twice.

Every part of a gap inside the measured steps that a change of the program could remove has one owner. In this order:

1. ``graph boundary``: the gap lies between two graph segments of a step;
2. ``blocking copy``, ``wait``, ``allocation``: the launching thread was inside such a call, made within a step;
3. ``between steps``: the gap lies between the last work of one step and the first of the next;
4. ``host late``: the rest of what the host caused.

Drain between queued kernels, time between the nodes of a replay, the profiler's own work and replays without a record
have no owner: no rule promises them back.
"""

from __future__ import annotations

import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.gaps import gaps
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.graphs import graph_boundaries
from traceql.derived.host_calls import allocations, blocking_copies, in_step_calls
from traceql.derived.opaque_replays import opaque_windows
from traceql.derived.step_costs import HOST_CAUSES, step_gap_parts
from traceql.trace import Trace

_THREAD = ["pid", "tid"]


@memoised
def owned_gap_parts(trace: Trace) -> pl.DataFrame:
    """``step_gap_parts`` with where they lie and whose they are.

    Adds ``place`` (graph boundary, between steps, inside a step), ``pid`` and ``tid`` of the launching thread,
    ``call_id`` of the owning call and ``owner`` (see the module; null for what no rule promises back).
    """
    gap = pl.concat([_places(trace), gaps(trace).select(pid="launch_pid", tid="launch_tid")], how="horizontal")
    parts = step_gap_parts(trace)
    on_thread = pl.concat([parts, gap[parts["gap_id"]]], how="horizontal")
    calls = _owning_calls(trace).with_row_index("call")
    call = intervals.holding(on_thread.select("start_ns", *_THREAD), "start_ns", calls, "call", _THREAD)["call"]
    caused = pl.col("cause").is_in([*HOST_CAUSES, "blocked"])
    return (
        on_thread.with_columns(calls["call_id"].gather(call), call_owner=calls["call_owner"].gather(call))
        .with_columns(
            owner=pl.when(~caused)
            .then(None)
            .when(pl.col("place") == "graph boundary")
            .then(pl.lit("graph boundary"))
            .when(pl.col("call_owner").is_not_null())
            .then("call_owner")
            .when(pl.col("place") == "between steps")
            .then(pl.lit("between steps"))
            .otherwise(pl.lit("host late"))
        )
        .drop("call_owner")
    )


def _places(trace: Trace) -> pl.DataFrame:
    """``place`` of every gap, in their order."""
    found = gaps(trace).select("step_id", "device", "start_ns", "end_ns")
    place = ["step_id", "device", "start_ns"]
    first = (
        pl.concat([gpu_ops(trace).select(place), opaque_windows(trace).select(place)])
        .drop_nulls()
        .group_by("step_id", "device")
        .agg(first_ns=pl.col("start_ns").min())
    )
    boundaries = graph_boundaries(trace).select("device", "start_ns", "end_ns", "boundary_id")
    return (
        intervals.holding(found, "start_ns", boundaries, "boundary_id", ["device"])
        .join(first, on=["step_id", "device"], how="left", maintain_order="left")
        .select(
            place=pl.when(pl.col("step_id").is_null())
            .then(None)
            .when(pl.col("boundary_id").is_not_null())
            .then(pl.lit("graph boundary"))
            .when(pl.col("end_ns") <= pl.col("first_ns"))
            .then(pl.lit("between steps"))
            .otherwise(pl.lit("inside a step")),
        )
    )


@memoised
def _owning_calls(trace: Trace) -> pl.DataFrame:
    """Calls made in a step whose idle time another rule reports: call_id, pid, tid, start_ns, end_ns, call_owner."""
    copies, made = (frame["call_id"].implode() for frame in (blocking_copies(trace), allocations(trace)))
    owner = (
        pl.when(pl.col("call_id").is_in(copies))
        .then(pl.lit("blocking copy"))
        .when(pl.col("name").str.contains(api.SYNCHRONIZE))
        .then(pl.lit("wait"))
        .when(pl.col("call_id").is_in(made))
        .then(pl.lit("allocation"))
    )
    return in_step_calls(trace).with_columns(call_owner=owner).filter(pl.col("call_owner").is_not_null())
