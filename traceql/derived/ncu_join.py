"""Nsight Compute's counters joined to a timeline: which kernels they hold for, and where the two disagree.

Nsight Compute runs a kernel alone, with caches flushed and clocks held at base. Its counters therefore hold for a
kernel of the program where the two durations agree; for small kernels they do not, and the join says so.
"""

from __future__ import annotations

import polars as pl

from traceql import schema
from traceql.derived import memoised
from traceql.derived.roofline import BUSY_SHARE, SHORT_NS, classify
from traceql.kernel_names import described
from traceql.trace import Trace

LAUNCH = ["grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"]
SITE = ["short_name", *LAUNCH]
"""What one kernel of a program is known by in both tools."""

_BUSY_PCT = 100 * BUSY_SHARE
_ALIKE = 0.25
"""Durations and bytes this close are taken for the same work; base clocks and cold caches cost large kernels less."""


@memoised
def profiled(trace: Trace) -> pl.DataFrame:
    """``ncu_kernels`` by name and launch shape: the profile of median duration, with ncu_calls, ncu_total_ns, category
    and ``bound``, its class by the counters alone."""
    rows = described(trace.loaded["ncu_kernels"].with_columns(category=pl.lit(None, pl.String)))
    median = pl.col("dur_ns").rank("ordinal").over(SITE) == (pl.len().over(SITE) + 1) // 2
    return (
        rows.with_columns(
            ncu_calls=pl.len().over(SITE).cast(pl.Int64),
            ncu_total_ns=pl.col("dur_ns").sum().over(SITE),
            spread=(pl.col("dur_ns").max() / pl.col("dur_ns").min()).over(SITE),
        )
        .filter(median)
        .sort("ncu_kernel_id")
        .with_columns(bound=bound_by_counters())
    )


def bound_by_counters() -> pl.Expr:
    """compute, memory, latency or under by the units' utilisation over ``dur_ns``, the profiled duration.

    A unit counts from 40 % of its peak, as in the classes by shapes; the busier one names the class.
    """
    sm, memory = pl.col("sm_throughput_pct"), pl.col("memory_throughput_pct")
    return (
        pl.when(sm.is_null() | memory.is_null())
        .then(None)
        .when((memory >= _BUSY_PCT) & (memory >= sm))
        .then(pl.lit("memory"))
        .when(sm >= _BUSY_PCT)
        .then(pl.lit("compute"))
        .when(_small(pl.col("dur_ns")))
        .then(pl.lit("latency"))
        .otherwise(pl.lit("under"))
    )


def _bound_in_program() -> pl.Expr:
    """The class on the timeline: that of the counters where they hold.

    Elsewhere the same work in the timeline's duration bounds the utilisation from above (the program's clocks are
    higher, its caches warmer): latency or under where that stays below 40 %, else unknown.
    """
    most = pl.max_horizontal("sm_throughput_pct", "memory_throughput_pct") * pl.col("dur_ns") / pl.col("timeline_ns")
    idle = pl.when(_small(pl.col("timeline_ns"))).then(pl.lit("latency")).otherwise(pl.lit("under"))
    return pl.when("comparable").then(bound_by_counters()).when(most < _BUSY_PCT).then(idle)


def _small(dur_ns: pl.Expr) -> pl.Expr:
    return (pl.col("waves_per_sm") < 1).fill_null(False) | (dur_ns < SHORT_NS)


