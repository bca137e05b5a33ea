"""The false-positive budget: what all rules together may say of captures known to be clean, and the traps that tools fall
into, each on a real capture that holds it."""

from __future__ import annotations

import polars as pl
import pytest
import traces

import traceql as tq
from traceql import engine
from traceql.derived.gap_owners import owned_gap_parts
from traceql.finding import Finding, Severity

GRAPH_DECODES = ("bs64-decode-graph", "bs1-decode-graph", "bs64-decode-graph-triton")
ALLOWED_ON_GRAPH_DECODES = {"TQL101", "TQL103", "TQL204", "TQL902"}
"""Host gaps around the replay (14-17 % of the profiled step), and that the profiler made them longer."""

BUFFERS = "Activity Buffer Request"


def torch(name: str) -> tq.Trace:
    return traces.extra(f"torch/sglang-h200-llama8b-{name}.trace.json.gz")


def nsys(name: str) -> tq.Trace:
    return traces.extra(f"nsys/mini-decode-{name}.sqlite")


def outcomes(trace: tq.Trace) -> list[engine.Outcome]:
    found = engine.run(trace)
    assert [o.reason for o in found if o.outcome == "error"] == []
    return found


def findings(trace: tq.Trace, *codes: str) -> list[Finding]:
    return [f for o in outcomes(trace) for f in o.findings if not codes or o.code in codes]


def serious(trace: tq.Trace) -> set[str]:
    return {f.code for f in findings(trace) if f.severity > Severity.INFO}


# --- clean captures ---------------------------------------------------------------------------------------------------


def test_the_prefill_is_clean() -> None:
    assert serious(torch("bs64-prefill-eager")) == set()


@pytest.mark.parametrize("name", GRAPH_DECODES)
def test_graph_decodes_are_nearly_clean(name: str) -> None:
    assert serious(torch(name)) <= ALLOWED_ON_GRAPH_DECODES


@pytest.mark.parametrize("name", ["bs64-decode-graph", "bs64-decode-graph-triton"])
def test_an_eager_run_beside_it_adds_only_the_copies(name: str) -> None:
    aligned = tq.align(torch(name), torch("bs64-decode-eager")).trace
    assert serious(aligned) <= {*ALLOWED_ON_GRAPH_DECODES, "TQL302"}


def test_a_step_that_one_graph_replays_has_only_its_launch() -> None:
    assert serious(nsys("full-node")) <= {"TQL101", "TQL204"}


# --- traps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eager-node", "full-node"])
def test_waiting_while_the_gpu_works(name: str) -> None:
    """The host waits for hundreds of microseconds a step: the GPU works meanwhile."""
    trace = nsys(name)
    waits = trace.loaded["runtime_calls"].filter(pl.col("name").str.contains("Synchronize"))
    assert waits["dur_ns"].sum() > 4_000_000
    assert findings(trace, "TQL104", "TQL105") == []


@pytest.mark.parametrize("name", ["eager-node", "full-node", "piecewise-node"])
def test_warm_up_passes(name: str) -> None:
    """196 kernels of two passes before the steps belong to none of them and are in no figure of a step."""
    trace = nsys(name)
    kernels = trace.table("kernels")
    assert kernels.filter(pl.col("step_id").is_null()).height == 196
    assert trace.table("steps")["kernels"].to_list() == [98] * 12
    first = trace.table("steps")["start_ns"].min()
    assert all(f.start_ns is None or f.start_ns >= first for f in findings(trace) if f.code != "TQL203")  # type: ignore[operator]
    assert findings(trace, "TQL108", "TQL205") == []


@pytest.mark.parametrize("name", ["bs64-decode-eager", "bs64-decode-eager-nvtx-hooks", "tp2-decode-eager-nccl-rank0"])
def test_profiler_overhead(name: str) -> None:
    """Milliseconds of buffer requests are no host delay, no slow operator and no outlier."""
    trace = torch(name)
    overheads = trace.loaded["overheads"].filter(pl.col("kind") == BUFFERS)
    assert overheads["dur_ns"].sum() > 1_500_000
    blamed = owned_gap_parts(trace).filter(pl.col("owner").is_not_null() & pl.col("blame").str.contains(BUFFERS))
    assert blamed.is_empty()
    for finding in findings(trace):
        assert BUFFERS not in finding.message
    copies = [r for f in findings(trace, "TQL301") for r in f.evidence["operators"] if r["op"] == "aten::copy_"]
    assert all(row["cpu_gpu_ratio"] < 10 for row in copies), "13.3 with the request that hit one call"


@pytest.mark.parametrize("name", ["full-graph", "piecewise-graph"])
def test_opaque_replay(name: str) -> None:
    """Replays without a record: neither idle time nor a stall, and not no graph at all."""
    trace = nsys(name)
    assert findings(trace, "TQL102", "TQL103", "TQL104", "TQL105", "TQL202", "TQL204") == []
    assert trace.table("steps")["gpu_idle_ns"].null_count() == 12
    assert [f.code for f in findings(trace, "TQL203")] == ["TQL203"]
    period = int(trace.table("steps")["period_ns"].sum())
    host_late = sum(f.evidence["launch_gap_us_per_step"] * 12_000 for f in findings(trace, "TQL101"))
    assert host_late < 0.15 * period, "page tables are built between replays that have ended"


def test_queueing_counted_as_delay() -> None:
    """Launches of a prefill reach the GPU hundreds of milliseconds later, queued behind its work."""
    trace = torch("bs64-prefill-eager")
    waited = trace.table("launches").select(pl.col("gpu_start_ns") - pl.col("start_ns") - pl.col("dur_ns")).to_series()
    assert waited.max() > 100_000_000  # type: ignore[operator]
    assert trace.table("launches")["delay_ns"].max() < 3_000_000  # type: ignore[operator]
    assert findings(trace, "TQL101", "TQL102", "TQL106", "TQL301") == []


def test_drain_between_queued_kernels() -> None:
    """148 of 206 µs idle a step are 1.5 µs between kernels that are queued already."""
    (found,) = findings(nsys("eager-node"), "TQL101")
    assert found.evidence["launch_gap_us_per_step"] < 100


def test_waiting_for_a_late_rank() -> None:
    """86 % of the time in collectives of one rank is waiting: it is neither communication-bound nor busy with work."""
    pair = [torch(f"tp2-decode-eager-nccl-rank{rank}") for rank in (0, 1)]
    for finding in tq.analyze([trace.path for trace in pair]).found:
        if finding.code in ("TQL501", "TQL502"):
            assert "86 %" not in finding.message
            assert finding.evidence.get("share_of_period_pct", 0) < 10


def test_attention_at_boundaries_is_work() -> None:
    """57 % of the time between segments is attention: the saving is the idle time of the one late boundary."""
    (found,) = findings(torch("bs4-prefill-piecewise"), "TQL201")
    assert found.evidence["host_late_boundaries_per_step"] == 1
    assert found.evidence["host_late_idle_us_per_step"] == pytest.approx(747.58, rel=0.01)
    assert (found.estimated_savings_us_per_step or 0) < 800


def test_gpu_time_that_does_not_change_is_no_trend() -> None:
    """Token latency falls with the host's speed: no growth of the cache, no slower GPU."""
    assert findings(torch("server-24steps"), "TQL601", "TQL407") == []
