"""Model layers, told from the longest periodic run of kernels in a step."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.naming import Names
from traceql.derived.repetition import Repetition, blocks
from traceql.trace import Trace


@memoised
def layer_kernels(trace: Trace) -> pl.DataFrame:
    """Kernels that lie in a layer: kernel_id, step_id, device, layer (0-based), position in the layer, repeats."""
    shape = ["grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"]
    loaded = trace.loaded["kernels"]
    symbol = loaded.select(Names.of(loaded["name"]).number, *shape).select(pl.struct(pl.all()).rank("dense"))
    kernels = (
        gpu_ops(trace)
        .filter((pl.col("kind") == "kernel") & pl.col("step_id").is_not_null())
        .select("step_id", "device", "start_ns", kernel_id="source_id")
        .sort("step_id", "device", "start_ns", "kernel_id", maintain_order=True)
    )
    symbols = symbol.to_series().gather(kernels["kernel_id"]).cast(pl.Int64).to_numpy()
    runs = kernels.select(pl.struct("step_id", "device").rle()).unnest("step_id")
    known: dict[bytes, Repetition] = {}
    first, periods, counts = [], [], []
    begin = 0
    for length in runs["len"]:
        step = symbols[begin : begin + length]
        found = known.get(step.tobytes()) or known.setdefault(step.tobytes(), blocks(step))
        first.append(begin + found.start)
        periods.append(found.period)
        counts.append(found.period * found.count)
        begin += length
    place = np.concatenate([np.arange(count) for count in [0, *counts]])
    rows = place + np.repeat(np.array(first, np.int64), counts)
    period = np.repeat(np.array(periods, np.int64), counts)
    return (
        kernels[rows]
        .select("kernel_id", "step_id", "device")
        .with_columns(
            layer=pl.Series(place // period, dtype=pl.Int64), position=pl.Series(place % period, dtype=pl.Int64)
        )
    )


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
