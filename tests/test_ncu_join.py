"""Counters of Nsight Compute: classes by themselves, joined to a timeline, and where the two disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import traces

import traceql as tq
from traceql.counters import with_counters
from traceql.errors import UsageError
from traceql.expectations import expectation, expectations, markdown_table
from traceql.hardware import lookup
from traceql.testing import TraceBuilder

BF16 = "c10::BFloat16"
REPORT = "ncu/sglang-h200-decode-eager-bs64.raw.csv"
GRAPH_TRITON = "torch/sglang-h200-llama8b-bs64-decode-graph-triton.trace.json.gz"
DOCS = Path(__file__).parent.parent / "docs"


def timeline(kernels: list[tuple[str, float]], product: tuple[int, int, int] | None = None) -> TraceBuilder:
    """One launch each of (name, µs); the first inside a matrix product of [m, k, n] where given."""
    build = TraceBuilder()
    for index, (name, us) in enumerate(kernels):
        at = 100 * index
        if product and index == 0:
            m, k, n = product
            build.op("aten::mm", at, 8, shapes=[[m, k], [k, n]], dtypes=[BF16, BF16])
        build.launch(name, call_us=at + 1, gpu_us=at + 10, gpu_dur_us=us)
    return build


def match(build: TraceBuilder) -> dict[str, Any]:
    (row,) = build.trace().table("ncu_matches").to_dicts()
    return row


def test_the_same_class_from_shapes_and_counters() -> None:
    build = timeline([("nvjet", 16)], product=(64, 4096, 6144))
    build.ncu_kernel("nvjet", 17, sm_throughput_pct=19, memory_throughput_pct=62, dram_bytes=53_000_000)
    row = match(build)
    assert row["comparable"]
    assert (row["bound_by_shapes"], row["bound_by_counters"], row["agree"]) == ("memory", "memory", True)
    assert (row["calls"], row["ncu_calls"], row["dur_ns"], row["ncu_dur_ns"]) == (1, 1, 16_000, 17_000)
    assert row["reason"] is None


def test_a_disagreement_says_why() -> None:
    build = timeline([("nvjet", 16)], product=(64, 4096, 6144))
    build.ncu_kernel("nvjet", 17, sm_throughput_pct=19, memory_throughput_pct=30, dram_bytes=20_000_000)
    row = match(build)
    assert (row["bound_by_shapes"], row["bound_by_counters"], row["agree"]) == ("memory", "under", False)
    assert row["reason"] == "DRAM moved 20.0 MB of the 51.6 MB its tensors hold: the rest stayed in L2"
    for step in range(2):
        build.range("step[DECODE bs=64]", 300 * step, 90)
    # the disagreement stands beside the finding about the product
    (finding,) = [f for f in tq.analyze(build.trace()).found if f.code == "TQL401"]
    (shown,) = finding.evidence["counters_disagree"]
    assert shown["bound_by_counters"] == "under"


def test_a_small_kernel_is_judged_only_where_that_is_safe() -> None:
    """4.2 µs cold, 2.5 µs in the program: 7 % of the peak becomes 12 % at most, 30 % could be anything up to 50 %."""
    build = timeline([("norm", 2.5)])
    build.ncu_kernel("norm", 4.2, sm_throughput_pct=7, memory_throughput_pct=7, waves_per_sm=0.1, dram_bytes=1_000_000)
    row = match(build)
    assert not row["comparable"]
    assert row["bound_by_counters"] == "latency"
    assert build.trace().table("roofline").is_empty()  # its bytes and duration are of different runs
    build = timeline([("norm", 2.5)])
    build.ncu_kernel("norm", 4.2, sm_throughput_pct=30, memory_throughput_pct=7, waves_per_sm=0.1)
    assert match(build)["bound_by_counters"] is None


def test_several_products_under_one_name_and_launch_shape() -> None:
    build = TraceBuilder()
    for index, k in enumerate((2048, 7168)):
        build.op("aten::mm", 100 * index, 8, shapes=[[64, k], [k, 4096]], dtypes=[BF16, BF16])
        build.launch("nvjet", call_us=100 * index + 1, gpu_us=100 * index + 10, gpu_dur_us=12)
    build.ncu_kernel("nvjet", 12, sm_throughput_pct=19, memory_throughput_pct=30, dram_bytes=59_000_000)
    row = match(build)
    assert row["shapes"] == 2
    assert not row["comparable"]


def test_names_and_launch_shapes_must_agree() -> None:
    build = timeline([("void (anonymous namespace)::store<2048>(Params)", 2)])
    build.ncu_kernel("void <unnamed>::store<2048>(<unnamed>::Params)", 2, sm_throughput_pct=1, memory_throughput_pct=3)
    assert match(build)["name"] == "store"
    build.ncu_kernel("store", 2, grid=(64, 1, 1), sm_throughput_pct=1, memory_throughput_pct=3)
    assert build.trace().table("ncu_matches").height == 1
    assert timeline([("store", 2)]).trace().table("ncu_matches").is_empty()


def test_repeated_profiles_count_once() -> None:
    build = timeline([("a", 10)])
    for us in (9.0, 10.0, 14.0):
        build.ncu_kernel("a", us, sm_throughput_pct=10, memory_throughput_pct=50, dram_bytes=round(us))
    row = match(build)
    assert (row["ncu_calls"], row["ncu_dur_ns"], row["ncu_kernel_id"]) == (3, 10_000, 1)


def test_what_cannot_be_joined_is_refused() -> None:
    report = TraceBuilder("ncu", gpu="NVIDIA H200")
    report.ncu_kernel("a", 10)
    other = TraceBuilder("ncu", gpu="NVIDIA A100-SXM4-40GB")
    other.ncu_kernel("a", 10)
    trace = timeline([("a", 10)]).trace()
    assert with_counters(trace, report.trace()).table("ncu_matches").height == 1
    with pytest.raises(UsageError, match="no Nsight Compute report; it was read as torch_profiler"):
        with_counters(trace, trace)
    with pytest.raises(UsageError, match="is a Nsight Compute report itself"):
        with_counters(report.trace(), report.trace())
    with pytest.raises(UsageError, match="was profiled on NVIDIA A100-SXM4-40GB"):
        with_counters(trace, other.trace())


def test_metrics_keep_the_kernel_they_belong_to() -> None:
    build = TraceBuilder("ncu")
    build.ncu_kernel("a", 10, tensor_flops=5)
    build.ncu_kernel("b", 10)
    build.ncu_kernel("c", 10, tensor_flops=7)
    assert build.trace().table("ncu_metrics").select("ncu_kernel_id", "value").rows() == [(0, 5.0), (2, 7.0)]


# --- usual utilisation --------------------------------------------------------------------------------------------


def test_expectations_are_told_by_the_side_of_the_ridge() -> None:
    decode, prefill = expectation("attention", "memory"), expectation("attention", "compute")
    assert decode is not None
    assert prefill is not None
    assert decode.bands()["memory"] == (75, 85)
    assert prefill.bands()["sm"] == (60, 75)
    assert expectation("attention", None) is None
    norm = expectation("norm", None)
    assert norm is not None
    assert norm.bands()["tensor"] == (0, 0)
    assert expectation("sampling", "memory") is None
    for each in expectations():
        assert each.limit in each.bands()
        assert all(0 <= low <= high <= 100 for low, high in each.bands().values())
        assert lookup(f"{each.gpu}-SXM4-40GB").gpu is not None


def test_documentation_shows_the_usual_ranges() -> None:
    text = (DOCS / "nsight-compute.md").read_text(encoding="utf-8")
    shown = text.split("<!-- expectations:begin")[1].split("-->", 1)[1].split("<!-- expectations:end")[0]
    assert shown.strip() == markdown_table().strip()


# --- the real report ----------------------------------------------------------------------------------------------


def test_every_kernel_of_the_real_report_as_its_counters_say() -> None:
    """Short name → class, and the busiest unit's per cent of peak behind it."""
    rows = traces.extra(REPORT).table("roofline").sort("ncu_kernel_id")
    memory = {"_fwd_grouped_kernel_stage1", "nvjet_sm90_tst_64x32_64x16_1x2_h_bz_TNT", "nvjet_sm90_tst_256x64_64x5_4x1_v_bz_TNT",
              "nvjet_sm90_tst_96x64_64x10_2x1_v_bz_splitK_TNN", "nvjet_sm90_tst_64x64_64x13_4x1_v_bz_TNT"}  # fmt: skip
    latency = {"store_kvcache", "_fwd_kernel_stage2", "FusedAddRMSNormKernel", "act_and_mul_kernel", "splitKreduce_kernel",
               "fused_rope_kernel"}  # fmt: skip
    assert rows.height == 16
    assert set(rows.filter(pl.col("bound") == "memory")["name"]) == memory
    assert set(rows.filter(pl.col("bound") == "latency")["name"]) == latency
    assert rows["bound"].null_count() == 0
    gate_up = rows.row(5, named=True)
    assert gate_up["dtype"] == "bf16"
    assert gate_up["intensity"] == pytest.approx(63.2, abs=0.1)
    assert gate_up["pct_of_roof"] == pytest.approx(82, abs=0.5)
    attention = rows.row(1, named=True)
    assert attention["intensity"] == pytest.approx(16.5, abs=0.1)
    assert attention["achieved_tb_per_s"] == pytest.approx(2.24, abs=0.01)


