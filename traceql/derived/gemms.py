"""Matrix products: shapes from operators, time from their kernels, place under the roofline."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gemm_shapes import CUSTOM_GEMM, FORM, GEMM_NAMES, gemm_form
from traceql.derived.layers import layer_kernels
from traceql.derived.ops import cpu_ops, op_gpu_rows
from traceql.derived.roofline import classify
from traceql.trace import Trace

SHAPE_COLUMNS = ["batch", "m", "n", "k", "dtype", "b_dtype", "flops", "bytes", "weight_bytes"]


@memoised
def gemms(trace: Trace) -> pl.DataFrame:
    """The contract's ``gemms``, in order of launch."""
    from traceql.derived.alignment import aligned_gemms

    measured = pl.concat([_from_shapes(trace), aligned_gemms(trace)], how="diagonal")
    return classify(trace, measured.sort("start_ns", maintain_order=True)).with_columns(
        gemm_id=pl.int_range(pl.len(), dtype=pl.Int64)
    )


def _from_shapes(trace: Trace) -> pl.DataFrame:
    found = gemm_ops(trace)
    rows = gemm_gpu_rows(trace)
    blocks = trace.loaded["kernels"].select(
        source_id="kernel_id", blocks=pl.col("grid_x") * pl.col("grid_y") * pl.col("grid_z")
    )
    layer = layer_kernels(trace).select("layer", source_id="kernel_id")
    return (
        rows.filter(pl.col("kind") == "kernel")
        .join(blocks, on="source_id", how="left", maintain_order="left")
        .join(layer, on="source_id", how="left", maintain_order="left")
        .group_by("gemm_op_id", maintain_order=True)
        .agg(
            pl.col("rank", "device", "step_id").first(),
            pl.col("layer").drop_nulls().first(),
            pl.col("start_ns").min(),
            pl.col("dur_ns").sum(),
            kernel_id=pl.col("source_id").sort_by("dur_ns").last(),
            kernel_name=pl.col("name").sort_by("dur_ns").last(),
            blocks=pl.col("blocks").sort_by("dur_ns").last(),
            kernels=pl.len().cast(pl.Int64),
        )
        .join(
            found.select(pl.col("op_id").alias("gemm_op_id"), pl.col("name").alias("op"), *SHAPE_COLUMNS),
            on="gemm_op_id",
        )
        .rename({"gemm_op_id": "op_id"})
        .with_columns(source=pl.lit("shapes"))
    )


@memoised
def gemm_ops(trace: Trace) -> pl.DataFrame:
    """Innermost GEMM operators with readable shapes: the columns of cpu_ops and SHAPE_COLUMNS."""
    name = pl.col("name")
    custom = name.str.contains(CUSTOM_GEMM) & ~name.str.starts_with("aten::")
    ops = cpu_ops(trace).filter(name.is_in(GEMM_NAMES) | custom)
    forms = ops.select("name", "input_shapes", "input_dtypes").unique()
    readable = forms.with_columns(pl.Series("form", [gemm_form(*row) for row in forms.rows()], dtype=FORM)).filter(
        pl.col("form").is_not_null()
    )
    shaped = ops.join(
        readable,
        on=["name", "input_shapes", "input_dtypes"],
        how="inner",
        nulls_equal=True,
        maintain_order="left",
    )
    inner = _nearest_ancestor(cpu_ops(trace), shaped["op_id"], strict=True)
    has_inner = inner.filter(inner >= 0).unique()
    return shaped.filter(~pl.col("op_id").is_in(has_inner.implode())).unnest("form")


@memoised
def gemm_gpu_rows(trace: Trace) -> pl.DataFrame:
    """GPU rows launched inside a GEMM operator, with its ``gemm_op_id``; fills (split-K workspaces) included."""
    ops = cpu_ops(trace)
    nearest = _nearest_ancestor(ops, gemm_ops(trace)["op_id"], strict=False)
    owner = pl.DataFrame({"op_id": ops["op_id"], "gemm_op_id": nearest}).filter(pl.col("gemm_op_id") >= 0)
    return op_gpu_rows(trace).join(owner, on="op_id", how="inner", maintain_order="left")


def _nearest_ancestor(ops: pl.DataFrame, chosen: pl.Series, *, strict: bool) -> pl.Series:
    """For each op (op_id is its row): the innermost of ``chosen`` around it, −1 if none; itself unless ``strict``."""
    is_chosen = np.zeros(ops.height, np.bool_)
    is_chosen[chosen.to_numpy()] = True
    return pl.Series(intervals.nearest(is_chosen, ops["parent_id"].fill_null(-1).to_numpy(), itself=not strict))
