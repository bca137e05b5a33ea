"""Element types as torch and C++ name them: which peak they compute at, and how many bytes they take."""

from __future__ import annotations

import re

PEAK_TYPES = ("fp4", "int8", "fp8", "bf16", "fp16", "tf32", "fp32", "fp64")
"""The types a GPU has a peak for, narrowest first."""

_TYPES: dict[tuple[str | None, float], str] = {
    ("fp64", 8): "double float64 fp64",
    ("fp32", 4): "float float32 fp32",
    ("tf32", 4): "tf32 tfloat32",
    ("fp16", 2): "half float16 fp16 half_t",
    ("bf16", 2): "bfloat16 bf16 bfloat16_t",
    ("fp8", 1): "fp8 fp8_e4m3 fp8_e5m2 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz",
    ("fp4", 1): "float4_e2m1fn_x2",  # one element of this torch type holds two values
    ("fp4", 0.5): "fp4 fp4_e2m1 float4_e2m1fn nvfp4",
    ("int8", 1): "int8 uint8 signed_char unsigned_char char byte qint8 quint8",
    (None, 0.5): "int4 uint4",
    (None, 1): "bool float8_e8m0fnu",
    (None, 2): "int16 uint16 short short_int unsigned_short",
    (None, 4): "int32 uint32 int unsigned_int complex<half> complex32",
    (None, 8): "int64 uint64 long long_int long_long unsigned_long complex<float> complex64",
    (None, 16): "complex<double> complex128",
}
_BY_NAME = {name: kind for kind, names in _TYPES.items() for name in names.split()}

_DECORATION = re.compile(r"\b(?:c10|at|torch|cutlass|std)(?:::|\.)|\b__nv_|^__|\bconst\b|[*&]")
"""What surrounds a type's own name: namespaces, CUDA's prefixes (__nv_bfloat16, __half), const, * and &."""


def dtype_class(dtype: str) -> str | None:
    """Which of ``PEAK_TYPES`` a type name belongs to; None for a type without a peak (int64, bool, int4)."""
    return _BY_NAME.get(_plain(dtype), (None, None))[0]


def element_size_bytes(dtype: str) -> float | None:
    """Bytes one element takes (int4: 0.5); None for an unknown name."""
    return _BY_NAME.get(_plain(dtype), (None, None))[1]


def _plain(dtype: str) -> str:
    return "_".join(_DECORATION.sub("", dtype).lower().split())
