"""Model layers, told from the longest periodic run of kernels in a step."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.repetition import Repetition, blocks
from traceql.trace import Trace


@memoised
def layer_kernels(trace: Trace) -> pl.DataFrame:
    """Kernels that lie in a layer: kernel_id, step_id, device, layer (0-based), position in the layer, repeats."""
    shape = ["grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"]
    kernels = (
        gpu_ops(trace)
        .filter((pl.col("kind") == "kernel") & pl.col("step_id").is_not_null())
        .select("step_id", "device", "start_ns", kernel_id="source_id")
        .join(trace.loaded["kernels"].select("kernel_id", "name", *shape), on="kernel_id", how="left")
        .with_columns(symbol=pl.struct("name", *shape).rank("dense").cast(pl.Int64))
        .sort("step_id", "device", "start_ns", "kernel_id", maintain_order=True)
    )
    known: dict[bytes, Repetition] = {}
    parts = []
    for (step_id, device), step in kernels.group_by("step_id", "device", maintain_order=True):
        symbols = step["symbol"].to_numpy()
        found = known.get(symbols.tobytes()) or known.setdefault(symbols.tobytes(), blocks(symbols))
        if found.count:
            members = step.slice(found.start, found.period * found.count).select("kernel_id")
            parts.append(
                members.with_columns(
                    pl.lit(step_id, pl.Int64).alias("step_id"),
                    pl.lit(device, pl.Int64).alias("device"),
                    layer=pl.int_range(pl.len(), dtype=pl.Int64) // found.period,
                    position=pl.int_range(pl.len(), dtype=pl.Int64) % found.period,
                )
            )
    schema = {
        "kernel_id": pl.Int64,
        "step_id": pl.Int64,
        "device": pl.Int64,
        "layer": pl.Int64,
        "position": pl.Int64,
    }
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


@memoised
def layers(trace: Trace) -> pl.DataFrame:
    """The contract's ``layers``: one row a repeat, on the device it ran on."""
    times = (
        gpu_ops(trace).filter(pl.col("kind") == "kernel").select("start_ns", "end_ns", "rank", kernel_id="source_id")
    )
    rows = layer_kernels(trace).join(times, on="kernel_id", how="left", maintain_order="left")
    key = ["step_id", "device", "layer"]
    busy = intervals.union_ns(rows, key).rename({"union_ns": "gpu_busy_ns"})
    return (
        rows.group_by(key, maintain_order=True)
        .agg(
            pl.col("rank").first(),
            start_ns=pl.col("start_ns").min(),
            end_ns=pl.col("end_ns").max(),
            kernels=pl.len().cast(pl.Int64),
            first_kernel_id=pl.col("kernel_id").first(),
        )
        .with_columns(dur_ns=pl.col("end_ns") - pl.col("start_ns"))
        .join(busy, on=key, how="left", maintain_order="left")
        .with_columns(busy_ratio=pl.col("gpu_busy_ns") / pl.col("gpu_busy_ns").median().over("step_id", "device"))
    )
