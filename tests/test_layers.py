"""Layers and roles: on real captures, on sequences made by hand, and against a slow definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import traces
from hypothesis import given
from hypothesis import strategies as st

from traceql import kernel_names
from traceql.derived.repetition import repetition
from traceql.derived.roles import block_roles
from traceql.errors import UsageError


def found(text: str) -> tuple[int, int, int]:
    r = repetition(np.array([ord(c) for c in text], np.int64))
    return r.start, r.period, r.count


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("xyabcabcabcabcz", (2, 3, 4)),
        ("abababababab", (0, 2, 6)),  # the shortest period, not ababab × 2
        ("abcdef", (0, 0, 0)),
        ("aab" * 5, (0, 3, 5)),  # not the run of a
        ("hd" + "qrsaogd" * 4 + "t", (1, 7, 4)),  # a repeat may start anywhere in the block: the earliest is taken
        ("ab", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_repetition(sequence: str, expected: tuple[int, int, int]) -> None:
    assert found(sequence) == expected


def test_one_odd_layer_does_not_end_the_run() -> None:
    start, period, count = found("x" + "abcdefg" * 6 + "abcdeXg" + "abcdefg" * 6 + "y")
    assert (start, period, count) == (1, 7, 13)


@given(st.integers(2, 9), st.integers(3, 12), st.integers(0, 20), st.integers(0, 20))
def test_planted_repetition_is_found(period: int, count: int, before: int, after: int) -> None:
    block = list(range(period))
    sequence = [*range(100, 100 + before), *(block * count), *range(200, 200 + after)]
    r = repetition(np.array(sequence, np.int64))
    assert (r.start, r.period, r.count) == (before, period, count)


@pytest.mark.parametrize(
    ("name", "per_layer"),
    [
        ("sglang-h200-bs64-decode-eager", 12),
        ("sglang-h200-bs64-decode-graph", 13),
        ("sglang-h200-bs4-prefill-piecewise", 12),
    ],
)
def test_roles_of_a_llama_block(name: str, per_layer: int) -> None:
    rows = traces.sample(name).table("layer_kernels")
    block = rows.filter((rows["step_id"] == 0) & (rows["layer"] == 5)).sort("position")["role"].to_list()
    assert len(block) == per_layer
    for role in ("qkv", "rope", "kv_store", "attention", "o_proj", "gate_up", "activation", "down"):
        assert role in block, (role, block)
    assert block.count("norm") == 2
    order = [block.index(r) for r in ("rope", "attention", "o_proj", "gate_up", "activation", "down")]
    turned = order[order.index(min(order)) :] + order[: order.index(min(order))]
    assert turned == sorted(turned)  # in the block's order, wherever the repeat starts


def test_roles_with_query_key_norm_and_unknown_blocks() -> None:
    block = ["norm", "gemm", "norm", "rope", "kv_store", "attention", "gemm", "norm", "gemm", "activation", "gemm"]
    assert block_roles(block, ["k"] * len(block)) == [
        "norm", "qkv", "norm", "rope", "kv_store", "attention", "o_proj", "norm", "gate_up", "activation", "down",
    ]  # fmt: skip
    assert block_roles(["gemm", "elementwise"], ["k", "e"]) == ["gemm", "elementwise"]
    assert block_roles([], []) == []


def test_own_patterns_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_names, "_own", [])
    file = tmp_path / "mine.toml"
    file.write_text('[[kernel]]\ncategory = "hash"\npattern = "my_hash|rope"\n')
    kernel_names.extend(file)
    assert kernel_names.category_patterns()[0] == ("hash", "my_hash|rope")


@pytest.mark.parametrize(
    "text", ["[[kernel]]\ncategory = 1", "[[kernel]]\ncategory = 'a'\npattern = '('", "x", "[[kernel]]\ncolour = 'a'"]
)
def test_broken_patterns_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"mine\.toml: kernel patterns"):
        kernel_names.extend(file)
