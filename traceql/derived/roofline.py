"""Place under the roofline: what a device can reach, what a kernel reached, which ceiling it is at."""

from __future__ import annotations

import polars as pl

from traceql import hardware
from traceql.derived import memoised
from traceql.run_manifest import MEASURED
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
    match = hardware.lookup(
        row["name"] or "",
        row["memory_bytes"],
        row["sm_count"],
        row["compute_capability"],
        bandwidth_bytes_per_s=row["memory_bandwidth_bytes_per_s"],
        extra=trace.hardware,
    )
    return _measured(trace, match)


def _measured(trace: Trace, match: hardware.Match) -> hardware.Match:
    """``match`` with the peaks that the run's manifest says were measured on its GPU."""
    stated = trace.loaded["metadata"].filter(pl.col("key").str.starts_with(MEASURED))
    if match.gpu is None or stated.is_empty():
        return match
    peaks = {key.removeprefix(MEASURED): float(value) for key, value in stated.select("key", "value").rows()}
    bandwidth = peaks.pop("bandwidth", None)
    gpu = hardware.override(match.gpu, bandwidth, peaks, source="measured in the run")
    told = [f"{bandwidth / 1e12:.3g} TB/s"] if bandwidth else []
    told += [f"{dtype} {value / 1e12:,.0f} TFLOP/s" for dtype, value in sorted(peaks.items())]
    note = f"peaks as measured in this run ({', '.join(told)}), not the datasheet's"
    return hardware.Match(gpu, f"{match.note}; {note}" if match.note else note)


def _peaks(trace: Trace, work: pl.DataFrame) -> pl.DataFrame:
    """Distinct (device, dtype) with bandwidth bytes/s, peak FLOP/s, SM count and L2 bytes; null where unknown."""
    l2 = dict(trace.loaded["devices"].select("device", "l2_bytes").rows())
    rows = []
    for device, dtype in work.select("device", "dtype").unique().rows():
        gpu = device_match(trace, device).gpu
        rows.append(
            {
                "device": device, "dtype": dtype,
                "bandwidth": gpu.bandwidth_bytes_per_s if gpu else None,
                "peak": gpu.peak(dtype) if gpu and dtype else None,
                "sms": gpu.sm_count if gpu else None,
                "l2": l2.get(device) or (gpu.l2_bytes if gpu else None),
            }
        )  # fmt: skip
    schema = {
        "device": pl.Int64,
        "dtype": pl.String,
        "bandwidth": pl.Float64,
        "peak": pl.Float64,
        "sms": pl.Int64,
        "l2": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema)


def classify(trace: Trace, work: pl.DataFrame) -> pl.DataFrame:
    """``work`` (flops, bytes, dur_ns, device, dtype, blocks) with its place under the roofline.

    Adds intensity, ridge, achieved_tflops, achieved_tb_per_s, pct_of_roof, bound and note. Work without flops
    (copies, norms) has the memory roof alone.

    compute: over the ridge and ≥ 40 % of peak FLOP/s · memory: under it and ≥ 40 % of peak bandwidth · latency: neither
    and either fewer blocks than SMs (under one wave) or under 5 µs · under: the rest.
    """
    ran = pl.when(pl.col("dur_ns") > 0)
    peaks = _peaks(trace, work)
    return (
        work.join(peaks, on=["device", "dtype"], how="left", nulls_equal=True, maintain_order="left")
        .with_columns(
            intensity=pl.col("flops") / pl.col("bytes"),
            ridge=pl.col("peak") / pl.col("bandwidth"),
            achieved_tflops=ran.then(pl.col("flops") / pl.col("dur_ns") / 1e3),
            achieved_tb_per_s=ran.then(pl.col("bytes") / pl.col("dur_ns") / 1e3),
        )
        .with_columns(pct_of_roof=_pct_of_roof(), bound=_bound(), note=_note())
    )


_FLOP_SHARE = pl.col("achieved_tflops") * 1e12 / pl.col("peak")
_BYTE_SHARE = pl.col("achieved_tb_per_s") * 1e12 / pl.col("bandwidth")


def _pct_of_roof() -> pl.Expr:
    """Achieved over the lower ceiling at this intensity."""
    roof = pl.min_horizontal("peak", pl.col("intensity") * pl.col("bandwidth"))
    return 100 * pl.when(pl.col("flops").is_null()).then(_BYTE_SHARE).otherwise(pl.col("achieved_tflops") * 1e12 / roof)


def _bound() -> pl.Expr:
    bytes_only = pl.col("flops").is_null()
    flop_share = pl.when(bytes_only).then(0.0).otherwise(_FLOP_SHARE)
    over_ridge = (pl.col("intensity") > pl.col("ridge")) & ~bytes_only
    unknown = pl.col("bandwidth").is_null() | (pl.col("peak").is_null() & ~bytes_only) | (pl.col("dur_ns") <= 0)
    neither = (flop_share < BUSY_SHARE) & (_BYTE_SHARE < BUSY_SHARE)
    small = (pl.col("blocks") < pl.col("sms")).fill_null(False) | (pl.col("dur_ns") < SHORT_NS)
    return (
        pl.when(unknown | pl.col("bytes").is_null())
        .then(None)
        .when(over_ridge.fill_null(False) & (flop_share >= BUSY_SHARE))
        .then(pl.lit("compute"))
        .when(~over_ridge.fill_null(False) & (_BYTE_SHARE >= BUSY_SHARE))
        .then(pl.lit("memory"))
        .when(neither & small)
        .then(pl.lit("latency"))
        .otherwise(pl.lit("under"))
    )


L2_REUSE = "over the bandwidth peak: part of the bytes came from L2"
UNREAD = "over the bandwidth peak: not all of the operands were read"
CLOCK = "a little over the peak: the clock or the datasheet's rounding"
SPARSITY = "over the dense FLOP/s peak: structured sparsity, or another type than the operands'"
SHAPES = "over any FLOP/s peak: the shapes and the duration do not belong together"

_L2_LARGEST_BYTES = 256 * 2**20
"""No GPU of the table of peaks has a larger last cache (MI300X: 256 MB); what is larger cannot have come from it alone."""
_ROUNDING = 1.05
"""Boost clocks and rounded datasheet figures together stay within this."""


def _note() -> pl.Expr:
    """Which assumption breaks where a peak is exceeded; null where none is."""
    fits_l2 = pl.col("bytes") <= pl.coalesce("l2", pl.lit(_L2_LARGEST_BYTES))
    return (
        pl.when(_FLOP_SHARE > 2 * _ROUNDING)
        .then(pl.lit(SHAPES))
        .when(_FLOP_SHARE > _ROUNDING)
        .then(pl.lit(SPARSITY))
        .when((_BYTE_SHARE > 1) & fits_l2)
        .then(pl.lit(L2_REUSE))
        .when(_BYTE_SHARE > _ROUNDING)
        .then(pl.lit(UNREAD))
        .when((_BYTE_SHARE > 1) | (_FLOP_SHARE > 1))
        .then(pl.lit(CLOCK))
    )
