"""Overlap scheduling: how much of the host's work for a step ran while the GPU still worked on the step before."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.steps import steps
from traceql.trace import Trace

_THREAD = ["pid", "tid"]


@memoised
def step_overlap(trace: Trace) -> pl.DataFrame:
    """One row a step that follows another on its thread, both with GPU work: step_id, name, kind, batch_size,
    graph_launches, start_ns, period_ns, gpu_busy_ns, idle_ns.

    ``host_ns``: from the end of the host's part of the step before to the end of its own. ``hidden_ns``: the part of it
    before the GPU had finished the step before. ``lead_ns``: how long before that end the step began; negative after it.
    """
    frame = (
        steps(trace)
        .filter(pl.col("gpu_start_ns").is_not_null() & pl.col("dur_ns").is_not_null())
        .sort("start_ns")
        .with_columns(
            host_end=pl.col("start_ns") + pl.col("dur_ns"), gpu_end=pl.col("gpu_start_ns") + pl.col("gpu_dur_ns")
        )
        .with_columns(
            host_before=pl.col("host_end").shift(1).over(_THREAD),
            gpu_before=pl.col("gpu_end").cum_max().shift(1).over(_THREAD, order_by="start_ns"),
        )
        .filter(pl.col("host_before").is_not_null())
    )
    hidden = pl.min_horizontal("host_end", "gpu_before") - pl.col("host_before")
    return frame.with_columns(
        host_ns=pl.col("host_end") - pl.col("host_before"),
        hidden_ns=pl.max_horizontal(hidden, pl.lit(0, pl.Int64)),
        lead_ns=pl.col("gpu_before") - pl.col("start_ns"),
    ).select(
        "step_id", "name", "kind", "batch_size", "graph_launches", "start_ns", "period_ns", "gpu_busy_ns", "host_ns",
        "hidden_ns", "lead_ns", idle_ns="gpu_idle_ns",
    )  # fmt: skip
