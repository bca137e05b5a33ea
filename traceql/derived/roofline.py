"""Place under the roofline: what a device can reach, what a kernel reached, which ceiling it is at."""

from __future__ import annotations

import polars as pl

from traceql import hardware
from traceql.derived import memoised
from traceql.trace import Trace

BUSY_SHARE = 0.40
"""A kernel is at a ceiling from 40 % of it; below both, calling it bound by either would be a guess."""

SHORT_NS = 5_000
"""Under 5 µs launch and drain take a large part of any kernel's time."""


@memoised
def device_match(trace: Trace, device: int | None) -> hardware.Match:
    """The GPU of ``device`` (None: the only one in the trace) in the table of peaks, or why none was found."""
    rows = trace.loaded["devices"]
    if device is not None and device in rows["device"]:
        rows = rows.filter(pl.col("device") == device)
    rows = rows.unique(["name", "memory_bytes", "sm_count"], maintain_order=True)
    if rows.is_empty():
        return hardware.Match(None, "the trace does not name its GPU")
    if rows.height > 1:
        return hardware.Match(None, f"the trace lists {rows.height} kinds of GPU and does not say which ran this")
    row = rows.row(0, named=True)
    return hardware.lookup(
        row["name"] or "",
        row["memory_bytes"],
        row["sm_count"],
        row["compute_capability"],
        bandwidth_bytes_per_s=row["memory_bandwidth_bytes_per_s"],
    )


def _peaks(trace: Trace, gemms: pl.DataFrame) -> pl.DataFrame:
    """Distinct (device, dtype) with bandwidth_bytes_per_s, peak FLOP/s and SM count; null where unknown."""
    rows = []
    for device, dtype in gemms.select("device", "dtype").unique().rows():
        gpu = device_match(trace, device).gpu
        rows.append(
            {
                "device": device, "dtype": dtype,
                "bandwidth": gpu.bandwidth_bytes_per_s if gpu else None,
                "peak": gpu.peak(dtype) if gpu else None,
                "sms": gpu.sm_count if gpu else None,
            }
        )  # fmt: skip
    schema = {
        "device": pl.Int64,
        "dtype": pl.String,
        "bandwidth": pl.Float64,
        "peak": pl.Float64,
        "sms": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema)


def classify(trace: Trace, gemms: pl.DataFrame) -> pl.DataFrame:
    """``gemms`` (flops, bytes, dur_ns, device, dtype, blocks) with intensity, ridge, achieved rates and ``bound``.

    compute: over the ridge and ≥ 40 % of peak FLOP/s · memory: under it and ≥ 40 % of peak bandwidth · latency: neither
    and either fewer blocks than SMs (under one wave) or under 5 µs · under: the rest.
    """
    seconds = pl.col("dur_ns") / 1e9
    flop_share = pl.col("achieved_tflops") * 1e12 / pl.col("peak")
    byte_share = pl.col("achieved_tb_per_s") * 1e12 / pl.col("bandwidth")
    over_ridge = pl.col("intensity") > pl.col("ridge")
    neither = (flop_share < BUSY_SHARE) & (byte_share < BUSY_SHARE)
    small = (pl.col("blocks") < pl.col("sms")).fill_null(False) | (pl.col("dur_ns") < SHORT_NS)
    roof = pl.min_horizontal("peak", pl.col("intensity") * pl.col("bandwidth"))
    return (
        gemms.join(_peaks(trace, gemms), on=["device", "dtype"], how="left", nulls_equal=True, maintain_order="left")
        .with_columns(
            intensity=pl.col("flops") / pl.col("bytes"),
            ridge=pl.col("peak") / pl.col("bandwidth"),
            achieved_tflops=pl.when(pl.col("dur_ns") > 0).then(pl.col("flops") / seconds / 1e12),
            achieved_tb_per_s=pl.when(pl.col("dur_ns") > 0).then(pl.col("bytes") / seconds / 1e12),
        )
        .with_columns(
            pct_of_roof=100 * pl.col("achieved_tflops") * 1e12 / roof,
            bound=pl.when(pl.col("peak").is_null() | pl.col("bandwidth").is_null() | (pl.col("dur_ns") <= 0))
            .then(None)
            .when(over_ridge & (flop_share >= BUSY_SHARE)).then(pl.lit("compute"))
            .when(~over_ridge & (byte_share >= BUSY_SHARE)).then(pl.lit("memory"))
            .when(neither & small).then(pl.lit("latency"))
            .otherwise(pl.lit("under")),
        )
    )  # fmt: skip
