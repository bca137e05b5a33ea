"""What an operator multiplies, told from its recorded input shapes and types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived import recorded_inputs
from traceql.dtypes import dtype_class, element_size_bytes


@dataclass(frozen=True)
class _Layout:
    """Where an operator keeps its operands.

    ``left`` and ``right`` are input positions; ``transposed``: the right one is [N, K]; ``per_element``: values that
    one stored element holds (FP4 in bytes: 2); ``result_bytes``: element size of the result, None for the usual one;
    ``summed``: the products of the batch are added into one result.
    """

    left: int = 0
    right: int = 1
    transposed: bool = False
    per_element: int = 1
    result_bytes: float | None = None
    summed: bool = False


_ADDED = _Layout(1, 2)  # the first input is added to the product
_ATEN = {
    "aten::mm": _Layout(), "aten::bmm": _Layout(), "aten::mv": _Layout(), "aten::_scaled_mm": _Layout(),
    "aten::_int_mm": _Layout(result_bytes=4), "aten::_weight_int8pack_mm": _Layout(transposed=True),
    "aten::_weight_int4pack_mm": _Layout(), "aten::matmul": _Layout(), "aten::linear": _Layout(transposed=True),
    "aten::addmm": _ADDED, "aten::addmv": _ADDED, "aten::baddbmm": _ADDED,
    "aten::addbmm": _Layout(1, 2, summed=True), "aten::_addmm_activation": _ADDED,
}  # fmt: skip

_EXTENSIONS = {
    "cutlass_scaled_mm": _Layout(1, 2),  # the result comes first
    "cutlass_scaled_mm_azp": _Layout(1, 2),
    "cutlass_scaled_fp4_mm": _Layout(1, 2, transposed=True, per_element=2),
    "dsv3_fused_a_gemm": _Layout(1, 2),
    "dsv3_router_gemm": _Layout(1, 2, transposed=True),
    "deep_gemm_fp8_fp8_bf16_nt": _Layout(0, 2, transposed=True),  # each operand is followed by its scales
    "deep_gemm_mxfp8_fp8_bf16_nt": _Layout(0, 2, transposed=True),
    "rocm_unquantized_gemm": _Layout(transposed=True),
}
"""Operators of sgl-kernel, vLLM and SGLang whose inputs are not simply [M, K], [K, N]; by name without namespace."""

GEMM_NAMES = tuple(_ATEN)
CUSTOM_GEMM = r"(?i)^[\w.]+::\w*(?:_mm|gemm|matmul|linear|_mm_azp|_bf16_nt)\w*$"
"""Names of extensions' GEMM operators; they count when their inputs multiply."""

_TRANSPOSED_NAME = re.compile(r"(?i)linear|_nt$")
_GROUPED_NAME = re.compile(r"(?i)group|moe|expert|ragged|masked|segment|s?gmv|lora")
"""Products of groups of rows with different weights (experts, adapters): how many rows each has is not recorded."""
_PACKED_BITS = (2, 3, 4, 8)

FORM = pl.Struct(
    {
        "batch": pl.Int64, "m": pl.Int64, "n": pl.Int64, "k": pl.Int64, "dtype": pl.String, "b_dtype": pl.String,
        "flops": pl.Int64, "bytes": pl.Int64, "weight_bytes": pl.Int64,
    }
)  # fmt: skip


def gemm_form(name: str, shapes: str | None, dtypes: str | None) -> dict[str, Any] | None:
    """What an operator with these recorded inputs multiplies: the fields of FORM; None when they do not say.

    FLOPs = 2·batch·M·N·K, bytes = each operand and the result once at their element sizes; ``weight_bytes`` is the
    right operand alone, with the scales of packed weights.
    """
    if _GROUPED_NAME.search(name):
        return None
    try:
        dims, types = recorded_inputs.extents(shapes), recorded_inputs.types(dtypes)
        layout = _known(name)
        form = _packed(name, dims, types)
        if form is None and layout is None:
            layout = _guessed(name, dims, types)
        form = form or (_plain(layout, dims, types) if layout else None)
        return form if form and max(form["flops"], form["bytes"]) < recorded_inputs.MOST_COUNT else None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError):
        return None


def _known(name: str) -> _Layout | None:
    return _ATEN.get(name) or _EXTENSIONS.get(name.rpartition("::")[2])


