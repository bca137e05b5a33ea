"""Copies on the device that operators asked for: which operator, of what tensor, from and to which type and layout."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl

from traceql.derived import intervals, memoised, recorded_inputs
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host_calls import op_callers
from traceql.derived.layers import layer_kernels
from traceql.derived.ops import cpu_ops, op_gpu_rows, op_instances
from traceql.dtypes import element_size_bytes
from traceql.trace import Trace

_COPY = "aten::copy_"
_ON_BEHALF = (
    "aten::copy_", "aten::_copy_from", "aten::clone", "aten::contiguous", "aten::to", "aten::_to_copy", "aten::type_as",
    "aten::reshape", "aten::flatten", "aten::_reshape_copy", "aten::float", "aten::half", "aten::bfloat16",
)  # fmt: skip
"""Operators that copy on behalf of whoever called them; one inside another is one copy."""

_FORM = pl.Struct(
    {
        "shape": pl.String,
        "from_strides": pl.String,
        "from_dtype": pl.String,
        "to_dtype": pl.String,
        "moved_bytes": pl.Int64,
    }
)


@memoised
def copies(trace: Trace) -> pl.DataFrame:
    """One row a device-side copy made by an operator, replayed copies included where an eager twin names them.

    gpu_op_id, step_id, layer, dur_ns, kernel; op (the outermost of the copying operators around it), caller_op and
    frame (the operator and the Python frame that called it; null where not recorded), shape, from_strides, from_dtype,
    to_dtype, moved_bytes (read plus written), null without shapes; host_ns (CPU time of the outermost operator, 0 in a
    replay), outer_id (the op_id of that operator, null in a replay), replayed.
    """
    own = _launched(trace).with_columns(replayed=pl.lit(False))
    return pl.concat([own, _replayed(trace, own.schema)]).sort("gpu_op_id")


def _launched(trace: Trace) -> pl.DataFrame:
    ops = cpu_ops(trace)
    host = op_instances(trace).select(outer_id="op_id", host_ns="cpu_ns")
    forms = ops.filter(pl.col("name") == _COPY).select("input_shapes", "input_strides", "input_dtypes").unique()
    described = forms.with_columns(pl.Series("form", [copy_form(*row) for row in forms.rows()], dtype=_FORM))
    copying = (
        ops.filter(pl.col("name") == _COPY)
        .join(described, on=["input_shapes", "input_strides", "input_dtypes"], how="left", nulls_equal=True)
        .unnest("form")
        .join(_outermost(trace), on="op_id")
        .join(host, on="outer_id", how="left")
        .select("op_id", "outer_id", "op", "caller_op", "frame", "host_ns", *_FORM.to_schema())
    )
    on_device = (pl.col("kind") == "kernel") | pl.col("name").is_in(["memcpy DtoD"])
    layer = layer_kernels(trace).select("layer", source_id="kernel_id", kind=pl.lit("kernel"))
    return (
        op_gpu_rows(trace)
        .filter(on_device)
        .join(copying, on="op_id")
        .join(layer, on=["source_id", "kind"], how="left")
        .select(
            "gpu_op_id", "step_id", "layer", "dur_ns", pl.col("name").alias("kernel"), "op", "caller_op", "frame",
            *_FORM.to_schema(), "host_ns", "outer_id",
        )
    )  # fmt: skip


def _replayed(trace: Trace, schema: pl.Schema) -> pl.DataFrame:
    """Copies inside graph replays, described by their twins in the aligned eager trace."""
    from traceql.derived.alignment import aligned_kernels

    aligned = aligned_kernels(trace).filter(pl.col("eager_kernel_id").is_not_null())
    if trace.eager is None or aligned.is_empty():
        return pl.DataFrame(schema=schema)
    ids = gpu_ops(trace.eager).filter(pl.col("kind") == "kernel").select("gpu_op_id", eager_kernel_id="source_id")
    twins = _launched(trace.eager).join(ids, on="gpu_op_id").drop("gpu_op_id", "step_id", "layer", "dur_ns", "kernel")
    layer = layer_kernels(trace).select("layer", "kernel_id")
    rows = gpu_ops(trace).filter(pl.col("kind") == "kernel")
    return (
        rows.select("gpu_op_id", "step_id", "dur_ns", "launch_kind", kernel="name", kernel_id="source_id")
        .filter(pl.col("launch_kind") == "graph")
        .join(aligned.select("kernel_id", "eager_kernel_id"), on="kernel_id")
        .join(twins, on="eager_kernel_id")
        .join(layer, on="kernel_id", how="left")
        .with_columns(host_ns=pl.lit(0, pl.Int64), outer_id=pl.lit(None, pl.Int64), replayed=pl.lit(True))
        .select(schema.names())
    )


def _outermost(trace: Trace) -> pl.DataFrame:
    """op_id → ``outer_id`` and ``op``, the outermost operator of the copying chain around it (or itself), the operator
    that called that one (``caller_op``) and the Python frame around it."""
    ops = cpu_ops(trace)
    parent = ops["parent_id"].fill_null(-1).to_numpy()
    copying = ops["name"].is_in(_ON_BEHALF).fill_null(False).to_numpy()
    top = intervals.nearest(copying & ~np.append(copying, False)[parent], parent, itself=True)
    outer = top[copying]
    return pl.DataFrame(
        {
            "op_id": np.flatnonzero(copying),
            "outer_id": outer,
            "op": ops["name"].gather(outer),
            "caller_op": ops["name"].gather(intervals.rows_or_null(parent[outer])),
            "frame": op_callers(trace, pl.Series(outer))["frame"],
        }
    )


def copy_form(shapes: str | None, strides: str | None, dtypes: str | None) -> dict[str, Any] | None:
    """Shape, source layout, types and bytes moved of an ``aten::copy_`` with these recorded inputs; None when they do
    not tell. Its first input is the target, the second the source."""
    try:
        (target, source), types = recorded_inputs.extents(shapes)[:2], recorded_inputs.types(dtypes)
        layout = recorded_inputs.extents(strides)[1] if strides else None
        to_dtype, from_dtype = (str(t).removeprefix("c10::") for t in types[:2])
        count, read = recorded_inputs.elements(target), recorded_inputs.elements(source)
    except (ValueError, TypeError, IndexError):
        return None
    to_size, from_size = element_size_bytes(to_dtype), element_size_bytes(from_dtype)
    moved = None if to_size is None or from_size is None else round(to_size * count + from_size * read)
    return {
        "shape": json.dumps(target),
        "from_strides": None if layout is None else json.dumps(layout),
        "from_dtype": from_dtype,
        "to_dtype": to_dtype,
        "moved_bytes": moved,
    }
