"""Kernels at neither ceiling that are small: their time is launch, latency and drain."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.kernel_roofline import gemm_kernels, roofline
from traceql.derived.ncu_join import LAUNCH, SITE, ncu_matches
from traceql.derived.roofline import device_match
from traceql.trace import Trace


@memoised
def classified_kernels(trace: Trace) -> pl.DataFrame:
    """Kernels of the steps with a known class: kernel_id, step_id, name, op, start_ns, dur_ns, device, blocks, sms,
    achieved_tb_per_s, bandwidth_pct, bound, source; from shapes, alignment or counters."""
    known = roofline(trace).filter(pl.col("bound").is_not_null() & pl.col("step_id").is_not_null())
    by_counters = (
        ncu_matches(trace)
        .filter(pl.col("bound_by_counters").is_not_null())
        .select(*LAUNCH, bound="bound_by_counters", short_name="name")
    )
    counted = (
        trace.table("kernels")
        .filter(pl.col("step_id").is_not_null())
        .join(by_counters, on=SITE, how="inner", maintain_order="left")
        .join(known, on="kernel_id", how="anti", maintain_order="left")
        .join(gemm_kernels(trace), on="kernel_id", how="anti", maintain_order="left")
        .with_columns(
            name="short_name",
            blocks=pl.col("grid_x") * pl.col("grid_y") * pl.col("grid_z"),
            source=pl.lit("ncu"),
        )
    )
    columns = ["kernel_id", "step_id", "name", "start_ns", "dur_ns", "device", "blocks", "bound", "source"]
    every = pl.concat([known.select(*columns, "op", "achieved_tb_per_s"), counted.select(columns)], how="diagonal")
    return every.join(
        _gpus(trace, every), on="device", how="left", nulls_equal=True, maintain_order="left"
    ).with_columns(bandwidth_pct=100 * pl.col("achieved_tb_per_s") * 1e12 / pl.col("bandwidth"))


def _gpus(trace: Trace, kernels: pl.DataFrame) -> pl.DataFrame:
    devices = kernels["device"].unique().to_list()
    gpus = [device_match(trace, device).gpu for device in devices]
    return pl.DataFrame(
        {
            "device": devices,
            "sms": [gpu.sm_count if gpu else None for gpu in gpus],
            "bandwidth": [gpu.bandwidth_bytes_per_s if gpu else None for gpu in gpus],
        },
        schema={"device": pl.Int64, "sms": pl.Int64, "bandwidth": pl.Float64},
    )
