"""The dependency graph of steps: what had to happen before what, and the time between.

Three kinds of chain hold each other up. Each host thread makes its calls in order; the device works through its
operations in order, as one timeline over its streams; a launch comes before its operation, and an operation before the
wait that returns when it is done. An edge weighs the least time between its two ends. Every weight is what was measured,
or less where something else was the cause of the delay, and every node has one edge that is exactly what was measured:
so the longest path to the end of a step is its period, to the nanosecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from traceql.derived import memoised
from traceql.derived.step_graph_edges import (
    GONE,
    Nodes,
    dependencies,
    device_edges,
    end_edges,
    host_edges,
    wait_edges,
)
from traceql.derived.step_graph_kernels import longest
from traceql.derived.step_graph_rows import MARK, events_of, operations_of, sound, windows_of
from traceql.trace import Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class StepGraphs:
    """The graphs of steps, their nodes numbered through, their edges sorted by step and source.

    Attributes:
        steps: one row a modelled step, in order: step_id, start_ns, period_ns, busy_ns (the device's work between the
            step's first and last operation, others' included). Its begin is node 4i, its end 4i + 1.
        unmodelled: step_id → why.
        edges: src, dst, ns, part (index in PARTS), thread (index in ``threads``, −1 for none), from_ns and to_ns (the
            thread's time an edge stands for; equal for none), event, op (rows; −1 for none), waits (the edge is a wait's
            dependency on the device).
        events: host calls: call_id, launch_id, name, and ``usual_ns``, how long the call takes when it waits for nothing.
        ops: gpu_op_id, name, exec_ns.
        threads: pid, tid.
        nodes: how many nodes there are.
    """

    steps: pl.DataFrame
    unmodelled: dict[int, str]
    edges: pl.DataFrame
    events: pl.DataFrame
    ops: pl.DataFrame
    threads: pl.DataFrame
    nodes: int


def step_graphs(trace: Trace, step_ids: tuple[int, ...] | None = None) -> StepGraphs:
    """Graphs of these steps, or of all of them."""
    return _step_graphs(trace, step_ids)


@memoised
def _step_graphs(trace: Trace, step_ids: tuple[int, ...] | None) -> StepGraphs:
    windows, unmodelled = windows_of(trace, step_ids)
    events = events_of(trace, windows)
    ops = operations_of(trace, events)
    windows, refused = sound(windows, ops)
    events, ops = (
        frame.join(windows.select("step_id"), on="step_id", how="semi", maintain_order="left")
        for frame in (events, ops)
    )
    return _assembled(trace, windows, events, ops, unmodelled | refused)


def _assembled(
    trace: Trace, windows: pl.DataFrame, events: pl.DataFrame, ops: pl.DataFrame, unmodelled: dict[int, str]
) -> StepGraphs:
    numbered = windows.with_columns(step=pl.int_range(pl.len(), dtype=pl.Int64))
    threads = events.select(MARK).unique(maintain_order=True).with_row_index("thread").cast({"thread": pl.Int64})
    number = numbered.select("step_id", "step", begin="start_ns", finish="end_ns")
    # rows are numbered again: steps may have been refused since
    events = (
        events.with_columns(old=pl.col("event"), event=pl.int_range(pl.len(), dtype=pl.Int64))
        .pipe(_renumbered, "previous_event")
        .join(threads, on=MARK, how="left", nulls_equal=True, maintain_order="left")
        .join(number, on="step_id", how="left", maintain_order="left")
    )
    ops = (
        ops.rename({"event": "old"})
        .join(events.select("old", "event", "thread"), on="old", how="left", maintain_order="left")
        .with_columns(op=pl.int_range(pl.len(), dtype=pl.Int64))
        .join(number, on="step_id", how="left", maintain_order="left")
    )
    node = Nodes(numbered.height, events.height, ops.height)
    usual = pl.col("dur_ns").filter(~pl.col("blocks")).median().over("step_id").fill_null(0).cast(pl.Int64)
    is_wait = pl.col("kind") == "wait"
    events = events.with_columns(usual_ns=pl.when(is_wait).then(0).otherwise(pl.min_horizontal(usual, "dur_ns")))
    waits = dependencies(trace, events, ops)
    edges = pl.concat(
        [
            *host_edges(node, numbered, events, waits),
            *wait_edges(node, waits),
            *device_edges(trace, node, ops),
            *end_edges(node, ops),
        ]
    ).sort("step", "src", maintain_order=True)
    busy = ops.group_by("step").agg(
        busy_ns=pl.col("busy_before_ns").last() + pl.col("exec_ns").last() - pl.col("busy_before_ns").first()
    )
    table = numbered.join(busy, on="step", how="left", maintain_order="left").select(
        "step_id", "start_ns", "period_ns", "busy_ns"
    )
    return StepGraphs(
        table,
        unmodelled,
        edges.drop("step"),
        events.select("event", "call_id", "launch_id", "name", "usual_ns", "thread", "start_ns", "end_ns"),
        ops.select("op", "gpu_op_id", "launch_id", "name", "exec_ns"),
        threads,
        node.count,
    )


def _renumbered(events: pl.DataFrame, column: str) -> pl.DataFrame:
    """``column``, which refers to ``old``, by the new numbers."""
    new = events.select(pl.col("old").alias(column), new="event")
    return events.join(new, on=column, how="left", maintain_order="left").drop(column).rename({"new": column})


@dataclass(frozen=True)
class Solution:
    """When each node comes, ns after its step's begin, and the edge that makes it (−1 for none)."""

    time: NDArray[np.int64]
    best: NDArray[np.int64]
    waiting: NDArray[np.int64]


def solved(nodes: int, src: Any, dst: Any, ns: Any, part: Any, begins: Any) -> Solution:
    """The longest paths from ``begins``; ``src`` sorted."""
    time, best, waiting = np.full(nodes, 2 * GONE, np.int64), np.full(nodes, -1, np.int64), np.zeros(nodes, np.int64)
    first, ready = np.zeros(nodes + 1, np.int64), np.empty(nodes, np.int64)
    longest(src, dst, ns, part, begins, time, best, waiting, first, ready)
    return Solution(time, best, waiting)
