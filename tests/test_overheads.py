"""CUPTI's overhead rows: the profiler's own work is the profiler's, CUDA's own is the call's or the host's."""

from __future__ import annotations

import polars as pl
import pytest
import traces

from traceql.derived.distortion import step_overheads
from traceql.derived.ops import op_costs
from traceql.derived.overhead_chain import step_chain
from traceql.testing import TraceBuilder
from traceql.trace import Trace

CUDA_ITSELF = ("Lazy Function Loading", "Runtime Triggered Module Loading", "Command Buffer Full", "Driver Compiler")
PROFILERS = ("Activity Buffer Request", "CUPTI: Buffer flush", "Instrumentation", "Resource")


def delayed_by(kind: str) -> Trace:
    """A step of 200 µs: 20 µs of the overhead before a launch call of 40, and 20 within it; the GPU waits from 40 on."""
    build = TraceBuilder()
    for at in (0, 200):
        build.range("step[DECODE bs=2]", at, 190)
        build.launch("a", call_us=at + 10, call_dur_us=5, gpu_us=at + 20, gpu_dur_us=20)
        build.op("aten::mm", at + 50, 110)
        build.overhead(kind, at + 80, 20, tid=1)
        build.launch("b", call_us=at + 110, call_dur_us=40, gpu_us=at + 155, gpu_dur_us=20)
        build.overhead(kind, at + 120, 20, tid=1)
    return build.trace()


def parts(trace: Trace) -> dict[tuple[str, str | None], int]:
    rows = trace.table("gap_parts").filter((pl.col("start_ns") >= 40_000) & (pl.col("start_ns") < 155_000))
    return {(c, d): ns for c, d, ns in rows.group_by("cause", "detail").agg(pl.col("dur_ns").sum()).rows()}


@pytest.mark.parametrize("kind", CUDA_ITSELF)
def test_what_cuda_does_itself_is_host_or_launch_time(kind: str) -> None:
    trace = delayed_by(kind)
    found = parts(trace)
    assert "profiler" not in {cause for cause, _ in found}
    assert found["launch", None] == 40_000
    assert found["host", "runtime"] == 20_000
    assert step_overheads(trace).is_empty()
    chain = step_chain(trace).row(0, named=True)
    assert (chain["profiler_ns"], chain["launch_ns"], chain["other_calls_ns"]) == (0, 45_000, 20_000)


@pytest.mark.parametrize("kind", PROFILERS)
def test_what_the_profiler_does_is_its_own(kind: str) -> None:
    trace = delayed_by(kind)
    found = parts(trace)
    assert found["profiler", None] == 40_000
    assert found["launch", None] == 20_000
    assert ("host", "runtime") not in found
    assert step_overheads(trace)["overhead_ns"].to_list() == [40_000, 40_000]
    assert step_chain(trace)["profiler_ns"].to_list() == [40_000, 40_000]


def test_an_operators_time_is_less_the_profilers_only() -> None:
    own, other = (
        op_costs(delayed_by(kind)).filter(pl.col("name") == "aten::mm")["cpu_ns"].item()
        for kind in ("Lazy Function Loading", "Activity Buffer Request")
    )
    assert own - other == 2 * 40_000


def test_loading_on_first_use_in_a_server() -> None:
    """Fifteen loads of 0.6 ms in all, in the gaps of their steps: host time in a call."""
    trace = traces.extra("torch/sglang-h200-llama8b-server-24steps.trace.json.gz")
    loads = trace.loaded["overheads"].filter(pl.col("kind") == "Lazy Function Loading")
    assert loads.height == 15
    assert trace.table("gap_parts").filter(pl.col("cause") == "profiler").is_empty()
    during = trace.table("gap_parts").join(loads.select("start_ns", "dur_ns"), on=["start_ns", "dur_ns"])
    assert during.select("cause", "detail").unique().rows() == [("host", "runtime")]
