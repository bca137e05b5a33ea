"""Model layers, told from the longest periodic run of kernels in a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_REPEATS = 3
"""Two alike stretches may be chance (an attention kernel's two passes); three are a structure."""
_LONGEST_PERIOD = 2048
"""Kernels in a layer at most; bounds the search to n × 2048 comparisons a distinct step."""
_NEARLY = 0.9
"""A shorter period that explains nine tenths of what the best explains is the layer; the rest are its multiples."""


@dataclass(frozen=True)
class Repetition:
    """``count`` repeats of ``period`` items from position ``start``; count 0 when nothing repeats."""

    start: int
    period: int
    count: int


NO_REPETITION = Repetition(0, 0, 0)


def repetition(symbols: NDArray[np.int64]) -> Repetition:
    """The longest periodic run in a sequence, with the shortest period that explains it.

    A run of period p is a stretch where every item equals the one p before it. Single repeats that differ inside an
    otherwise periodic run (another GEMM variant in one layer) do not end it.
    """
    size = len(symbols)
    covered: dict[int, tuple[int, int]] = {}
    for period in range(1, min(size // _MIN_REPEATS, _LONGEST_PERIOD) + 1):
        start, length = _longest_run(symbols[period:] == symbols[:-period])
        if length >= period * (_MIN_REPEATS - 1):
            covered[period] = (start, length + period)
    if not covered:
        return NO_REPETITION
    most = max(length for _, length in covered.values())
    period = min(p for p, (_, length) in covered.items() if length >= _NEARLY * most)
    start, stop = _extended(symbols, period, covered[period][0], sum(covered[period]))
    return Repetition(start, period, (stop - start) // period)


def _longest_run(equal: NDArray[np.bool_]) -> tuple[int, int]:
    """Start and length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], equal, [False])).astype(np.int8)))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    best = int(np.argmax(lengths))
    return int(edges[2 * best]), int(lengths[best])


def _extended(symbols: NDArray[np.int64], period: int, start: int, stop: int) -> tuple[int, int]:
    """The run [start, stop) grown over whole repeats that differ in fewer than half of their items."""
    template = symbols[start : start + period]

    def alike(at: int) -> bool:
        return 2 * int((symbols[at : at + period] == template).sum()) > period

    while start - period >= 0 and alike(start - period):
        start -= period
    whole_stop = start + (stop - start) // period * period
    while whole_stop + period <= len(symbols) and alike(whole_stop):
        whole_stop += period
    return start, max(stop, whole_stop)


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
        found = known.get(symbols.tobytes()) or known.setdefault(symbols.tobytes(), repetition(symbols))
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
    )
