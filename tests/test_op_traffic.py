"""Bytes that operators move, by the shapes of their inputs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from traceql.derived.op_traffic import traffic

BF16, I64 = "c10::BFloat16", "long int"


def moved(name: str, shapes: list[Any], types: list[str], strides: list[Any] | None = None) -> int | None:
    found = traffic(name, json.dumps(shapes), json.dumps(types), None if strides is None else json.dumps(strides))
    return None if found is None else found["bytes"]


@pytest.mark.parametrize(
    ("name", "shapes", "types", "bytes_"),
    [
        ("aten::copy_", [[64, 4096], [64, 4096], []], [BF16, "float", "Scalar"], 64 * 4096 * (2 + 4)),
        ("aten::add", [[64, 4096], [4096], []], [BF16, BF16, "Scalar"], 2 * (64 * 4096 + 4096 + 64 * 4096)),
        ("aten::add_", [[64, 4096], [64, 4096], []], [BF16, BF16, "Scalar"], 3 * 2 * 64 * 4096),
        ("aten::mul", [[64, 1, 128], [1, 32, 128]], [BF16, "float"], 64 * 128 * 2 + 32 * 128 * 4 + 64 * 32 * 128 * 4),
        ("aten::eq", [[64], [64]], [I64, I64], 64 * (8 + 8 + 1)),
        ("aten::silu", [[64, 4096]], [BF16], 2 * 2 * 64 * 4096),
        ("aten::argmax", [[64, 128256], [], []], ["float", "Scalar", "Scalar"], 4 * 64 * 128256),
        ("aten::embedding", [[128256, 4096], [64], [], [], []], [BF16, I64, "Scalar", "Scalar", "Scalar"], 2 * 2 * 64 * 4096 + 64 * 8),
        ("aten::gather", [[128256, 4096], [], [64, 4096], [], [64, 4096]], [BF16, "Scalar", I64, "Scalar", BF16], 2 * 2 * 64 * 4096),
        ("sgl_kernel::silu_and_mul", [[64, 14336], [64, 28672]], [BF16, BF16], 2 * 64 * (14336 + 28672)),
        ("sglang::_run_activation_inplace", [[], [64, 28672], [64, 14336]], ["", BF16, BF16], 2 * 64 * (14336 + 28672)),
        ("sgl_kernel::rmsnorm", [[64, 4096], [64, 4096], [4096], []], [BF16, BF16, BF16, "Scalar"], 2 * (2 * 64 * 4096 + 4096)),
        ("_C::fused_add_rms_norm", [[64, 4096], [64, 4096], [4096], []], [BF16, BF16, BF16, "Scalar"], 2 * (4 * 64 * 4096 + 4096)),
        ("_C_cache_ops::reshape_and_cache_flash", [[64, 8, 128], [64, 8, 128], [9, 16, 8, 128], [9, 16, 8, 128], [64]], [BF16, BF16, BF16, BF16, I64], 4 * 2 * 64 * 1024),
    ],
)  # fmt: skip
def test_bytes_of_an_operator(name: str, shapes: list[Any], types: list[str], bytes_: int) -> None:
    assert moved(name, shapes, types) == bytes_


def test_expanded_inputs_count_once() -> None:
    whole = moved("aten::mul", [[64, 4096], [64, 4096]], [BF16, BF16], [[4096, 1], [4096, 1]])
    expanded = moved("aten::mul", [[64, 4096], [64, 4096]], [BF16, BF16], [[4096, 1], [0, 1]])
    assert whole is not None
    assert expanded == whole - 2 * 63 * 4096


@pytest.mark.parametrize(
    ("name", "shapes", "types"),
    [
        ("aten::topk", [[64, 128256]], ["float"]),  # not listed
        (
            "aten::rms_norm",
            [[64, 4096], [], [4096]],
            [BF16, "ScalarList", BF16],
        ),  # other arguments than the extensions'
        ("aten::add", [[64, 4096], [63, 4096]], [BF16, BF16]),
        ("aten::copy_", [[64], [64]], ["a new type", BF16]),
        ("aten::silu", [], []),
        ("sgl_kernel::rmsnorm", [[], [64, 4096], [4096]], ["", BF16, BF16]),  # where it writes is not recorded
    ],
)
def test_what_shapes_do_not_tell(name: str, shapes: list[Any], types: list[str]) -> None:
    assert moved(name, shapes, types) is None


def test_attention_of_one_query() -> None:
    """64 sequences of 1,000 tokens, 32 heads over 8 key heads: FLOPs by the query's heads, bytes by the keys'."""
    query, keys = [64, 32, 1, 128], [64, 8, 1000, 128]
    types = json.dumps([BF16] * 3)
    found = traffic("aten::_scaled_dot_product_flash_attention", json.dumps([query, keys, keys]), types)
    assert found is not None
    assert found["flops"] == 4 * 64 * 32 * 1000 * 128
    assert found["bytes"] == 2 * (2 * 64 * 8 * 1000 * 128 + 2 * 64 * 32 * 128)
    prefill = [64, 32, 1000, 128]
    masked = traffic("aten::_scaled_dot_product_flash_attention", json.dumps([prefill, keys, keys]), types)
    assert masked is not None
    assert masked["flops"] is None  # causal or not is not recorded