@memoised
def ncu_matches(trace: Trace) -> pl.DataFrame:
    """The contract's ``ncu_matches``, most timeline time first."""
    if trace.loaded["ncu_kernels"].is_empty() or trace.loaded["kernels"].is_empty():
        return schema.TABLES["ncu_matches"].empty()
    kernels = trace.table("kernels").join(_shape_based(trace), on="kernel_id", how="left", maintain_order="left")
    product = pl.struct("m", "n", "k", "dtype")
    sites = kernels.group_by(SITE, maintain_order=True).agg(
        pl.col("rank", "category").first(),
        calls=pl.len().cast(pl.Int64),
        timeline_ns=pl.col("dur_ns").median().round().cast(pl.Int64),
        total_ns=pl.col("dur_ns").sum(),
        shapes=product.filter(pl.col("m").is_not_null()).n_unique().cast(pl.Int64),
        shape_bytes=pl.col("bytes").drop_nulls().mode().min(),
        bound_by_shapes=pl.col("bound").drop_nulls().mode().sort().first(),
    )
    counters = profiled(trace).drop("category", "rank", "bound")
    same_work = (pl.col("shapes") <= 1) & _close(pl.col("dur_ns"), pl.col("timeline_ns"))
    return (
        sites.join(counters, on=SITE, how="inner")
        .with_columns(comparable=same_work)
        .with_columns(bound_by_counters=_bound_in_program())
        .with_columns(
            shapes=pl.when(pl.col("shapes") > 0).then("shapes"),
            agree=pl.col("bound_by_shapes") == pl.col("bound_by_counters"),
            ncu_dur_ns="dur_ns",
            dur_ns="timeline_ns",
            name="short_name",
        )
        .with_columns(reason=_reason())
        .sort("total_ns", "name", descending=[True, False])
    )


