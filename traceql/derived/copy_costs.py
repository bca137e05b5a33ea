"""What copies cost a step, on the side that the step waits for."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.copies import copies
from traceql.derived.host_path import host_path
from traceql.trace import Trace


@memoised
def copy_costs(trace: Trace) -> pl.DataFrame:
    """``copies`` of the steps with ``host_bound`` (the step's host path is longer than its GPU busy time) and ``cost_ns``:
    host time where the host is the slower side, GPU time where the GPU is or nothing is known."""
    path = host_path(trace).select("step_id", host_bound=pl.col("host_path_ns") > pl.col("gpu_busy_ns"))
    return (
        copies(trace)
        .join(path, on="step_id")
        .with_columns(pl.col("host_bound").fill_null(False))
        .with_columns(cost_ns=pl.when(pl.col("host_bound") & ~pl.col("replayed")).then("host_ns").otherwise("dur_ns"))
    )


PATTERN = ["op", "caller_op", "frame", "shape", "from_strides", "from_dtype", "to_dtype"]
"""Copies that agree in these are one pattern."""


def patterns(chosen: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``copy_costs`` grouped by PATTERN, most cost first: count, layers, gpu_ns, host_ns, cost_ns, moved_bytes."""
    return (
        chosen.group_by(PATTERN)
        .agg(
            count=pl.len(),
            layers=pl.col("layer").n_unique() - pl.col("layer").has_nulls().cast(pl.UInt32),
            gpu_ns=pl.col("dur_ns").sum(),
            host_ns=pl.col("host_ns").sum(),
            cost_ns=pl.col("cost_ns").sum(),
            moved_bytes=pl.col("moved_bytes").sum(),
            kernel=pl.col("kernel").first(),
            replayed=pl.col("replayed").any(),
            first_op=pl.col("gpu_op_id").min(),
        )
        .sort(pl.col("cost_ns") * -1, "first_op")
    )
