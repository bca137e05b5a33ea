"""The figures of the JSON contract, each an exact count or integer nanoseconds; null where the trace cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from traceql.derived import intervals
from traceql.derived.gaps import opaque_windows
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.trace import Trace


def of(trace: Trace) -> dict[str, Any]:
    """``gpus``, ``launches`` and ``steps`` of one trace, as docs/json.md describes them."""
    return {"gpus": gpus(trace), "launches": launch_counts(trace), "steps": steps(trace)}


def merged(parts: Sequence[tuple[int | None, dict[str, Any]]]) -> dict[str, Any]:
    """The metrics of several traces, given as (rank, metrics): ``gpus`` keys are ``rank/device``, launches are added."""
    if len(parts) == 1:
        return parts[0][1]
    whole: dict[str, Any] = {"gpus": {}, "launches": {}, "steps": []}
    for index, (rank, part) in enumerate(parts):
        label = index if rank is None else rank
        whole["gpus"] |= {f"{label}/{device}": gpu for device, gpu in part["gpus"].items()}
        whole["launches"] = {k: whole["launches"].get(k, 0) + v for k, v in part["launches"].items()}
        whole["steps"] += [{"trace": index, "rank": rank, **step} for step in part["steps"]]
    return whole


def gpus(trace: Trace) -> dict[str, dict[str, Any]]:
    """Device → counts, sums, unions and span. Busy and idle are null, with a reason, where replays left no record."""
    ops = gpu_ops(trace).filter(pl.col("device").is_not_null())
    is_kernel = pl.col("kind") == "kernel"
    kernels = ops.filter(is_kernel)
    busy = intervals.union_ns(kernels, ["device"]).rename({"union_ns": "busy_ns"})
    gpu_busy = intervals.union_ns(ops, ["device"]).rename({"union_ns": "gpu_busy_ns"})
    rows = (
        ops.group_by("device")
        .agg(
            kernels=is_kernel.sum(),
            kernel_time_ns=pl.col("dur_ns").filter(is_kernel).sum(),
            span_ns=pl.col("end_ns").max() - pl.col("start_ns").min(),
            last=pl.col("end_ns").max(),
        )
        .join(busy, on="device", how="left")
        .join(gpu_busy, on="device", how="left")
        .sort("device")
    )
    opaque = opaque_windows(trace).group_by("device").agg(opens=pl.col("start_ns").min())
    result = {}
    for row in rows.join(opaque, on="device", how="left", maintain_order="left").rows(named=True):
        hidden = row["opens"] is not None and row["opens"] < row["last"]
        span = row["span_ns"]
        known = not hidden and span > 0
        result[str(row["device"])] = {
            "kernels": row["kernels"],
            "kernel_time_ns": row["kernel_time_ns"],
            "busy_ns": row["busy_ns"] or 0,
            "gpu_busy_ns": None if hidden else row["gpu_busy_ns"],
            "span_ns": span,
            "idle_pct": round(100 * (span - row["gpu_busy_ns"]) / span, 4) if known else None,
            "reason": "graph replays left no device record" if hidden else None,
        }
    return result


def launch_counts(trace: Trace) -> dict[str, int]:
    """How GPU work and launch calls match. GPU ops here are kernels, copies and fills (whole-replay records are not)."""
    ops = gpu_ops(trace).filter(pl.col("kind") != "graph")
    calls = launches(trace)
    matched = ops["launch_id"].count()
    return {
        "matched_gpu_ops": matched,
        "unmatched_gpu_ops": ops.height - matched,
        "launch_calls": calls.filter(pl.col("kind") == "kernel").height,
        "graph_launches": calls.filter(pl.col("kind") == "graph").height,
        "graph_kernels": ops.filter((pl.col("kind") == "kernel") & (pl.col("launch_kind") == "graph")).height,
    }


def steps(trace: Trace) -> list[dict[str, Any]]:
    """One record a step, in order."""
    frame = trace.table("steps").select(
        "step_id", "name", "kind", "batch_size", "tokens", "start_ns", "period_ns",
        pl.col("dur_ns").alias("cpu_ns"), pl.col("gpu_dur_ns").alias("gpu_span_ns"), "gpu_busy_ns", "gpu_idle_ns",
        "kernels", "launch_calls", "graph_launches", "graph_segments", "found_by",
    )  # fmt: skip
    return list(frame.rows(named=True))
