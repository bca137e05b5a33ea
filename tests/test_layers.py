"""Layers and roles: on real captures, on sequences made by hand, and against a slow definition."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import traces
from hypothesis import given
from hypothesis import strategies as st

from traceql import kernel_names
from traceql.derived.repetition import blocks, repetition
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


# --- models -----------------------------------------------------------------------------------------------------------

DENSE = ["norm", "qkv", "rope", "store", "attention", "o_proj", "add_norm", "gate_up", "silu", "down"]
EXPERTS = [*DENSE[:7], "router", "topk", "align", "experts_up", "silu", "experts_down", "sum"]
SLIDING = [name if name != "attention" else "sliding_attention" for name in DENSE]
MAMBA = ["norm", "in_proj", "conv", "scan", "gate", "out_proj"]
DRAFT = [f"draft_{name}" for name in DENSE]
REDUCED = [*DENSE[:6], "all_reduce", *DENSE[6:], "all_reduce"]
VARIANTS = [[f"qkv_{i * i % 7}" if name == "qkv" else name for name in DENSE] for i in range(32)]
ROUTED = [
    [f"{name} {i * 37 % 101}" if name in ("align", "experts_up") else name for name in EXPERTS] for i in range(58)
]


@pytest.mark.parametrize(
    ("model", "period", "count"),
    [
        pytest.param(DENSE, 0, 0, id="one layer"),
        pytest.param(DENSE * 2, 0, 0, id="two layers may be chance"),
        pytest.param(DENSE * 32, 10, 32, id="dense"),
        pytest.param(DENSE * 3 + EXPERTS * 58, 14, 58, id="three dense layers, then experts"),
        pytest.param(
            [*DENSE * 3, *chain.from_iterable(ROUTED)], 14, 58, id="grids that follow the tokens of each expert"
        ),
        pytest.param((MAMBA + DENSE) * 24, 16, 24, id="alternating kinds of layer"),
        pytest.param((MAMBA * 3 + DENSE) * 12 + MAMBA * 2, 28, 12, id="three to one, with a rest"),
        pytest.param((SLIDING * 5 + DENSE) * 10 + SLIDING * 2, 10, 62, id="sliding windows, each sixth global"),
        pytest.param(DRAFT * 4 + DENSE * 32, 10, 32, id="draft passes and a verification"),
        pytest.param(REDUCED * 80, 12, 80, id="tensor parallel"),
        pytest.param([*chain.from_iterable(VARIANTS)], 10, 32, id="another variant of a product in each layer"),
        pytest.param(["norm0", *(DENSE * 32)[1:]], 10, 31, id="the first layer begins otherwise"),
    ],
)
def test_layers_of_models(model: list[str], period: int, count: int) -> None:
    numbers = {name: i for i, name in enumerate(dict.fromkeys(["embedding", *model, "final", "lm_head", "argmax"]))}
    step = [numbers[name] for name in ["embedding", *model, "final", "lm_head", "argmax"]]
    r = blocks(np.array(step, np.int64))
    assert r.period == period
    assert r.count in ((count, count + 1) if model[0] == "norm0" else (count,))
