"""Kernels with known traffic or operations under the roofline, whatever tells of them: shapes, alignment, counters."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.gemms import gemms
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.kv_lengths import paged_attention
from traceql.derived.op_traffic import INPUTS, with_traffic
from traceql.derived.ops import cpu_ops, op_gpu_rows
from traceql.derived.roofline import classify
from traceql.trace import Trace


@memoised
def roofline(trace: Trace) -> pl.DataFrame:
    """The contract's ``roofline``, in order of start; of several sources shapes come first, then alignment."""
    from traceql.derived import ncu_join

    if trace.source == "ncu":
        return ncu_join.report_roofline(trace)
    known = shaped(trace)
    counted = (
        ncu_join.timeline_roofline(trace)
        .join(known, on="kernel_id", how="anti")
        .join(gemm_kernels(trace), on="kernel_id", how="anti")  # a split-K reduction is part of its product's row
    )
    named = trace.table("kernels").select("kernel_id", "category", name="short_name")
    return (
        pl.concat([known, counted], how="diagonal_relaxed")
        .join(named, on="kernel_id", how="left")
        .sort("start_ns", "kernel_id", maintain_order=True)
    )


@memoised
def shaped(trace: Trace) -> pl.DataFrame:
    """Rows of ``roofline`` whose figures come from shapes, own or aligned."""
    parts = [_of_gemms(trace), _of_operators(trace), _of_replays(trace), paged_attention(trace)]
    return pl.concat(parts, how="diagonal_relaxed").unique("kernel_id", keep="first", maintain_order=True)


@memoised
def over_peak(trace: Trace) -> pl.DataFrame:
    """Kernels that exceed a peak: name, op, note, count, worst pct_of_roof; a broken assumption, not a fast kernel."""
    return (
        trace.table("roofline")
        .filter(pl.col("note").is_not_null())
        .group_by("name", "op", "note")
        .agg(count=pl.len(), pct_of_roof=pl.col("pct_of_roof").max(), bytes=pl.col("bytes").first())
        .sort("pct_of_roof", descending=True, nulls_last=True)
    )


@memoised
def gemm_kernels(trace: Trace) -> pl.DataFrame:
    """kernel_id of every kernel that belongs to a matrix product with known shapes."""
    from traceql.derived.gemms import gemm_gpu_rows

    own = gemm_gpu_rows(trace).filter(pl.col("kind") == "kernel").select(kernel_id="source_id")
    if trace.eager is None:
        return own
    twins = gemm_gpu_rows(trace.eager).filter(pl.col("kind") == "kernel").select(eager_kernel_id="source_id")
    aligned = trace.table("aligned_kernels").join(twins, on="eager_kernel_id").select("kernel_id")
    return pl.concat([own, aligned]).unique()


@memoised
def gemm_coverage(trace: Trace) -> pl.DataFrame:
    """step_id → ``total_ns`` of its kernels that are matrix products, by name or by operator; ``known_ns`` of those with
    known shapes; ``known_pct``."""
    known = gemm_kernels(trace).with_columns(known=pl.lit(True))
    return (
        trace.table("kernels")
        .filter(pl.col("step_id").is_not_null())
        .join(known, on="kernel_id", how="left")
        .filter((pl.col("category") == "gemm") | pl.col("known"))
        .group_by("step_id")
        .agg(total_ns=pl.col("dur_ns").sum(), known_ns=pl.col("dur_ns").filter(pl.col("known")).sum())
        .with_columns(known_pct=100 * pl.col("known_ns") / pl.col("total_ns"))
    )


def unknown_gemms(trace: Trace, min_known_pct: float) -> str | None:
    """Why nothing can be concluded of a trace's matrix products: too little of their time has shapes; None if enough."""
    found = gemm_coverage(trace)
    known = 100 * int(found["known_ns"].sum()) / max(int(found["total_ns"].sum()), 1)
    if known >= min_known_pct:
        return None
    return f"only {known:.0f} % of the steps' GEMM time has shapes; align with an eager trace to get the rest"


