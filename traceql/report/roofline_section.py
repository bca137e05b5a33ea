"""Under the roofline: GEMM shapes, and the kernels that Nsight Compute placed there; what it counted of each kernel."""

from __future__ import annotations

from typing import Any

import polars as pl

from traceql.derived.gemms import gemms
from traceql.derived.ncu_join import launch_shape, weighted
from traceql.derived.roofline import device_match
from traceql.dtypes import dtype_class
from traceql.report import ceilings, notes, units
from traceql.report.ceilings import BOUNDS
from traceql.report.kernel_sections import frame_table, representative
from traceql.report.model import Point, Roofline, Table
from traceql.report.names import shown
from traceql.trace import Trace

_MAX_SHAPES = 40


def roofline(trace: Trace) -> Roofline | None:
    """The chart and its tables; None where neither shapes nor counters are known.

    GEMM shapes are those of the steps of the dominant kind (of the whole trace without steps).
    """
    found = _products(trace)
    profiled = ceilings.profiled_kernels(trace)
    drill = _drill_down(trace)
    if found.is_empty() and profiled.is_empty() and drill is None:
        return None
    gemm_ns, profiled_ns = int(found["dur_ns"].sum()), int(profiled["total_ns"].sum())
    shapes = _shapes(found)
    kept = shapes.head(_MAX_SHAPES)
    points = [_roof_point(row) for row in kept.rows(named=True) if row["total_ns"]]
    points += [_counted_point(row, gemm_ns + profiled_ns) for row in profiled.rows(named=True)]
    devices = (found if found.height else profiled)["device"].to_list()
    match = device_match(trace, devices[0] if devices else None)
    gpu = match.gpu
    dtypes = pl.concat([kept["dtype"], profiled["dtype"]]).drop_nulls().unique(maintain_order=True)
    peaks = {name: peak for dtype in dtypes if gpu and (peak := gpu.peak(dtype)) and (name := dtype_class(dtype))}
    kinds = {*kept["bound"].fill_null("unknown"), *profiled["bound"].fill_null("unknown")}
    tables = [_shape_table(kept, shapes.height - kept.height), ceilings.counter_table(trace), drill]
    return Roofline(
        points=tuple(points),
        gpu=shown(gpu.name) if gpu else "",
        bandwidth_tb_per_s=gpu.bandwidth_bytes_per_s / 1e12 if gpu and gpu.bandwidth_bytes_per_s else None,
        peaks=tuple((name, peak / 1e12) for name, peak in peaks.items()),
        lead=_lead(found, profiled, shown(gpu.name) if gpu else ""),
        note=shown(notes.sentence(match.note)) if match.note else "",
        tables=tuple(table for table in tables if table is not None),
        bounds=tuple((k, words) for k, words in BOUNDS.items() if k in kinds),
    )


def _lead(found: pl.DataFrame, profiled: pl.DataFrame, gpu: str) -> str:
    """What is drawn, against what, and what the size of a dot means."""
    drawn = [
        *(["GEMM shapes"] if found.height else []),
        *(["kernels by their counters"] if profiled.height else []),
    ]
    if not drawn:
        return "The counters tell no operations: nothing can be placed under the roofline."
    text = " and ".join(drawn)
    against = f"against the ceilings of {gpu}" if gpu else "; the ceilings are unknown"
    area = "the time of what is shown" if profiled.height else "GEMM time"
    return f"{text[:1].upper()}{text[1:]} {against}. Area is share of {area}.".replace(" ;", ";")


def _products(trace: Trace) -> pl.DataFrame:
    found = gemms(trace)
    step = representative(trace)
    if step is None:
        return found
    alike = trace.table("steps").filter(
        pl.col("kind").eq_missing(pl.lit(step.kind, pl.String)),
        pl.col("batch_size").eq_missing(pl.lit(step.batch_size, pl.Int64)),
    )
    return found.filter(pl.col("step_id").is_in(alike["step_id"].implode()))


