"""The critical path of every step: what made its period, one after the other."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import memoised
from traceql.derived.step_graph import solved, step_graphs
from traceql.derived.what_if import named_edges, path_rows, split_launches
from traceql.trace import Trace


@memoised
def critical_path(trace: Trace) -> pl.DataFrame:
    """The contract's ``critical_path``: the longest path through each step's dependency graph, in order.

    The times of a step add up to its period exactly. Steps without a graph (replays without device record, work on
    several devices, …) have no rows.
    """
    graphs = step_graphs(trace)
    order = np.argsort(graphs.edges["src"].to_numpy(), kind="stable")
    edges = graphs.edges[order]
    begins = 4 * np.arange(graphs.steps.height)
    src, dst, ns, part = (edges[name].to_numpy() for name in ("src", "dst", "ns", "part"))
    solution = solved(graphs.nodes, src, dst, ns, part, begins)
    periods = graphs.steps["period_ns"].to_numpy()
    ends = begins + 1
    exact = np.flatnonzero((solution.waiting[ends] == 0) & (solution.time[ends] == periods))
    rows = split_launches(path_rows(solution, ends[exact], edges, periods[exact]), graphs.events)
    step = graphs.steps[exact].select("step_id", "start_ns", which=pl.int_range(pl.len(), dtype=pl.Int64))
    return (
        named_edges(rows, graphs.events, graphs.ops)
        .join(step, on="which", how="left", maintain_order="left")
        .sort("step_id", maintain_order=True)
        .select(
            "step_id",
            rank=pl.lit(trace.rank, pl.Int64),
            position=pl.int_range(pl.len(), dtype=pl.Int64).over("step_id"),
            part="part",
            name="name",
            start_ns=pl.col("start_ns") + pl.col("at_ns"),
            dur_ns="dur_ns",
            launch_id="launch_id",
            gpu_op_id="gpu_op_id",
        )
    )
