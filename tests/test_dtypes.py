"""Type names as profilers write them."""

from __future__ import annotations

import pytest

from traceql.dtypes import PEAK_TYPES, dtype_class, element_size_bytes


@pytest.mark.parametrize(
    ("dtype", "kind", "size"),
    [
        ("c10::BFloat16", "bf16", 2),
        ("bfloat16", "bf16", 2),
        ("torch.bfloat16", "bf16", 2),
        ("__nv_bfloat16", "bf16", 2),
        ("cutlass::bfloat16_t", "bf16", 2),
        ("c10::Half", "fp16", 2),
        ("Half", "fp16", 2),
        ("__half", "fp16", 2),
        ("float", "fp32", 4),
        ("double", "fp64", 8),
        ("Float8_e4m3fn", "fp8", 1),
        ("c10::Float8_e5m2", "fp8", 1),
        ("signed char", "int8", 1),
        ("unsigned char", "int8", 1),
        ("int8", "int8", 1),
        ("int4", None, 0.5),
        ("Float4_e2m1fn_x2", "fp4", 1),
        ("nvfp4", "fp4", 0.5),
        ("long int", None, 8),
        ("int", None, 4),
        ("bool", None, 1),
        ("c10::complex<float>", None, 8),
        ("const float*", "fp32", 4),
        ("GenericList", None, None),
        ("", None, None),
    ],
)
def test_class_and_size(dtype: str, kind: str | None, size: float | None) -> None:
    assert dtype_class(dtype) == kind
    assert element_size_bytes(dtype) == size


def test_the_names_of_peaks_name_themselves() -> None:
    assert [dtype_class(kind) for kind in PEAK_TYPES] == list(PEAK_TYPES)
