"""Places under the roofline: published figures, exceeded peaks, step floors, and an independent count of real traces."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import traces

import traceql as tq
from traceql.derived import roofline
from traceql.derived.kernel_roofline import over_peak
from traceql.derived.step_floor import step_floor
from traceql.testing import TraceBuilder

A100 = "NVIDIA A100-SXM4-40GB"
BF16 = "c10::BFloat16"
LLAMA_8B = {"qkv": (4096, 6144), "o": (4096, 4096), "gate_up": (4096, 28672), "down": (14336, 4096)}
"""[K, N] of a layer's projections."""


def product(build: TraceBuilder, at: float, m: int, k: int, n: int, *, us: float, grid: int = 132) -> None:
    build.op("aten::mm", at, 4, shapes=[[m, k], [k, n]], dtypes=[BF16, BF16])
    build.launch("nvjet", call_us=at + 1, call_dur_us=2, gpu_us=at + 5, gpu_dur_us=us, grid=(grid, 1, 1))


def on(gpu: str, m: int, k: int, n: int, *, us: float, grid: int = 132) -> dict[str, Any]:
    """The one product of a trace, as a row of ``gemms``."""
    build = TraceBuilder(gpu=gpu)
    product(build, 0, m, k, n, us=us, grid=grid)
    (row,) = build.trace().table("gemms").to_dicts()
    return row


# --- published figures for an A100 with 1.555 TB/s -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "gflop"), [("qkv", 3.22), ("o", 2.15), ("gate_up", 15.03), ("down", 7.52)])
def test_decode_projections_lie_under_the_ridge(name: str, gflop: float) -> None:
    k, n = LLAMA_8B[name]
    row = on(A100, 64, k, n, us=2 * 64 * k * n / 0.7 / 1.555e12 / 64 * 1e6)
    assert row["flops"] / 1e9 == pytest.approx(gflop, abs=0.01)
    assert 62 <= row["intensity"] <= 64
    assert row["ridge"] == pytest.approx(200.6, abs=0.1)
    assert row["bound"] == "memory"


def gathered(gpu: str, blocks: int, us: float) -> dict[str, Any]:
    """An embedding lookup of 64 rows of 4096 bf16: 0.5 MB read, 0.5 MB written."""
    build = TraceBuilder(gpu=gpu)
    build.op("aten::embedding", 0, 4, shapes=[[128256, 4096], [64]], dtypes=[BF16, "long int"])
    build.launch("gather", call_us=1, call_dur_us=2, gpu_us=5, gpu_dur_us=us, grid=(blocks, 1, 1))
    (row,) = build.trace().table("roofline").to_dicts()
    return row


def test_a_gather_at_100_gb_per_s_is_not_memory_bound() -> None:
    row = gathered("NVIDIA A100-SXM4-80GB", blocks=64, us=10)
    assert row["bytes"] / 1e6 == pytest.approx(1.05, abs=0.01)
    assert row["achieved_tb_per_s"] == pytest.approx(0.105, abs=0.001)
    assert row["pct_of_roof"] == pytest.approx(5, abs=0.2)
    assert row["bound"] == "latency"
    assert gathered("NVIDIA A100-SXM4-80GB", blocks=256, us=10)["bound"] == "under"
    assert gathered("NVIDIA A100-SXM4-80GB", blocks=256, us=4)["bound"] == "latency"


def decode_step(gpu: str) -> tq.Trace:
    """One decode step of the 32-layer model at batch 64, with lm_head: launched and run back to back."""
    build = TraceBuilder(gpu=gpu)
    at = 1.0
    for _ in range(32):
        for k, n in LLAMA_8B.values():
            product(build, at, 64, k, n, us=120)
            at += 130
    product(build, at, 64, 4096, 128256, us=900)
    build.range("step[DECODE bs=64]", 0, at + 1000)
    return build.trace()


@pytest.mark.parametrize(("gpu", "floor_ms"), [(A100, 9.65), ("NVIDIA H200", 3.13)])
def test_floor_of_a_decode_step(gpu: str, floor_ms: float) -> None:
    (row,) = decode_step(gpu).table("step_floor").to_dicts()
    layers = 32 * 2 * sum(k * n for k, n in LLAMA_8B.values())
    assert layers / 1e9 == pytest.approx(13.96, abs=0.01)
    assert row["weight_bytes"] == layers + 2 * 4096 * 128256
    assert row["floor_ns"] / 1e6 == pytest.approx(floor_ms, abs=0.005)
    assert row["gemms_known_pct"] == 100
    assert row["note"] == "keys and values not counted: their lengths are unknown"


# --- classes ------------------------------------------------------------------------------------------------------


def test_classes() -> None:
    assert on("NVIDIA H200", 4096, 4096, 6144, us=290)["bound"] == "compute"
    assert on("NVIDIA H200", 4096, 4096, 6144, us=700)["bound"] == "under"
    assert on("NVIDIA H200", 8, 512, 512, us=8, grid=4)["bound"] == "latency"
    assert on("An unknown GPU", 64, 4096, 6144, us=16)["bound"] is None


