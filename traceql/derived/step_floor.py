"""The shortest a step can be: the bytes it must move over the bandwidth, and its operations over the FLOP/s peak."""

from __future__ import annotations

import polars as pl

from traceql import schema
from traceql.derived import memoised
from traceql.derived.gemms import gemms
from traceql.derived.kernel_roofline import gemm_coverage, roofline
from traceql.derived.kv_cache import kv_bytes_per_token
from traceql.derived.roofline import device_match
from traceql.derived.steps import steps
from traceql.trace import Trace

_PLACE = ["step_id", "device"]
"""Of a step that ran on several devices, the work on the one that stands for it counts."""
_WHOLE_PCT = 90.0
"""Share of kernel time whose traffic must be known to call the sum the step's, not a part of it."""


@memoised
def step_floor(trace: Trace, kv_tokens: int | None = None) -> pl.DataFrame:
    """The contract's ``step_floor``, most steps first; empty where no product of a step has a known shape.

    ``kv_tokens`` is the sum of the sequence lengths where the caller knows it; else keys and values count where the
    shapes or the counters of the attention kernels tell their bytes.
    """
    weights = _weights(trace)
    if weights.is_empty():
        return schema.TABLES["step_floor"].empty()
    match = device_match(trace, weights["device"][0])
    bandwidth = match.gpu.bandwidth_bytes_per_s if match.gpu else None
    given = pl.lit(kv_tokens, pl.Int64) * pl.col("kv_bytes_per_token")
    lower = pl.col("weight_bytes") + pl.col("kv_bytes").fill_null(0)
    kinds = ["kind", "batch_size"]
    measured = (
        steps(trace)
        .select("step_id", *kinds, "gpu_busy_ns", "period_ns")
        .join(weights, on="step_id", how="inner")
        .join(kv_bytes_per_token(trace), on="step_id", how="left")
        .join(_attention_bytes(trace), on="step_id", how="left")
        .with_columns(given_bytes=given)
    )
    count = steps(trace).group_by(kinds).agg(steps=pl.len().cast(pl.Int64))
    figures = [
        "gpu_busy_ns",
        "period_ns",
        "weight_bytes",
        "compute_floor_ns",
        "kv_bytes_per_token",
        "attention_bytes",
        "given_bytes",
    ]
    return (
        measured.group_by(kinds, maintain_order=True)
        .agg(
            pl.col(figures).median().round().cast(pl.Int64),
            pl.col("known_pct").median().alias("gemms_known_pct"),
            pl.col("source").first(),
        )
        .join(count, on=kinds, how="left", nulls_equal=True)
        .with_columns(
            rank=pl.lit(trace.rank, pl.Int64),
            gpu=pl.lit(match.gpu.name if match.gpu else None, pl.String),
            bandwidth_bytes_per_s=pl.lit(bandwidth, pl.Float64),
            kv_bytes=pl.coalesce("given_bytes", "attention_bytes"),
        )
        .with_columns(floor_ns=(lower / pl.col("bandwidth_bytes_per_s") * 1e9).round().cast(pl.Int64))
        .with_columns(limit=pl.max_horizontal("floor_ns", "compute_floor_ns"))
        .with_columns(
            busy_over_floor=pl.col("gpu_busy_ns") / pl.col("limit"),
            period_over_floor=pl.col("period_ns") / pl.col("limit"),
            source=_source(),
            note=_note(),
        )
        .sort("steps", "kind", "batch_size", descending=[True, False, False])
    )


def _weights(trace: Trace) -> pl.DataFrame:
    """step_id → weight_bytes, compute_floor_ns (null without a peak), device, source and the share of time known."""
    found = gemms(trace).filter(pl.col("batch") == 1).join(steps(trace), on=_PLACE, how="semi")
    match = device_match(trace, found["device"][0] if found.height else None)
    bandwidth = pl.lit(match.gpu.bandwidth_bytes_per_s if match.gpu else None, pl.Float64)
    at_peak_ns = pl.col("flops") / (pl.col("ridge") * bandwidth) * 1e9
    products = found.group_by("step_id").agg(
        pl.col("weight_bytes").sum(),
        pl.col("device").first(),
        pl.col("source").unique().sort().str.join(" and "),
        compute_floor_ns=pl.when(pl.col("ridge").null_count() == 0).then(at_peak_ns.sum()),
    )
    return products.join(gemm_coverage(trace).select("step_id", "known_pct"), on="step_id", how="left")


def _attention_bytes(trace: Trace) -> pl.DataFrame:
    """step_id → bytes of its attention kernels, where nearly all of their time has known traffic."""
    kernels = trace.table("kernels").filter(pl.col("category") == "attention").join(steps(trace), on=_PLACE, how="semi")
    known = roofline(trace).filter(pl.col("bytes").is_not_null()).select("kernel_id", "bytes")
    share = pl.col("dur_ns").filter(pl.col("bytes").is_not_null()).sum() / pl.col("dur_ns").sum()
    return (
        kernels.join(known, on="kernel_id", how="left")
        .group_by("step_id")
        .agg(attention_bytes=pl.when(share >= _WHOLE_PCT / 100).then(pl.col("bytes").sum()))
        .drop_nulls()
    )


def _source() -> pl.Expr:
    kv = (
        pl.when(pl.col("given_bytes").is_not_null())
        .then(pl.lit("; keys and values as given"))
        .when(pl.col("attention_bytes").is_not_null())
        .then(pl.lit("; keys and values from attention kernels"))
        .otherwise(pl.lit(""))
    )
    return pl.col("source") + kv


def _note() -> pl.Expr:
    """What is left out, most important first."""
    partly = pl.format(
        "{} % of the matrix products' time has shapes: more weights are read",
        pl.col("gemms_known_pct").round(0).cast(pl.Int64),
    )
    return (
        pl.when(pl.col("gpu_busy_ns") < pl.col("limit"))
        .then(pl.lit("measured below the floor: weights stayed in L2 or were not all read"))
        .when(pl.col("gemms_known_pct") < _WHOLE_PCT)
        .then(partly)
        .when(pl.col("kv_bytes").is_null())
        .then(pl.lit("keys and values not counted: their lengths are unknown"))
    )