def _of_gemms(trace: Trace) -> pl.DataFrame:
    shared = [
        "op",
        "start_ns",
        "dur_ns",
        "device",
        "step_id",
        "kernels",
        "dtype",
        "flops",
        "bytes",
        "intensity",
        "ridge",
    ]
    place = ["achieved_tflops", "achieved_tb_per_s", "pct_of_roof", "bound", "source", "note"]
    found = gemms(trace).select("kernel_id", "rank", *shared, *place)
    return found.join(_blocks(trace), on="kernel_id", how="left", maintain_order="left")


def _blocks(trace: Trace) -> pl.DataFrame:
    blocks = pl.col("grid_x") * pl.col("grid_y") * pl.col("grid_z")
    return trace.loaded["kernels"].select("kernel_id", blocks=blocks)


_CALL = ["kernel_id", "rank", "start_ns", "dur_ns", "device", "step_id", "call", "name", "dtype", "flops", "bytes"]


def _of_operators(trace: Trace) -> pl.DataFrame:
    """Kernels launched by operators whose traffic their shapes tell."""
    known = with_traffic(cpu_ops(trace).select("op_id", *INPUTS))
    rows = op_gpu_rows(trace).filter(pl.col("kind") == "kernel").drop("name").rename({"source_id": "kernel_id"})
    owned = rows.join(known, on="op_id", how="inner", maintain_order="left").rename({"op_id": "call"})
    return _classified(trace, _by_call(trace, owned.select(_CALL)), "shapes")


def _of_replays(trace: Trace) -> pl.DataFrame:
    """Replayed kernels whose eager twins belong to such an operator, where all kernels of the operator have twins."""
    if trace.eager is None:
        return pl.DataFrame(schema={"kernel_id": pl.Int64})
    launched = op_gpu_rows(trace.eager).filter(pl.col("kind") == "kernel").group_by(eager_op_id="op_id").len("wanted")
    strides = cpu_ops(trace.eager).select("input_strides", eager_op_id="op_id")
    replayed = gpu_ops(trace).filter((pl.col("kind") == "kernel") & (pl.col("launch_kind") == "graph"))
    owned = (
        trace.table("aligned_kernels")
        .drop("dur_ns")
        .rename({"op": "name"})
        .join(strides, on="eager_op_id", how="inner", maintain_order="left")
        .pipe(with_traffic)
        .join(
            replayed.select("start_ns", "dur_ns", "device", kernel_id="source_id"),
            on="kernel_id",
            maintain_order="left",
        )
        .with_columns(call=pl.struct("step_id", "eager_op_id"))
    )
    calls = (
        _by_call(trace, owned.select(_CALL))
        .with_columns(eager_op_id=pl.col("call").struct.field("eager_op_id"))
        .join(launched, on="eager_op_id", how="left", maintain_order="left")
        .filter(pl.col("kernels") == pl.col("wanted"))
    )
    return _classified(trace, calls, "alignment")


def _by_call(trace: Trace, owned: pl.DataFrame) -> pl.DataFrame:
    """One row an operator call, on its longest kernel; matrix products are left to ``gemms``."""
    return (
        owned.join(gemm_kernels(trace), on="kernel_id", how="anti", maintain_order="left")
        .join(_blocks(trace), on="kernel_id", how="left", maintain_order="left")
        .group_by("call", maintain_order=True)
        .agg(
            pl.col("kernel_id", "blocks").sort_by("dur_ns").last(),
            pl.col("rank", "device", "step_id", "dtype", "flops", "bytes").first(),
            pl.col("start_ns").min(),
            pl.col("dur_ns").sum(),
            op=pl.col("name").first(),
            kernels=pl.len().cast(pl.Int64),
        )
    )


def _classified(trace: Trace, calls: pl.DataFrame, source: str) -> pl.DataFrame:
    rows = classify(trace, calls.with_columns(source=pl.lit(source)))
    return rows.drop("call", "eager_op_id", "wanted", strict=False)