@pytest.mark.parametrize(
    ("m", "k", "n", "us", "note"),
    [
        (64, 1024, 1024, 0.4, roofline.L2_REUSE),  # 2.4 MB at 5.9 TB/s
        (64, 4096, 128256, 100, roofline.UNREAD),  # 1.07 GB at 10.7 TB/s: larger than any L2
        (64, 4096, 128256, 220, roofline.CLOCK),  # 1 % over
        (8192, 8192, 8192, 750, roofline.SPARSITY),  # 1466 TFLOP/s
        (8192, 8192, 8192, 200, roofline.SHAPES),  # 5498 TFLOP/s
        (64, 4096, 6144, 16, None),
    ],
)
def test_a_peak_that_is_exceeded_names_the_assumption(m: int, k: int, n: int, us: float, note: str | None) -> None:
    row = on("NVIDIA H200", m, k, n, us=us)
    assert row["note"] == note
    assert (row["pct_of_roof"] > 100) == (note is not None)


def test_exceeded_peaks_reach_the_finding() -> None:
    build = TraceBuilder()
    for step in range(2):
        build.range("step[DECODE bs=64]", 100 * step, 90)
        product(build, 100 * step + 1, 64, 4096, 6144, us=16)
        product(build, 100 * step + 20, 64, 1024, 1024, us=0.4)
    trace = build.trace()
    assert over_peak(trace).select("op", "count", "note").rows() == [("aten::mm", 2, roofline.L2_REUSE)]
    (finding,) = [f for f in tq.analyze(trace).found if f.code == "TQL401"]
    (exceeded,) = finding.evidence["over_peak"]
    assert exceeded["assumption"] == roofline.L2_REUSE
    assert exceeded["count"] == 2


def test_a_product_of_several_kernels_is_one_row() -> None:
    build = TraceBuilder()
    build.op("aten::mm", 0, 9, shapes=[[64, 14336], [14336, 4096]], dtypes=[BF16, BF16])
    build.launch("product_splitK", call_us=1, call_dur_us=2, gpu_us=10, gpu_dur_us=34)
    build.launch("splitKreduce_kernel", call_us=4, call_dur_us=2, gpu_us=44, gpu_dur_us=3)
    trace = build.trace()
    (row,) = trace.table("roofline").to_dicts()
    assert (row["dur_ns"], row["kernels"], row["name"]) == (37_000, 2, "product_splitK")
    assert row["kernel_id"] == trace.table("gemms")["kernel_id"][0]


def test_floor_with_given_and_with_counted_keys_and_values() -> None:
    build = TraceBuilder()
    stored = [[8, 1024], [8, 1024], [4096, 1024], [4096, 1024], [8]]
    for step in range(2):
        at = 100 * step
        build.range("step[DECODE bs=8]", at, 90)
        product(build, at + 1, 8, 4096, 6144, us=16)
        build.op("sglang::store_cache", at + 6, 4, shapes=stored, dtypes=[BF16, BF16, BF16, BF16, "long int"])
        build.launch("store_kvcache", call_us=at + 7, call_dur_us=2, gpu_us=at + 22, gpu_dur_us=1)
        build.launch("decode_attention", call_us=at + 12, call_dur_us=2, gpu_us=at + 24, gpu_dur_us=10)
    trace = build.trace()
    weights = 2 * 4096 * 6144
    (row,) = step_floor(trace, kv_tokens=8 * 1000).to_dicts()
    assert row["kv_bytes_per_token"] == 2 * 1024 * 2
    assert row["kv_bytes"] == 8000 * 4096
    assert row["floor_ns"] == round((weights + 8000 * 4096) / 4.8e12 * 1e9)
    assert row["note"] is None
    build.ncu_kernel("decode_attention", 10.5, dram_bytes=30_000_000, sm_throughput_pct=20, memory_throughput_pct=60)
    (counted,) = build.trace().table("step_floor").to_dicts()
    assert counted["kv_bytes"] == 30_000_000
    assert counted["source"] == "shapes; keys and values from attention kernels"


# --- real traces --------------------------------------------------------------------------------------------------


def figures(trace: tq.Trace) -> dict[tuple[int, int, int], dict[str, Any]]:
    """(M, N, K) → calls, kernels and total ns over the whole trace, in the words of the independent count."""
    sites = trace.table("gemms").group_by("m", "n", "k").agg(
        pl.col("flops", "bytes", "intensity", "bound").first(),
        calls=pl.len(),
        kernels=pl.col("kernels").sum(),
        total_ns=pl.col("dur_ns").sum(),
    )  # fmt: skip
    return {(row["m"], row["n"], row["k"]): row for row in sites.to_dicts()}


