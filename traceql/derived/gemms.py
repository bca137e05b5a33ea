"""Matrix products: shapes from operators, time from their kernels, place under the roofline."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np
import polars as pl

from traceql.derived import memoised
from traceql.derived.layers import layer_kernels
from traceql.derived.ops import cpu_ops, op_gpu_rows
from traceql.derived.roofline import classify
from traceql.dtypes import element_size_bytes
from traceql.trace import Trace

_OPERANDS = {
    "aten::mm": 0, "aten::bmm": 0, "aten::_scaled_mm": 0, "aten::_int_mm": 0, "aten::mv": 0, "aten::addmv": 1,
    "aten::addmm": 1, "aten::baddbmm": 1, "aten::_addmm_activation": 1, "aten::addbmm": 1,
}  # fmt: skip
"""Operator → index of its left operand; the right one follows."""

_COMPOSITE = {"aten::linear", "aten::matmul"}
"""Operators that are a GEMM themselves only where no GEMM operator runs inside them."""

_CUSTOM = r"(?i)^[\w.]+::\w*(?:_mm|gemm|matmul|linear)\w*$"
"""Extensions' GEMM operators (fp8_scaled_mm, int8_gemm …), taken when their first two inputs multiply."""

SHAPE_COLUMNS = ["batch", "m", "n", "k", "dtype", "flops", "bytes"]


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
    """Innermost GEMM operators with readable shapes: the columns of cpu_ops and batch, m, n, k, dtype, flops, bytes."""
    name = pl.col("name")
    custom = name.str.contains(_CUSTOM) & ~name.str.starts_with("aten::")
    ops = cpu_ops(trace).filter(name.is_in([*_OPERANDS, *_COMPOSITE]) | custom)
    forms = ops.select("name", "input_shapes", "input_dtypes").unique()
    readable = forms.with_columns(pl.Series("form", [gemm_form(*row) for row in forms.rows()], dtype=_FORM)).filter(
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
    parent = np.append(ops["parent_id"].fill_null(-1).to_numpy(), -1)
    is_chosen = np.zeros(len(parent), np.bool_)
    is_chosen[chosen.to_numpy()] = True
    at = parent[:-1].copy() if strict else np.arange(ops.height)
    while (moving := (at >= 0) & ~is_chosen[at]).any():
        at[moving] = parent[at[moving]]
    return pl.Series(at, dtype=pl.Int64)


_FORM = pl.Struct(
    {
        "batch": pl.Int64,
        "m": pl.Int64,
        "n": pl.Int64,
        "k": pl.Int64,
        "dtype": pl.String,
        "flops": pl.Int64,
        "bytes": pl.Int64,
    }
)


def gemm_form(name: str, shapes: str | None, dtypes: str | None) -> dict[str, Any] | None:
    """What an operator with these recorded inputs multiplies; None when they do not say.

    FLOPs = 2·batch·M·N·K, bytes = each operand and the result once, at their element sizes.
    """
    try:
        dims, types = json.loads(shapes or "null"), json.loads(dtypes or "null")
        first = _OPERANDS.get(name, 0)
        left, right = dims[first], dims[first + 1]
        left_type, right_type = str(types[first]), str(types[first + 1])
        batch, m, n, k = _sizes(name, left, right)
    except (ValueError, TypeError, IndexError, KeyError):
        return None
    sizes = [element_size_bytes(t) for t in (left_type, right_type)]
    if min(batch, m, n, k) < 1 or sizes[0] is None or sizes[1] is None:
        return None
    result_size = sizes[0] if sizes[0] >= 2 else 2.0  # 8-bit products are written as 16-bit
    moved = batch * (sizes[0] * m * k + sizes[1] * k * n + result_size * m * n)
    dtype = left_type.removeprefix("c10::")
    return {
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "dtype": dtype,
        "flops": 2 * batch * m * n * k,
        "bytes": round(moved),
    }


def _sizes(name: str, left: list[int], right: list[int]) -> tuple[int, int, int, int]:
    """(batch, M, N, K); ValueError when the operands do not multiply."""
    if name == "aten::linear":  # x[…, K] · weight[N, K]ᵀ
        rows, (columns, inner) = left[:-1], right
        if left[-1] != inner:
            raise ValueError("inner dimensions differ")
        return 1, prod(rows), columns, inner
    if len(right) == 1 and len(left) == 2:  # matrix · vector
        right = [*right, 1]
    if len(left) == len(right) == 3 and left[0] == right[0]:
        batch, left, right = left[0], left[1:], right[1:]
    else:
        batch = 1
    if len(right) != 2 or len(left) < 2 or left[-1] != right[0]:
        raise ValueError("operands do not multiply")
    return batch, prod(left[:-1]), right[1], right[0]