def joined() -> tq.Trace:
    eager = traces.sample("sglang-h200-bs64-decode-eager")
    return with_counters(tq.align(traces.extra(GRAPH_TRITON), eager).trace, traces.extra(REPORT))


def test_the_real_report_joined_to_the_replay() -> None:
    matches = {row["name"]: row for row in joined().table("ncu_matches").to_dicts()}
    assert len(matches) == 11
    assert {row["calls"] for row in matches.values()} == {96, 192}
    for name in ("nvjet_sm90_tst_256x64_64x5_4x1_v_bz_TNT", "nvjet_sm90_tst_64x64_64x13_4x1_v_bz_TNT"):
        assert matches[name]["agree"]
        assert matches[name]["dram_bytes"] / matches[name]["shape_bytes"] == pytest.approx(1.0, abs=0.035)
    small = matches["FusedAddRMSNormKernel"]
    assert not small["comparable"]
    assert (small["ncu_dur_ns"], small["bound_by_counters"]) == (4128, "latency")
    activation = matches["act_and_mul_kernel"]
    assert (activation["bound_by_shapes"], activation["bound_by_counters"]) == ("memory", "latency")
    assert activation["reason"] == "DRAM moved 3.7 MB of the 5.5 MB its tensors hold: the rest stayed in L2"


def test_keys_and_values_of_the_replay_by_counters() -> None:
    """138.5 MB a layer at 131,072 bytes a token are 528 tokens in each of 64 sequences: 512 of input and 16 more."""
    (row,) = joined().table("step_floor").to_dicts()
    assert row["kv_bytes"] / row["kv_bytes_per_token"] / 64 == pytest.approx(528, abs=1)
    assert row["floor_ns"] / 1e6 == pytest.approx(4.05, abs=0.01)


def test_findings_of_the_real_report() -> None:
    report = tq.analyze(traces.extra(REPORT))
    assert {(f.code, f.subject) for f in report.found if f.code.startswith("TQL4")} == {
        ("TQL404", "_fwd_grouped_kernel_stage1"),
        ("TQL404", "nvjet_sm90_tst_64x32_64x16_1x2_h_bz_TNT"),
        ("TQL405", "_fwd_grouped_kernel_stage1"),
        ("TQL406", "_fwd_grouped_kernel_stage1"),
    }
    assert {o.outcome for o in report.rules if o.code < "TQL404"} == {"not_applicable"}