@pytest.mark.parametrize(
    "name",
    ["bs64-decode-eager-nvtx-hooks", "bs64-prefill-eager", "bs4-prefill-piecewise", "server-24steps", "tp2-decode-eager-nccl-rank0"],
)  # fmt: skip
def test_gemms_equal_the_independent_count(name: str) -> None:
    path = f"torch/sglang-h200-llama8b-{name}.trace.json.gz"
    ours, counted = figures(traces.extra(path)), traces.truth()[path]["gemms"]
    assert counted
    for theirs in counted:
        row = ours[theirs["M"], theirs["N"], theirs["K"]]
        for key in ("calls", "kernels", "flops", "bytes"):
            assert row[key] == theirs[key], (theirs["layer"], key)
        fills_ns = 1200 * theirs["memsets"]  # counted there as part of a product's time, not here
        assert theirs["total_ns"] - fills_ns <= row["total_ns"] <= theirs["total_ns"], theirs["layer"]
        assert row["intensity"] == pytest.approx(theirs["AI"], abs=0.01)
        each_ns = row["total_ns"] / row["calls"]
        assert row["bytes"] / each_ns / 1e3 == pytest.approx(theirs["TBps"], rel=0.01)
        assert row["flops"] / each_ns / 1e3 == pytest.approx(theirs["TFLOPs"], rel=0.01)
        assert f"{row['bound']}-bound" == theirs["cls"] or row["bound"] == "under"


def test_gemms_of_the_aligned_replay_agree_with_the_eager_run() -> None:
    eager = traces.sample("sglang-h200-bs64-decode-eager")
    graph = tq.align(traces.sample("sglang-h200-bs64-decode-graph"), eager).trace
    mean = pl.col("dur_ns").mean()
    ours, theirs = (
        t.table("gemms").filter(pl.col("step_id").is_not_null()).group_by("n", "k").agg(mean, pl.col("flops", "bytes").first())
        for t in (graph, eager)
    )  # fmt: skip
    both = ours.join(theirs, on=["n", "k"], suffix="_eager")
    assert both.height == 5
    assert both.filter(
        (pl.col("flops") != pl.col("flops_eager")) | (pl.col("bytes") != pl.col("bytes_eager"))
    ).is_empty()
    apart = (both["dur_ns"] / both["dur_ns_eager"] - 1).abs()
    assert apart.max() < 0.04  # type: ignore[operator]
    (floor,) = graph.table("step_floor").to_dicts()
    assert floor["floor_ns"] / 1e6 == pytest.approx(3.13, abs=0.005)
    assert floor["source"] == "alignment"
    assert floor["kv_bytes_per_token"] == 2 * 32 * 8 * 128 * 2


def test_kernels_between_the_products_have_known_traffic() -> None:
    eager = traces.sample("sglang-h200-bs64-decode-eager")
    rows = eager.table("roofline").filter(pl.col("step_id") == 1)
    known = dict(rows.group_by("op").agg(pl.col("bytes").mode().first()).rows())
    assert known["sglang::_run_activation_inplace"] == 2 * 64 * (28672 + 14336)
    assert known["sglang::store_cache"] == 4 * 2 * 64 * 1024
    assert known["sglang::apply_rope_inplace"] == 2 * 2 * 64 * 40 * 128
    copies = rows.filter((pl.col("op") == "aten::copy_") & (pl.col("bytes") == 2 * 2 * 64 * 4096))
    assert copies.height == 32
    assert copies["bound"].unique().to_list() == ["latency"]
    assert rows.filter(pl.col("note").is_not_null()).is_empty()


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [
        ("sglang-h200-bs64-prefill-eager", {"TQL401": "passed", "TQL402": "passed", "TQL403": "passed"}),
        ("sglang-h200-bs64-decode-eager", {"TQL401": "failed", "TQL402": "passed", "TQL403": "passed"}),
        ("sglang-h200-bs64-decode-graph", {"TQL401": "not_applicable", "TQL402": "not_applicable", "TQL403": "not_applicable"}),
    ],
)  # fmt: skip
def test_verdicts_on_the_samples(name: str, verdicts: dict[str, str]) -> None:
    report = tq.analyze(traces.sample(name))
    family = [o for o in report.rules if o.code.startswith("TQL4")]
    assert {o.code: o.outcome for o in family if o.code in verdicts} == verdicts
    assert [f for o in family for f in o.findings if f.severity > tq.Severity.INFO] == []


def test_the_split_product_of_batch_48() -> None:
    """cuBLAS splits o_proj over K at batch 48: 14.0 µs where batch 64 takes 11.8."""
    report = tq.analyze(traces.extra("torch/sglang-h200-llama8b-server-24steps.trace.json.gz"))
    decode = next(f for f in report.found if f.code == "TQL402" and "decode step" in f.message)
    (shape,) = decode.evidence["gemms"]
    assert shape["shape"].startswith("[48,4096]×[4096,4096]")
    assert shape["kernels_per_call"] == 2
    assert shape["us_each"] == pytest.approx(13.99, abs=0.05)
    assert shape["median_pct_of_roof"] == pytest.approx(51, abs=0.5)