def _shapes(found: pl.DataFrame) -> pl.DataFrame:
    """One row a shape, most time first."""
    total = int(found["dur_ns"].sum())
    return (
        found.group_by("op", "batch", "m", "n", "k", "dtype")
        .agg(
            pl.col("flops", "bytes", "intensity", "ridge").first(), pl.col("bound").mode().sort().first(),
            pl.col("kernel_name").mode().sort().first(), pl.col("pct_of_roof").median(), calls=pl.len(),
            total_ns=pl.col("dur_ns").sum(), median_ns=pl.col("dur_ns").median().cast(pl.Int64),
        )
        .with_columns(
            achieved_tflops=pl.col("flops") * pl.col("calls") / pl.col("total_ns") / 1e3,
            achieved_tb_per_s=pl.col("bytes") * pl.col("calls") / pl.col("total_ns") / 1e3,
            share_of_gemm_time_pct=100 * pl.col("total_ns") / max(total, 1),
        )
        .sort(["total_ns", "m", "n", "k", "op"], descending=[True, False, False, False, False])
    )  # fmt: skip


def _shape(row: dict[str, Any]) -> str:
    batch = f"{row['batch']} × " if row["batch"] > 1 else ""
    return shown(f"{batch}[{row['m']},{row['k']}]×[{row['k']},{row['n']}] {row['dtype']}")


def _roof_point(row: dict[str, Any]) -> Point:
    bound = row["bound"] or "unknown"
    text = (
        f"{shown(row['op'])} {_shape(row)}: {units.number(row['achieved_tflops'])} TFLOP/s, "
        f"{units.number(row['achieved_tb_per_s'])} TB/s, {units.ms(row['median_ns'])} each, "
        f"{units.number(row['share_of_gemm_time_pct'])} % of GEMM time, {BOUNDS.get(bound, bound)}"
    )
    return Point(_shape(row), row["intensity"], row["achieved_tflops"], row["share_of_gemm_time_pct"], bound, text)


def _counted_point(row: dict[str, Any], total_ns: int) -> Point:
    """A kernel placed by Nsight Compute's counters: tensor operations and DRAM bytes."""
    bound = row["bound"] or "unknown"
    share = 100 * row["total_ns"] / max(total_ns, 1)
    text = (
        f"{shown(row['name'])} by its counters: {units.number(row['achieved_tflops'])} TFLOP/s, "
        f"{units.number(row['achieved_tb_per_s'])} TB/s, {units.ms(row['median_ns'])} each, {BOUNDS.get(bound, bound)}"
    )
    return Point(shown(row["name"]), row["intensity"], row["achieved_tflops"], share, bound, text)


def _shape_table(shapes: pl.DataFrame, dropped: int) -> Table | None:
    if shapes.is_empty():
        return None
    described = shapes.with_columns(
        pl.Series("shape", [_shape(row) for row in shapes.rows(named=True)], dtype=pl.String),
        pl.col("bound").fill_null("unknown").replace(BOUNDS),
    )
    keys = [
        "op", "shape", "calls", "median_ns", "share_of_gemm_time_pct", "intensity_flop_per_byte", "achieved_tflops",
        "achieved_tb_per_s", "roof_pct", "bound",
    ]  # fmt: skip
    named = described.rename({"intensity": "intensity_flop_per_byte", "pct_of_roof": "roof_pct"})
    return frame_table("GEMM shapes", named, keys, dropped)


def _drill_down(trace: Trace) -> Table | None:
    """What Nsight Compute counted of each kernel, most time first; None without counters."""
    if trace.loaded["ncu_kernels"].is_empty():
        return None
    rows = weighted(trace)
    described = rows.with_columns(
        pl.Series("launch", [launch_shape(row) for row in rows.rows(named=True)], dtype=pl.String),
        bound=pl.col("bound").replace(BOUNDS),
        kernel="short_name",
        ncu_ns="dur_ns",
        sm_pct="sm_throughput_pct",
        memory_pct="memory_throughput_pct",
        tensor_pct="tensor_pipe_pct",
        roof_pct="pct_of_roof",
        intensity_flop_per_byte="intensity",
    )
    keys = [
        "kernel", "bound", "share_pct", "ncu_ns", "sm_pct", "memory_pct", "tensor_pct", "roof_pct",
        "intensity_flop_per_byte", "achieved_occupancy_pct", "occupancy_limiter", "l1_hit_pct", "l2_hit_pct",
        "coalescing_pct", "spill_requests", "top_stall", "top_stall_pct", "launch",
    ]  # fmt: skip
    known = [key for key in keys if described[key].null_count() < described.height]
    kept = described.head(_MAX_SHAPES)
    return frame_table("Counters of each kernel", kept, known, described.height - kept.height)
