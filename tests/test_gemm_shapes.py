"""Matrix products told from operators' recorded inputs: layouts, quantised weights, and what must not be guessed."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        ("aten::_grouped_mm", [[M, K], [8, K, N], [8]], [BF16, BF16, "int"]),
        # a fixed number of rows an expert, of which some are filled
        ("deep_gemm::m_grouped_gemm_nt_masked", [[8, M, K], [8, N, K], [8, M, N]], [BF16, BF16, BF16]),
        ("sgl_kernel::fp8_blockwise_scaled_grouped_mm", [[M, N], [M, K], [8, K, N]], [BF16, FP8, FP8]),
        ("vllm::fused_moe_gemm", [[M, K], [K, N]], [BF16, BF16]),
        # an operator nobody listed, its result passed first: two pairs multiply
        ("mine::gemm_nt", [[64, 4096], [64, 4096], [4096, 4096]], [BF16, BF16, BF16]),
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


# --- any shapes ---------------------------------------------------------------------------------------------------

SIZES = st.integers(1, 40_000)
TYPES = st.sampled_from(
    [("double", 8), ("float", 4), ("c10::Half", 2), (BF16, 2), (FP8, 1), ("c10::Float8_e5m2", 1), (INT8, 1)]
)


def counted(batch: int, m: int, n: int, k: int, left: int, right: int, result: int) -> tuple[int, int, int]:
    """FLOPs, bytes and weight bytes of a product, one matrix after the other, as one does on paper."""
    flops = moved = weights = 0
    for _ in range(batch):
        flops += m * n * (k + k)  # a multiplication and an addition each
        weights += k * n * right
        moved += m * k * left + k * n * right + m * n * result
    return flops, moved, weights


@settings(deadline=None)
@given(SIZES, SIZES, SIZES, TYPES)
def test_two_matrices(m: int, n: int, k: int, kind: tuple[str, int]) -> None:
    name, size = kind
    result = max(size, 2)
    for op, shapes in (
        ("aten::mm", [[m, k], [k, n]]),
        ("aten::linear", [[m, k], [n, k]]),
        ("aten::addmm", [[n], [m, k], [k, n]]),
        ("aten::_scaled_mm", [[m, k], [k, n]]),
    ):
        types = [name] * len(shapes)
        found = form(op, shapes, types)
        assert found is not None
        assert (found["batch"], found["m"], found["n"], found["k"]) == (1, m, n, k)
        assert (found["flops"], found["bytes"], found["weight_bytes"]) == counted(1, m, n, k, size, size, result)


@settings(deadline=None)
@given(st.integers(1, 200), SIZES, SIZES, SIZES)
def test_batches(batch: int, m: int, n: int, k: int) -> None:
    stacks = [[batch, m, k], [batch, k, n]]
    flops, moved, weights = counted(batch, m, n, k, 2, 2, 2)
    for op, shapes in (("aten::bmm", stacks), ("aten::baddbmm", [[batch, m, n], *stacks])):
        found = form(op, shapes, [BF16] * len(shapes))
        assert found is not None
        assert (found["batch"], found["flops"], found["bytes"], found["weight_bytes"]) == (batch, flops, moved, weights)
    added = form("aten::addbmm", [[m, n], *stacks], [BF16] * 3)  # one result for the whole batch
    assert added is not None
    assert added["bytes"] == moved - (batch - 1) * m * n * 2


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), SIZES, SIZES)
def test_leading_dimensions_are_rows(leading: list[int], n: int, k: int) -> None:
    rows = prod(leading)
    found = form("aten::linear", [[*leading, k], [n, k], [n]], [BF16, BF16, BF16])
    assert found is not None
    assert (found["m"], found["n"], found["k"]) == (rows, n, k)
    assert found["flops"] == 2 * rows * n * k


@settings(deadline=None)
@given(st.integers(1, 512), st.integers(1, 64), st.integers(1, 64), st.sampled_from([32, 64, 128]))
def test_packed_weights_of_any_size(m: int, columns: int, groups: int, group: int) -> None:
    n, k = 8 * columns, group * groups
    found = form("_C::awq_gemm", [[m, k], [k, n // 8], [groups, n]], ["c10::Half", "int", "c10::Half"])
    assert found is not None
    scales = groups * n * 2
    assert found["b_dtype"] == "4-bit"
    assert found["weight_bytes"] == k * n // 2 + scales
    assert found["bytes"] == 2 * m * k + k * n // 2 + scales + 2 * m * n
    assert found["flops"] == 2 * m * n * k


@settings(deadline=None)
@given(
    st.text(max_size=30),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4)),
)
def test_no_input_breaks_it(name: str, anything: Any) -> None:
    for op in (f"x::{name}_gemm", "aten::mm", "_C::awq_gemm"):
        gemm_form(op, json.dumps(anything), json.dumps(anything))
        gemm_form(op, json.dumps([[1, 2], [2, 1]]), json.dumps(anything))