def _guessed(name: str, dims: Any, types: Any) -> _Layout | None:
    """The layout of an operator nobody listed: its first two inputs, unless others among its first four multiply too
    (a result that is passed first); then nothing is concluded."""
    transposed = _TRANSPOSED_NAME.search(name) is not None
    kinds = [dtype_class(str(kind)) for kind in types[:4]]
    operands = [i for i, kind in enumerate(kinds) if kind and len(dims[i]) > 1]
    pairs = [(i, j) for i in operands for j in operands if i < j and (kinds[i] == kinds[j] or (i, j) == (0, 1))]
    fitting = [(i, j) for i, j in pairs if _multiplies(dims[i], dims[j], transposed)]
    return _Layout(transposed=transposed) if fitting == [(0, 1)] else None


def _multiplies(left: Any, right: Any, transposed: bool) -> bool:
    try:
        return min(_sizes(left, right, transposed)) > 0
    except (ValueError, TypeError):
        return False


def _plain(layout: _Layout, dims: Any, types: Any) -> dict[str, Any] | None:
    """Two operands of a known element type each."""
    left, right = dims[layout.left], dims[layout.right]
    left_type, right_type = str(types[layout.left]), str(types[layout.right])
    batch, m, n, k = _sizes(left, right, layout.transposed)
    sizes = [element_size_bytes(t) for t in (left_type, right_type)]
    if min(batch, m, n, k) < 1 or sizes[0] is None or sizes[1] is None:
        return None
    if dtype_class(left_type) is None or dtype_class(right_type) is None:
        return None  # integers that hold something packed
    result_size = layout.result_bytes or max(sizes[0], 2.0)  # 8-bit products are written as 16-bit
    weight = sizes[1] * batch * k * n
    results = 1 if layout.summed else batch
    moved = batch * sizes[0] * m * k + weight + results * result_size * m * n
    pairs = layout.per_element == 2 or (dtype_class(left_type) == "fp4" and sizes[0] == 1)  # two values an element
    names = ("nvfp4", "nvfp4") if pairs else (left_type, right_type)
    return _form((batch, m, n, 2 * k if pairs else k), names, moved, weight)


def _form(sizes: tuple[int, int, int, int], types: tuple[str, str], moved: float, weight: float) -> dict[str, Any]:
    batch, m, n, k = sizes
    return {
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "dtype": types[0].removeprefix("c10::"),
        "b_dtype": types[1].removeprefix("c10::"),
        "flops": 2 * batch * m * n * k,
        "bytes": round(moved),
        "weight_bytes": round(weight),
    }


def _sizes(left: Sequence[int], right: Sequence[int], transposed: bool) -> tuple[int, int, int, int]:
    """(batch, M, N, K); ValueError when the operands do not multiply."""
    if len(right) == 1 and len(left) == 2:  # matrix · vector
        right = [*right, 1]
    if len(left) == len(right) == 3 and left[0] == right[0]:
        batch, left, right = left[0], left[1:], right[1:]
    else:
        batch = 1
    if len(right) != 2 or len(left) < 2:
        raise ValueError("operands are no matrices")
    inner, columns = (right[1], right[0]) if transposed else (right[0], right[1])
    if left[-1] != inner:
        raise ValueError("operands do not multiply")
    return batch, recorded_inputs.elements(left[:-1]), columns, inner


def _packed(name: str, dims: Any, types: Any) -> dict[str, Any] | None:
    """Activations times weights packed into 32-bit integers (AWQ, GPTQ, Marlin, Machete, tinygemm); None if not that.

    N is the width of the scales, and the packed weights must hold K·N values of 2, 3, 4 or 8 bits exactly: layouts
    and argument orders differ between versions, this holds in all of them.
    """
    left = dims[0]
    activation = element_size_bytes(str(types[0]))
    if activation is None or dtype_class(str(types[0])) not in ("fp16", "bf16") or len(left) < 2:
        return None
    m, k = recorded_inputs.elements(left[:-1]), left[-1]
    inputs = list(zip(dims, map(str, types), strict=False))[1:]
    weights = [shape for shape, kind in inputs if kind in ("int", "int32") and len(shape) >= 2]
    scales = [
        (shape, kind) for shape, kind in inputs if dtype_class(kind) in ("fp16", "bf16", "fp32") and len(shape) >= 2
    ]
    if not weights or not scales:
        return None
    stored = 32 * recorded_inputs.elements(weights[0])
    shape, kind = scales[0]
    n = shape[1] if name == "aten::_weight_int4pack_mm" else shape[-1]  # [groups, N, (scale, zero)] there
    bits = stored / (k * n)
    if bits not in _PACKED_BITS or min(m, n, k) < 1:
        return None
    weight = stored / 8 + recorded_inputs.elements(shape) * (element_size_bytes(kind) or 0)
    moved = activation * m * k + weight + activation * m * n
    return _form((1, m, n, k), (str(types[0]), f"{bits:.0f}-bit"), moved, weight)
