"""Matrix products told from operators' recorded inputs: layouts, quantised weights, and what must not be guessed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from traceql.derived.gemm_shapes import gemm_form
from traceql.derived.gemm_tiles import tiling

BF16, FP8, INT8 = "c10::BFloat16", "c10::Float8_e4m3fn", "signed char"
M, N, K = 64, 6144, 4096


def form(name: str, shapes: list[Any], types: list[str]) -> dict[str, Any] | None:
    return gemm_form(name, json.dumps(shapes), json.dumps(types))


@pytest.mark.parametrize(
    ("name", "shapes", "types"),
    [
        ("aten::mm", [[M, K], [K, N]], [BF16, BF16]),
        ("aten::addmm", [[N], [M, K], [K, N], [], []], [BF16, BF16, BF16, "Scalar", "Scalar"]),
        ("aten::linear", [[8, 8, K], [N, K], []], [BF16, BF16, ""]),
        ("vllm::rocm_unquantized_gemm", [[M, K], [N, K], []], [BF16, BF16, ""]),
    ],
)
def test_layouts_of_the_same_product(name: str, shapes: list[Any], types: list[str]) -> None:
    found = form(name, shapes, types)
    assert found is not None
    assert [found[c] for c in "mnk"] == [M, N, K]
    assert found["flops"] == 2 * M * N * K
    assert found["bytes"] == 2 * (M * K + K * N + M * N)
    assert found["weight_bytes"] == 2 * K * N
    assert (found["dtype"], found["b_dtype"]) == ("BFloat16", "BFloat16")


@pytest.mark.parametrize(
    ("name", "shapes", "types", "operand_bytes", "result_bytes"),
    [
        ("aten::_scaled_mm", [[M, K], [K, N], [], []], [FP8, FP8, "float", "float"], 1, 2),
        ("sgl_kernel::fp8_scaled_mm", [[M, K], [K, N], [M], [N], [], []], [FP8, FP8, "float", "float", "", ""], 1, 2),
        ("sgl_kernel::int8_scaled_mm", [[M, K], [K, N], [M, 1], [N, 1]], [INT8, INT8, "float", "float"], 1, 2),
        ("aten::_int_mm", [[M, K], [K, N]], [INT8, INT8], 1, 4),
        # the result comes first: [64, 6144]·[64, 4096] must not be taken for the product
        ("_C::cutlass_scaled_mm", [[M, N], [M, K], [K, N], [1], [1], []], [BF16, FP8, FP8, "float", "float", ""], 1, 2),
        # each operand is followed by its scales
        ("sglang::deep_gemm_fp8_fp8_bf16_nt", [[M, K], [M, K // 128], [N, K], [N // 128, K // 128], [M, N]], [FP8, "float", FP8, "float", BF16], 1, 2),
    ],
)  # fmt: skip
def test_eight_bit_products(
    name: str, shapes: list[Any], types: list[str], operand_bytes: int, result_bytes: int
) -> None:
    found = form(name, shapes, types)
    assert found is not None
    assert [found[c] for c in "mnk"] == [M, N, K]
    assert found["weight_bytes"] == operand_bytes * K * N
    assert found["bytes"] == operand_bytes * (M * K + K * N) + result_bytes * M * N


def test_fp4_holds_two_values_a_byte() -> None:
    shapes = [[M, N], [M, K // 2], [N, K // 2], [M, K // 16], [N, K // 16], []]
    types = [BF16, "unsigned char", "unsigned char", FP8, FP8, "float"]
    found = form("sgl_kernel::cutlass_scaled_fp4_mm", shapes, types)
    assert found is not None
    assert [found[c] for c in "mnk"] == [M, N, K]
    assert found["dtype"] == "nvfp4"
    assert found["weight_bytes"] == K * N // 2


@pytest.mark.parametrize(
    ("name", "shapes", "types"),
    [
        ("_C::awq_gemm", [[M, K], [K, N // 8], [K // 128, N], [K // 128, N // 8], []], ["c10::Half", "int", "c10::Half", "int", "Scalar"]),
        # vLLM's argument order changed over the versions; the packed weights hold K·N values in all of them
        ("_C::gptq_marlin_gemm", [[M, K], [K // 16, 2 * N], [K // 128, N], [0], [0], [0], [16]], ["c10::Half", "int", "c10::Half", "int", "int", "int", "int"]),
        ("_C::gptq_marlin_gemm", [[M, K], [], [K // 16, 2 * N], [], [K // 128, N], [], [512]], [BF16, "", "int", "", BF16, "", "int"]),
        ("aten::_weight_int4pack_mm", [[M, K], [N // 8, K // 128, 32, 4], [], [K // 128, N, 2]], [BF16, "int", "Scalar", BF16]),
    ],
)  # fmt: skip
def test_packed_four_bit_weights(name: str, shapes: list[Any], types: list[str]) -> None:
    found = form(name, shapes, types)
    assert found is not None
    assert [found[c] for c in "mnk"] == [M, N, K]
    assert found["b_dtype"] == "4-bit"
    scales = 2 * (K // 128) * N * (2 if "int4pack" in name else 1)
    assert found["weight_bytes"] == K * N // 2 + scales
    assert found["flops"] == 2 * M * N * K


@pytest.mark.parametrize(
    ("name", "shapes", "types"),
    [
        ("aten::mm", [[M, K], [K + 1, N]], [BF16, BF16]),
        ("aten::mm", [], []),
        ("aten::mm", [[M, K], [K, N]], [BF16, "a new type"]),
        ("aten::mm", [[0, K], [K, N]], [BF16, BF16]),
        # experts: which of them the tokens use is not recorded
        ("_C::cutlass_moe_mm", [[M, N], [M, K], [8, K, N]], [BF16, FP8, FP8]),
        # 5-bit "weights": the packed tensor is not the product's
        ("_C::gptq_marlin_gemm", [[M, K], [K, 5 * N // 32], [K // 128, N]], ["c10::Half", "int", "c10::Half"]),
    ],
)
def test_inputs_that_do_not_say_are_left_alone(name: str, shapes: list[Any], types: list[str]) -> None:
    assert form(name, shapes, types) is None


def test_missing_inputs() -> None:
    assert gemm_form("aten::mm", None, None) is None
    assert gemm_form("aten::mm", "not json", "[]") is None


def test_tiles_of_real_kernels() -> None:
    """Grids that the profiler recorded beside these names on an H200: 4×28, 2×64 and 4×24 blocks."""
    for kernel, m, n, tiles in (
        ("nvjet_sm90_tst_256x64_64x5_4x1_v_bz_TNT", 64, 28672, 4 * 28),
        ("nvjet_sm90_tst_64x32_64x16_1x2_h_bz_TNT", 64, 4096, 2 * 64),
        ("nvjet_sm90_tst_64x64_64x13_4x1_v_bz_TNT", 64, 6144, 4 * 24),
    ):
        found = tiling(kernel, m, n, 132)
        assert found is not None
        assert found.tiles == tiles
        assert found.used_pct == 100
        assert found.hint is not None
        assert f"{tiles} tiles" in found.hint
    wasteful = tiling("nvjet_sm90_tst_64x96_64x10_2x1_v_bz_TNT", 176, 28672, 132)
    assert wasteful is not None
    assert wasteful.used_pct == pytest.approx(100 * 176 / 192)
    assert tiling("ampere_bf16_s16816gemm_bf16_128x64_ldg8", 64, 4096, 132) is None
    assert tiling("nvjet_sm90_tst_64x32_64x16_1x2_h_bz_TNT", 64, 4096, None) is None
