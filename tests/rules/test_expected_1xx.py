"""What rules of the families 1xx, 3xx and 7xx must and must not say of the real captures, figures as an independent
count found them."""

from __future__ import annotations

import polars as pl
import pytest
import traces

import traceql as tq
from traceql import engine, registry
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.overhead_chain import HOST_PARTS, layer_chain, step_chain
from traceql.derived.step_costs import step_gap_parts
from traceql.finding import Finding, Severity

FAMILIES = tuple(code for code in registry.rules() if code.startswith(("TQL1", "TQL3", "TQL7")))
GRAPH_DECODES = ("bs64-decode-graph", "bs1-decode-graph", "bs64-decode-graph-triton")
ALLOWED_ON_GRAPH_DECODES = {"TQL101", "TQL103", "TQL302"}


def torch(name: str) -> tq.Trace:
    return traces.extra(f"torch/sglang-h200-llama8b-{name}.trace.json.gz")


def nsys(name: str) -> tq.Trace:
    return traces.extra(f"nsys/mini-decode-{name}.sqlite")


def findings(trace: tq.Trace, *codes: str) -> list[Finding]:
    outcomes = engine.run(trace, engine.Selection([registry.rules()[code] for code in codes]))
    assert [o.reason for o in outcomes if o.outcome == "error"] == []
    return [finding for outcome in outcomes for finding in outcome.findings]


def the_finding(trace: tq.Trace, code: str) -> Finding:
    (finding,) = findings(trace, code)
    return finding


def verdict(trace: tq.Trace, code: str) -> str:
    (outcome,) = engine.run(trace, engine.Selection([registry.rules()[code]]))
    return outcome.outcome


def serious(trace: tq.Trace) -> set[str]:
    return {f.code for f in findings(trace, *FAMILIES) if f.severity > Severity.INFO}


def test_prefill_is_clean() -> None:
    assert serious(torch("bs64-prefill-eager")) == set()


@pytest.mark.parametrize("name", GRAPH_DECODES)
def test_graph_decodes_are_nearly_clean(name: str) -> None:
    assert serious(torch(name)) <= ALLOWED_ON_GRAPH_DECODES


@pytest.mark.parametrize("name", GRAPH_DECODES)
def test_bubble_between_graph_decodes(name: str) -> None:
    found = the_finding(torch(name), "TQL103")
    assert 9 < found.evidence["share_of_period_pct"] < 17
    work = {row["work"]: row["us"] for row in found.evidence["by_work"]}
    assert max(work, key=work.__getitem__) == "scheduling"
    assert sum(work.values()) == pytest.approx(found.evidence["bubble_us_per_step"])


@pytest.mark.parametrize(
    "name",
    ["bs64-decode-eager", "bs64-decode-eager-nvtx-hooks", "tp2-decode-eager-nccl-rank0", "tp2-decode-eager-nccl-rank1"],
)
def test_eager_decodes_are_host_bound_and_not_sync_bound(name: str) -> None:
    trace = torch(name)
    assert the_finding(trace, "TQL102").evidence["host_over_gpu_ratio"] > 1.5
    assert findings(trace, "TQL104", "TQL105", "TQL304", "TQL701") == []


def test_waiting_for_the_late_rank_is_not_gpu_work() -> None:
    """Rank 0 is 68 % busy, most of it waiting; both ranks have 4.5 ms of work a step."""
    for rank in (0, 1):
        chain = step_chain(torch(f"tp2-decode-eager-nccl-rank{rank}"))
        assert (chain["gpu_work_ns"] / 1e6).to_list() == pytest.approx([4.53] * 3, rel=0.01)


def test_overhead_chain_of_the_eager_decode() -> None:
    found = the_finding(torch("bs64-decode-eager-nvtx-hooks"), "TQL102")
    step, layer = found.evidence["overhead_chain"]
    assert step["scope"] == "step"
    assert 6323.077 <= step["gpu_busy_us"] <= 6351.445
    assert sum(step[part.replace("_ns", "_us")] for part in HOST_PARTS) == pytest.approx(step["host_us"])
    assert layer["gpu_busy_us"] == pytest.approx(187.8, rel=0.01)


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.stem)
def test_host_parts_add_up_and_owners_split_the_idle_time(path: object) -> None:
    trace = traces.opened(path)  # type: ignore[arg-type]
    layers = [layer_chain(trace, step_id) for step_id in step_chain(trace)["step_id"].head(2)]
    for chain in (step_chain(trace), *layers):
        known = chain.filter(pl.col("host_ns").is_not_null())
        assert known["host_ns"].to_list() == known.select(pl.sum_horizontal(HOST_PARTS)).to_series().to_list()
        assert known.filter(pl.min_horizontal(HOST_PARTS) < 0).is_empty()
    assert owned_gap_parts(trace)["dur_ns"].sum() == step_gap_parts(trace)["dur_ns"].sum()
    assert owned_gap_parts(trace).height == step_gap_parts(trace).height


@pytest.mark.parametrize("name", ["full-graph", "piecewise-graph"])
def test_opaque_replays_are_neither_a_stall_nor_idle(name: str) -> None:
    trace = nsys(name)
    for code in ("TQL102", "TQL104", "TQL105"):
        assert verdict(trace, code) == "not_applicable"
    assert verdict(trace, "TQL103") == "passed"


