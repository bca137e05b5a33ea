"""What copies cost a step, on the side that the step waits for."""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from traceql.derived import memoised
from traceql.derived.copies import copies
from traceql.derived.fixes import operator_time
from traceql.derived.gpu_work import gpu_work
from traceql.derived.host_path import host_path
from traceql.fix import Fix
from traceql.trace import Trace
from traceql.wording import duration


@memoised
def copy_costs(trace: Trace) -> pl.DataFrame:
    """``copies`` of the steps with ``host_bound`` (the step's host path is longer than its GPU work) and
    ``cost_ns``: host time where the host is the slower side, GPU time where the GPU is or nothing is known."""
    path = host_path(trace).join(gpu_work(trace), on="step_id")
    return (
        copies(trace)
        .join(path.select("step_id", host_bound=pl.col("host_path_ns") > pl.col("gpu_work_ns")), on="step_id")
        .with_columns(pl.col("host_bound").fill_null(False))
        .with_columns(cost_ns=pl.when(pl.col("host_bound") & ~pl.col("replayed")).then("host_ns").otherwise("dur_ns"))
    )


def copying(trace: Trace, rows: pl.DataFrame) -> Fix:
    """Without these copies (rows of ``copy_costs``), and without the operators that asked for them."""
    return Fix.device_time(rows.select("gpu_op_id", saved_ns="dur_ns")) | operator_time(trace, rows["outer_id"])


PATTERN = ["op", "caller_op", "frame", "shape", "from_strides", "from_dtype", "to_dtype"]
"""Copies that agree in these are one pattern."""


def patterns(chosen: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``copy_costs`` grouped by PATTERN, most cost first.

    Adds count, layers, gpu_ns, host_ns, cost_ns, moved_bytes, kernel, replayed and first_op (a gpu_op_id).
    """
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


def place(pattern: dict[str, Any]) -> str | None:
    """Who asked for the copy: its Python frame without the line number, else the calling operator."""
    frame, caller = pattern["frame"], pattern["caller_op"]
    return re.sub(r"\(\d+\)", "", frame) if frame else caller


def described(pattern: dict[str, Any]) -> str:
    """Operator, tensor and layout of a pattern in words."""
    text = str(pattern["op"])
    if pattern["shape"]:
        text += f" of {pattern['shape']}"
        text += f" with strides {pattern['from_strides']}" if pattern["from_strides"] else ""
    where = pattern["frame"] or pattern["caller_op"]
    return f"{text} in {where}" if where else text


def spent(gpu_ns: int, host_ns: int) -> str:
    """What copies take on either side, in words; copies in a graph replay take no host time."""
    return f"{duration(gpu_ns)} on the GPU" + (f" and {duration(host_ns)} on the host" if host_ns else "")


def pattern_row(pattern: dict[str, Any]) -> dict[str, Any]:
    """One row of the table of patterns."""
    gpu_ns, moved = pattern["gpu_ns"], pattern["moved_bytes"]
    return {
        "op": pattern["op"],
        "count": pattern["count"],
        "gpu_us": gpu_ns / 1000,
        "host_us": pattern["host_ns"] / 1000,
        "needed_by": pattern["frame"] or pattern["caller_op"],
        "shape": pattern["shape"],
        "source_strides": pattern["from_strides"],
        "from_dtype": pattern["from_dtype"],
        "to_dtype": pattern["to_dtype"],
        "layers": pattern["layers"],
        "moved_bytes": moved or None,
        "achieved_gb_per_s": moved / gpu_ns if moved and gpu_ns else None,
        "kernel": pattern["kernel"],
        "in_graph": pattern["replayed"],
    }