def _close(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    return (left / right).is_between(1 / (1 + _ALIKE), 1 + _ALIKE)


def _reason() -> pl.Expr:
    """Why the two classes differ, where durations, bytes or shapes tell; null where they agree."""
    us = (pl.col(c) / 1000 for c in ("ncu_dur_ns", "dur_ns"))
    mb = (pl.col(c) / 1e6 for c in ("dram_bytes", "shape_bytes"))
    several = pl.format("{} products run under this name and launch shape; one was measured", "shapes")
    alone = pl.format("alone with cold caches it takes {} µs, in the program {} µs", *(x.round(1) for x in us))
    cached = pl.format(
        "DRAM moved {} MB of the {} MB its tensors hold: the rest stayed in L2", *(x.round(1) for x in mb)
    )
    return (
        pl.when(pl.col("agree").fill_null(True))
        .then(None)
        .when(pl.col("shapes") > 1)
        .then(several)
        .when(~_close(pl.col("dram_bytes"), pl.col("shape_bytes")) & (pl.col("dram_bytes") < pl.col("shape_bytes")))
        .then(cached)
        .when(~_close(pl.col("ncu_dur_ns"), pl.col("dur_ns")))
        .then(alone)
    )


def _shape_based(trace: Trace) -> pl.DataFrame:
    """kernel_id → bytes and class by shapes, with m, n, k and dtype of a matrix product."""
    from traceql.derived.gemms import gemms
    from traceql.derived.kernel_roofline import shaped

    products = gemms(trace).select("kernel_id", "m", "n", "k")
    alone = pl.when(pl.col("kernels") == 1)  # figures of an operator's several kernels are none of one kernel
    return (
        shaped(trace)
        .select("kernel_id", "dtype", bytes=alone.then("bytes"), bound=alone.then("bound"))
        .join(products, on="kernel_id", how="left")
    )


_PLACED = [
    "ncu_kernel_id", "rank", "device", "kernels", "blocks", "dtype", "flops", "bytes", "intensity", "ridge",
    "achieved_tflops", "achieved_tb_per_s", "pct_of_roof", "bound", "source", "note", "dur_ns",
]  # fmt: skip


def timeline_roofline(trace: Trace) -> pl.DataFrame:
    """Kernels of the timeline whose counters hold for them, as rows of ``roofline``."""
    matches = ncu_matches(trace).filter("comparable")
    if matches.is_empty():
        return pl.DataFrame(schema={"kernel_id": pl.Int64})
    counted = matches.select("ncu_kernel_id", "bound_by_counters", *LAUNCH, short_name="name")
    rows = trace.table("kernels").join(counted, on=SITE, how="inner", maintain_order="left")
    return _placed(trace, rows).select("kernel_id", "start_ns", "step_id", *_PLACED)


def report_roofline(trace: Trace) -> pl.DataFrame:
    """Every profiled kernel of a report, as rows of ``roofline``."""
    rows = described(trace.loaded["ncu_kernels"].with_columns(category=pl.lit(None, pl.String)))
    alone = rows.with_columns(bound_by_counters=bound_by_counters())
    return _placed(trace, alone).select("category", *_PLACED, name="short_name")


def _placed(trace: Trace, rows: pl.DataFrame) -> pl.DataFrame:
    """``rows`` (ncu_kernel_id, dur_ns, bound_by_counters) under the roofline, with the class the counters give."""
    shaped = rows.join(_amounts(trace), on="ncu_kernel_id", how="left", maintain_order="left").with_columns(
        blocks=pl.col("grid_x") * pl.col("grid_y") * pl.col("grid_z"), kernels=pl.lit(1, pl.Int64)
    )
    return classify(trace, shaped).with_columns(bound=pl.col("bound_by_counters"), source=pl.lit("ncu"))


_TENSOR_TYPE = r"^sm__ops_path_tensor_src_([a-z0-9]+?)(?:_\w+)?\.sum$"


@memoised
def _amounts(trace: Trace) -> pl.DataFrame:
    """ncu_kernel_id → bytes to and from DRAM, tensor operations, and the type with most of these."""
    kinds = (
        trace.loaded["ncu_metrics"]
        .filter(pl.col("metric").str.contains(_TENSOR_TYPE) & (pl.col("value") > 0))
        .sort("value")
        .group_by("ncu_kernel_id", maintain_order=True)
        .agg(dtype=pl.col("metric").last().str.extract(_TENSOR_TYPE))
    )
    amounts = trace.loaded["ncu_kernels"].select(
        "ncu_kernel_id", bytes="dram_bytes", flops=pl.when(pl.col("tensor_flops") > 0).then("tensor_flops")
    )
    return amounts.join(kinds, on="ncu_kernel_id", how="left")


@memoised
def weighted(trace: Trace) -> pl.DataFrame:
    """``profiled`` with ``calls``, ``total_ns`` and ``share_pct``: of the timeline's kernel time where there is one that
    ran any of them (those that did not run on it are left out), else of the time of all profiled kernels; and ``side``:
    memory or compute, where the intensity by the counters lies of the ridge."""
    rows = profiled(trace)
    if ncu_matches(trace).is_empty():
        timed = rows.with_columns(calls="ncu_calls", total_ns="ncu_total_ns")
        every = int(timed["total_ns"].sum())
    else:
        on_timeline = ncu_matches(trace).select("ncu_kernel_id", "calls", "total_ns")
        timed = rows.join(on_timeline, on="ncu_kernel_id", how="inner", maintain_order="left")
        every = int(trace.loaded["kernels"]["dur_ns"].sum())
    counted = (
        timed.with_columns(share_pct=100 * pl.col("total_ns") / max(every, 1), counted="bound")
        .join(_amounts(trace), on="ncu_kernel_id", how="left", maintain_order="left")
        .with_columns(blocks=pl.lit(None, pl.Int64))
    )
    over = pl.col("intensity") > pl.col("ridge")
    return (
        classify(trace, counted)
        .with_columns(bound="counted", side=pl.when(over).then(pl.lit("compute")).when(~over).then(pl.lit("memory")))
        .sort("total_ns", "short_name", descending=[True, False])
    )


def launch_shape(row: dict[str, object]) -> str:
    """``4×28×1 blocks of 384`` for a row with grid and block sizes."""
    sizes = [row[axis] for axis in LAUNCH]
    if any(size is None for size in sizes):
        return "unknown launch shape"
    threads = int(sizes[3]) * int(sizes[4]) * int(sizes[5])  # type: ignore[call-overload]
    return f"{sizes[0]}×{sizes[1]}×{sizes[2]} blocks of {threads}"