@pytest.mark.parametrize("name", ["eager-node", "full-node"])
def test_waiting_for_the_whole_step_is_no_fault(name: str) -> None:
    assert findings(nsys(name), "TQL104", "TQL105") == []


def test_waits_between_segments() -> None:
    """Seventeen waits a step, each returning about 3 µs after the GPU is done; all but one at a graph boundary."""
    found = the_finding(nsys("piecewise-node"), "TQL104")
    assert found.evidence["waits_per_step"] == 17
    assert found.evidence["idle_us_per_step"] == pytest.approx(627.6 / 12, rel=0.05)
    assert found.estimated_savings_us_per_step is not None
    assert found.estimated_savings_us_per_step < 0.2 * found.evidence["idle_us_per_step"]


def test_ratio_outliers_of_the_hooked_decode() -> None:
    operators = the_finding(torch("bs64-decode-eager-nvtx-hooks"), "TQL301").evidence["operators"]
    found = {row["op"]: row["cpu_gpu_ratio"] for row in operators}
    expected = {
        "aten::copy_": 6.94,
        "sglang::_run_activation_inplace": 13.6,
        "sglang::apply_rope_inplace": 11.6,
        "sglang::store_cache": 17.4,
    }
    assert set(found) == set(expected)
    for name, ratio in expected.items():
        assert found[name] == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("name", ["bs64-decode-eager", "bs64-decode-eager-nvtx-hooks"])
def test_contiguous_query_is_counted_once(name: str) -> None:
    found = the_finding(torch(name), "TQL302")
    (pattern,) = found.evidence["patterns"]
    assert found.evidence["copies_per_step"] == pattern["count"] == pattern["layers"] == 32
    assert pattern["op"] == "aten::contiguous"
    assert (pattern["shape"], pattern["source_strides"]) == ("[64, 4096]", "[6144, 1]")
    assert "flashinfer_backend.py(893)" in pattern["needed_by"]
    assert found.evidence["gpu_us_per_step"] == pytest.approx(82, rel=0.05)
    if name.endswith("hooks"):
        assert found.evidence["host_us_per_step"] == pytest.approx(1080, rel=0.06)


def test_copies_inside_the_graph_are_named_by_the_eager_run() -> None:
    aligned = tq.align(torch("bs64-decode-graph"), torch("bs64-decode-eager")).trace
    found = the_finding(aligned, "TQL302")
    assert found.severity is Severity.INFO
    assert found.evidence["copies_per_step"] == 32
    assert found.evidence["gpu_us_per_step"] == pytest.approx(80, rel=0.03)
    assert found.evidence["patterns"][0]["in_graph"]
    assert found.estimated_savings_us_per_step == pytest.approx(80, rel=0.03)


def test_server_outliers() -> None:
    hole, first = findings(torch("server-24steps"), "TQL108")
    assert "step[EXTEND bs=3 toks=336]" in hole.message
    assert "no host activity recorded" in hole.message
    assert "write_req_to_token_pool_triton" in hole.message
    assert 118_500 < hole.evidence["extra_time"][0]["us"] < 122_500
    assert hole.evidence["events"][0]["event"] == "Lazy Function Loading"
    assert (first.subject, first.step_id) == ("step[DECODE bs=48]", 7)
    assert first.evidence["extra_time"][0]["blame"] == "aten::mm"


def test_lookups_and_compiled_regions_are_not_compilation() -> None:
    for name in ("bs4-prefill-piecewise", "tp2-decode-eager-nccl-rank0", "server-24steps"):
        assert findings(torch(name), "TQL304", "TQL701") == []


def test_savings_never_exceed_the_idle_time() -> None:
    for name in ("bs64-decode-eager", "bs64-decode-graph", "server-24steps"):
        trace = torch(name)
        steps = trace.table("steps")
        for kind in steps["kind"].unique():
            saved = [f for f in findings(trace, "TQL101", "TQL103", "TQL104", "TQL105", "TQL701") if kind in f.message]
            total = sum(f.estimated_savings_us_per_step or 0.0 for f in saved)
            assert total <= steps.filter(pl.col("kind") == kind)["gpu_idle_ns"].max() / 1000  # type: ignore[operator]


def test_full_launch_queue_in_a_public_trace() -> None:
    name = "facebookresearch_HolisticTraceAnalysis__tests__data__ns_resolution_trace__rank-0.Apr_03_18_51_38.1102.pt"
    trace = traces.extra(f"public/torch/{name}.trace.json.gz")
    found = the_finding(trace, "TQL107")
    assert found.evidence["waiting_calls"] == 695
    assert found.evidence["most_queued_launches"] == 1022
    assert verdict(torch("bs64-prefill-eager"), "TQL107") == "passed"


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.stem)
def test_no_rule_crashes(path: object) -> None:
    trace = traces.opened(path)  # type: ignore[arg-type]
    for outcome in engine.run(trace, engine.Selection([registry.rules()[code] for code in FAMILIES])):
        assert outcome.outcome != "error", (outcome.code, outcome.reason)
        for finding in outcome.findings:
            assert finding.message.endswith(".")
            assert "None" not in finding.message
            assert "nan" not in finding.message
