"""The figures of the JSON contract, each an exact count or integer nanoseconds; null where the trace cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from traceql.derived import intervals
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.derived.opaque_replays import unrecorded_devices
from traceql.derived.step_devices import step_devices
from traceql.trace import Trace


def of(trace: Trace) -> dict[str, Any]:
    """``gpus``, ``launches`` and ``steps`` of one trace, as docs/json.md describes them."""
    return {"gpus": gpus(trace), "launches": launch_counts(trace), "steps": steps(trace)}


def merged(parts: Sequence[tuple[int | None, dict[str, Any]]], *, one_file: bool = False) -> dict[str, Any]:
    """The metrics of several traces, given as (rank, metrics): ``gpus`` keys are ``rank/device``, launches are added.

    The ranks of ``one_file`` have devices of their own: those keep the numbers that the file gives them.
    """
    if len(parts) == 1:
        return parts[0][1]
    whole: dict[str, Any] = {"gpus": {}, "launches": {}, "steps": []}
    for index, (rank, part) in enumerate(parts):
        label = index if rank is None else rank
        apart = one_file and whole["gpus"].keys().isdisjoint(part["gpus"])
        whole["gpus"] |= {device if apart else f"{label}/{device}": gpu for device, gpu in part["gpus"].items()}
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
        )
        .join(busy, on="device", how="left")
        .join(gpu_busy, on="device", how="left")
        .sort("device")
    )
    result = {}
    for row in rows.rows(named=True):
        hidden = row["device"] in unrecorded_devices(trace)
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


def unrecorded_reason(trace: Trace) -> str:
    """Why busy and idle time of steps are null where they are."""
    if gpu_ops(trace).is_empty():
        return "no GPU work was recorded"
    if gpu_ops(trace)["step_id"].null_count() == gpu_ops(trace).height:
        return "no GPU work could be assigned to a step"
    return "graph replays left no device record"


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
    """One record a step, in order, with the same figures for each device it ran on."""
    frame = trace.table("steps").select(
        "step_id", "name", "kind", "batch_size", "tokens", "start_ns", "period_ns",
        pl.col("dur_ns").alias("cpu_ns"), pl.col("gpu_dur_ns").alias("gpu_span_ns"), "gpu_busy_ns", "gpu_idle_ns",
        "lead_in_ns", "kernels", "launch_calls", "graph_launches", "graph_segments", "found_by", "device",
    )  # fmt: skip
    reason = unrecorded_reason(trace)
    devices = _step_devices(trace)
    return [
        row | {"devices": devices.get(row["step_id"], {}), "reason": reason if row["gpu_busy_ns"] is None else None}
        for row in frame.rows(named=True)
    ]


def _step_devices(trace: Trace) -> dict[int, dict[str, dict[str, Any]]]:
    """step_id → device → its span, busy and idle time and kernels in that step; times null where the step's are."""
    known = trace.table("steps").select("step_id", known=pl.col("gpu_busy_ns").is_not_null())
    frame = step_devices(trace).join(known, on="step_id", maintain_order="left").with_columns(
        pl.when("known").then(pl.col("gpu_busy_ns", "gpu_idle_ns")).name.keep()
    )  # fmt: skip
    found: dict[int, dict[str, dict[str, Any]]] = {}
    columns = ["step_id", "device", "gpu_dur_ns", "gpu_busy_ns", "gpu_idle_ns", "kernels"]
    for step_id, device, span, busy, idle, kernels in frame.select(columns).rows():
        figures = {"gpu_span_ns": span, "gpu_busy_ns": busy, "gpu_idle_ns": idle, "kernels": kernels}
        found.setdefault(step_id, {})[str(device)] = figures
    return found
