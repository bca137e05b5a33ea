"""What the graph rules, and the rules about the trace itself, must and must not say of the real captures."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import traces

import traceql as tq
from traceql import engine, registry
from traceql.finding import Finding
from traceql.run_manifest import UNPROFILED

EAGER = "sglang-h200-bs64-decode-eager"
GRAPH = "sglang-h200-bs64-decode-graph"


def outcome(trace: tq.Trace, code: str) -> engine.Outcome:
    (found,) = engine.run(trace, engine.Selection([registry.rules()[code]]))
    assert found.outcome != "error", found.traceback
    return found


def the_finding(trace: tq.Trace, code: str) -> Finding:
    (found,) = outcome(trace, code).findings
    return found


def torch(name: str) -> tq.Trace:
    return traces.extra(f"torch/sglang-h200-llama8b-{name}.trace.json.gz")


def nsys(name: str) -> tq.Trace:
    return traces.extra(f"nsys/mini-decode-{name}.sqlite")


def unprofiled(trace: tq.Trace, milliseconds: str) -> tq.Trace:
    """The trace with the step time that a run's manifest states."""
    stated = trace.loaded["metadata"]
    row = pl.DataFrame({"rank": [None], "key": [UNPROFILED], "value": [milliseconds]}, schema=stated.schema)
    return replace(trace, loaded={**trace.loaded, "metadata": pl.concat([stated, row])}, _memo={})


def test_the_server_captured_no_graph_for_48_requests() -> None:
    found = the_finding(torch("server-24steps"), "TQL202")
    assert (found.evidence["uncaptured_steps"], found.evidence["replayed_steps"]) == (16, 1)
    rows = {row["batch_size"]: row for row in found.evidence["by_batch_size"]}
    assert rows[48]["steps"] == 16
    assert 5400 < rows[48]["median_gpu_busy_us"] < 5500
    assert rows[48]["median_period_us"] == pytest.approx(30_800, rel=0.01)
    assert found.evidence["extra_idle_us_per_step"] > 20_000


def test_a_row_by_batch_size_is_one_step() -> None:
    trace = torch("tp2-decode-eager-nccl-rank0")
    found = the_finding(trace, "TQL202")
    (row,) = found.evidence["by_batch_size"]
    step = trace.table("steps").row(by_predicate=pl.col("step_id") == found.step_id, named=True)
    for column in ("period", "gpu_busy", "gpu_idle"):
        assert row[f"median_{column}_us"] == step[f"{column}_ns"] / 1000


def test_the_saving_of_one_rank_leaves_its_waiting_in() -> None:
    found = the_finding(torch("tp2-decode-eager-nccl-rank0"), "TQL202")
    assert 9_000 < found.evidence["waiting_for_ranks_us_per_step"] < 11_000
    assert "waits for others goes too" in found.advice[-1]
    alone = the_finding(traces.sample(EAGER), "TQL202")
    assert "waiting_for_ranks_us_per_step" not in alone.evidence
    assert len(alone.advice) == 1


@pytest.mark.parametrize("name", [GRAPH, "sglang-h200-tp2-decode-graph-rank0", "nsys-h200-mini-decode-piecewise-node"])
def test_replayed_decodes_are_captured(name: str) -> None:
    assert outcome(traces.sample(name), "TQL202").outcome == "passed"


@pytest.mark.parametrize(
    ("name", "low_us", "high_us"),
    [("bs64-decode-graph", 400, 480), ("bs1-decode-graph", 400, 480), ("bs64-decode-graph-triton", 350, 480)],
)
def test_the_gpu_waits_for_the_graph_launch(name: str, low_us: float, high_us: float) -> None:
    assert low_us < the_finding(torch(name), "TQL204").evidence["gpu_idle_us_per_step"] < high_us


def test_the_first_replay_stands_apart() -> None:
    (row,) = the_finding(nsys("full-node"), "TQL204").evidence["graphs"]
    assert row["first_replay_host_us"] == pytest.approx(203.489)
    assert row["median_host_us"] < 100


def test_a_launch_call_behind_a_busy_gpu_costs_nothing() -> None:
    """Launch calls of 0.65-0.96 ms, of which the GPU waits for 32 µs: it starts with the first nodes."""
    assert outcome(torch("tp2-decode-graph-nccl-rank1"), "TQL204").outcome == "passed"


@pytest.mark.parametrize("name", ["full-node", "piecewise-node", "full-graph"])
def test_graphs_captured_before_the_steps_are_no_finding(name: str) -> None:
    assert nsys(name).table("runtime_calls")["name"].str.contains("StreamBeginCapture").any()
    assert outcome(nsys(name), "TQL205").outcome == "passed"


@pytest.mark.parametrize("name", ["bs64-decode-graph", "bs64-decode-graph-triton"])
def test_no_kernel_is_slower_in_the_replay(name: str) -> None:
    """Merge kernels have no twin, RMSNorm kernels that start early only wait, and GEMMs take as long as eager."""
    trace = tq.align(torch(name), torch("bs64-decode-eager")).trace
    assert outcome(trace, "TQL206").outcome == "passed"


def test_a_collective_that_waits_is_no_slower_kernel() -> None:
    trace = tq.align(torch("tp2-decode-graph-nccl-rank1"), torch("tp2-decode-eager-nccl-rank1")).trace
    assert outcome(trace, "TQL206").outcome == "passed"


def test_both_idle_figures_of_the_eager_decode() -> None:
    found = the_finding(unprofiled(traces.sample(EAGER), "13.4"), "TQL902")
    assert found.evidence["slowdown_factor"] == pytest.approx(2.5, abs=0.1)
    assert found.evidence["profiled_idle_pct"] == pytest.approx(81, abs=1)
    assert found.evidence["honest_idle_pct"] == pytest.approx(52, abs=1)


def test_a_graph_decode_is_hardly_distorted() -> None:
    assert outcome(unprofiled(traces.sample(GRAPH), "7.22"), "TQL902").outcome == "passed"


def test_a_prefill_is_not_compared_with_the_unprofiled_decode() -> None:
    assert outcome(unprofiled(traces.sample("sglang-h200-bs64-prefill-eager"), "7.22"), "TQL902").outcome == "passed"


def test_a_full_launch_queue_is_not_the_profiler() -> None:
    """Launch calls wait for room for 29 of 29 ms a step; the overhead rows that say so are the program's own."""
    trace = traces.extra("public/nsys/nsys-ai-h100_2gpu_1s.sqlite")
    assert trace.loaded["overheads"]["kind"].unique().to_list() == ["Command Buffer Full"]
    assert outcome(trace, "TQL902").outcome == "passed"


def test_nothing_is_missed_that_the_trace_has_no_use_for() -> None:
    """An eager trace of Nsight Systems does not lack graph nodes."""
    (missing,) = (f.evidence["missing"] for f in outcome(nsys("eager-node"), "TQL903").findings)
    assert [row["missing"] for row in missing] == ["operators", "operator shapes", "Python stacks"]
