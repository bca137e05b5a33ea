"""The re-timing model: it must give back what was measured, and predict a step that was measured too."""

from __future__ import annotations

import networkx as nx
import polars as pl
import pytest
import traces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_invariants import built_traces

import traceql as tq
from traceql.derived.step_graph_rows import OTHER_THREADS, SEVERAL_DEVICES
from traceql.derived.what_if import StepModel, as_one_graph, gpu_only_ns, not_modelled, step_model
from traceql.fix import Fix
from traceql.testing import TraceBuilder

EAGER, GRAPH = "sglang-h200-bs64-decode-eager", "sglang-h200-bs64-decode-graph"


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_unchanged_model_gives_the_measured_period(path: object) -> None:
    trace = traces.opened(path)  # type: ignore[arg-type]
    path_of = dict(trace.table("critical_path").group_by("step_id").agg(pl.col("dur_ns").sum()).rows())
    for step in trace.table("steps").rows(named=True):
        model = step_model(trace, step["step_id"])
        if model is None:
            assert not_modelled(trace, step["step_id"])
            assert step["step_id"] not in path_of
            continue
        assert model.period_ns() == step["period_ns"] == path_of[step["step_id"]]
        assert sum(ns for _, _, ns in model.critical_path()) == step["period_ns"]


def test_the_critical_path_follows_the_clock() -> None:
    trace = traces.sample(GRAPH)
    starts = dict(trace.table("steps").select("step_id", "start_ns").rows())
    for (step_id,), rows in trace.table("critical_path").group_by("step_id", maintain_order=True):
        ends = rows["start_ns"] + rows["dur_ns"]
        assert rows["start_ns"].to_list() == [starts[step_id], *ends[:-1]]  # type: ignore[index]
        assert rows["position"].to_list() == list(range(rows.height))
    names = trace.table("critical_path").filter(pl.col("part") == "gpu").join(trace.table("gpu_ops"), on="gpu_op_id")
    assert (names["name"] == names["name_right"]).all()


@pytest.mark.parametrize("step_id", [0, 1, 2])
def test_a_host_that_takes_no_time_leaves_the_gpu_work(step_id: int) -> None:
    """What is left is the union of the GPU work launched in the period, the kernels between the steps included."""
    trace = traces.sample(EAGER)
    step = trace.table("steps").row(step_id, named=True)
    launched = trace.table("launches").filter(
        pl.col("start_ns").is_between(step["start_ns"], step["start_ns"] + step["period_ns"], closed="left")
    )
    rows = trace.table("gpu_ops").filter(pl.col("launch_id").is_in(launched["launch_id"].implode())).sort("start_ns")
    reach, busy = 0, 0
    for start, dur in rows.select("start_ns", "dur_ns").rows():
        busy += max(0, start + dur - max(start, reach))
        reach = max(reach, start + dur)
    model = step_model(trace, step_id)
    assert model is not None
    assert gpu_only_ns(model) == busy
    assert busy == pytest.approx(step["gpu_busy_ns"], rel=0.01)


@pytest.mark.parametrize("step_id", [0, 1, 2])
def test_one_graph_launch_in_place_of_the_per_kernel_path(step_id: int) -> None:
    """The eager step's GPU work behind the replay's host path: within 15 % of the replay as it was profiled."""
    eager = traces.sample(EAGER)
    twin = tq.align(traces.sample(GRAPH), eager).trace
    prediction = as_one_graph(eager, step_id, twin, step_id)
    assert abs(prediction.error_pct) < 15
    assert abs(prediction.error_pct) < 4  # what it reached when this was written
    assert 110_000 < prediction.extra_gpu_ns < 130_000  # 32 merge kernels of 3.6 µs and three of the preparation


def longest_host_stretch(trace: tq.Trace, step_id: int) -> dict[str, int]:
    rows = trace.table("critical_path").filter((pl.col("step_id") == step_id) & (pl.col("part") == "host"))
    mark = trace.table("steps").row(step_id, named=True)
    longest = rows.sort("dur_ns").row(-1, named=True)
    return {"pid": mark["pid"], "tid": mark["tid"], "start_ns": longest["start_ns"], "dur_ns": longest["dur_ns"]}


def test_removing_host_time_from_a_host_bound_step_saves_it() -> None:
    trace = traces.sample(EAGER)
    model = step_model(trace, 1)
    assert model is not None
    stretch = longest_host_stretch(trace, 1)
    half = stretch["dur_ns"] // 2
    first = pl.DataFrame([{**stretch, "end_ns": stretch["start_ns"] + half}])
    assert model.saving_ns(Fix.host_time(first)) == half
    assert model.saving_ns(Fix.host_time(pl.concat([first, first]))) == half
    other_thread = first.with_columns(tid=pl.col("tid") + 1)
    assert model.saving_ns(Fix.host_time(other_thread)) == 0


def test_removing_host_time_behind_a_busy_gpu_saves_little() -> None:
    trace = traces.sample("sglang-h200-bs64-prefill-eager")
    model = step_model(trace, 0)
    assert model is not None
    faster = model.period_ns(scale={"host": 0.5, "launch": 0.5})
    assert (model.period_ns() - faster) / model.period_ns() < 0.01


def test_a_faster_kernel_counts_where_the_gpu_sets_the_pace_only() -> None:
    for name, saved in ((GRAPH, 50_000), (EAGER, 0)):
        trace = traces.sample(name)
        model = step_model(trace, 1)
        assert model is not None
        longest = trace.table("gpu_ops").filter(pl.col("step_id") == 1).sort("dur_ns").tail(1)
        cut = longest.select("gpu_op_id", saved_ns=pl.lit(50_000))
        assert model.saving_ns(Fix.device_time(cut)) == pytest.approx(saved, abs=1)


# --- traces nobody recorded ---------------------------------------------------------------------------------------

relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def forward(model: StepModel) -> int:
    """The end of the networkx graph, timed in its topological order."""
    graph = model.graph
    latest = {0: 0}
    for node in nx.topological_sort(graph):
        known = [latest[a] + edge["ns"] for a, _, edge in graph.in_edges(node, data=True) if a in latest]
        if known:
            latest[node] = max(known)
    return latest[model.end]


@relaxed
@given(built_traces())
def test_any_step_is_timed_exactly_or_refused(trace: tq.Trace) -> None:
    path_of = dict(trace.table("critical_path").group_by("step_id").agg(pl.col("dur_ns").sum()).rows())
    for step_id, period in trace.table("steps").select("step_id", "period_ns").rows():
        model = step_model(trace, step_id)
        if model is None:
            assert not_modelled(trace, step_id)
            assert step_id not in path_of
        else:
            assert model.period_ns() == forward(model) == period == path_of[step_id]


@st.composite
def fixes(draw: st.DrawFn, trace: tq.Trace, *, host_only: bool = False) -> Fix:
    """Any edits to a built trace."""
    stretches = [
        {
            "pid": 1,
            "tid": draw(st.integers(1, 2)),
            "start_ns": 1000 * at,
            "end_ns": 1000 * (at + draw(st.integers(1, 80))),
        }
        for at in draw(st.lists(st.integers(0, 450), max_size=4))
    ]
    frame = pl.DataFrame(stretches, schema=dict.fromkeys(["pid", "tid", "start_ns", "end_ns"], pl.Int64))
    calls = trace.loaded["runtime_calls"]["call_id"].to_list()
    waits = draw(st.lists(st.sampled_from(calls), max_size=3)) if calls else []
    fix = Fix.host_time(frame) | Fix.waits(pl.DataFrame({"call_id": waits}, schema={"call_id": pl.Int64}))
    fix |= Fix.launch_latency(frame) if draw(st.booleans()) else Fix.union([])
    ops = trace.table("gpu_ops")["gpu_op_id"].to_list()
    if host_only or not ops:
        return fix
    cuts = [(op, draw(st.integers(0, 60_000))) for op in draw(st.lists(st.sampled_from(ops), max_size=4, unique=True))]
    return fix | Fix.device_time(pl.DataFrame(cuts, schema={"gpu_op_id": pl.Int64, "saved_ns": pl.Int64}, orient="row"))


@relaxed
@given(st.data())
def test_more_edits_never_save_less_and_host_edits_never_save_gpu_work(data: st.DataObject) -> None:
    trace = data.draw(built_traces())
    host_only = data.draw(st.booleans())
    several = [data.draw(fixes(trace, host_only=host_only)) for _ in range(3)]
    for step_id in trace.table("steps")["step_id"]:
        model = step_model(trace, step_id)
        if model is None:
            continue
        single = [model.saving_ns(fix) for fix in several]
        together = model.saving_ns(Fix.union(several))
        assert 0 <= max(single) <= together <= model.measured_ns
        assert model.saving_ns(Fix.union(several + several)) == together
        if host_only:
            assert together <= max(0, model.measured_ns - model.busy_ns)


def test_two_causes_that_hide_each_other_save_more_together() -> None:
    """Two threads launch a kernel each, both 60 µs late: either alone leaves the other."""
    build = TraceBuilder()
    for at in (0, 100, 200):
        build.range("step[DECODE bs=2]", at, 90)
        build.launch("a", call_us=at, call_dur_us=2, gpu_us=at + 4, gpu_dur_us=2)
        build.launch("b", call_us=at + 70, call_dur_us=2, gpu_us=at + 74, gpu_dur_us=1)
        build.launch("c", call_us=at + 70, call_dur_us=2, gpu_us=at + 76, gpu_dur_us=2, tid=2)
        build.call("cudaDeviceSynchronize", at + 80, 19)
    trace = build.trace()
    model = step_model(trace, 1)
    assert model is not None
    one, other = (
        Fix.host_time(pl.DataFrame({"pid": [1], "tid": [tid], "start_ns": [110_000], "end_ns": [165_000]}))
        for tid in (1, 2)
    )
    assert model.saving_ns(one | other) > model.saving_ns(one) + model.saving_ns(other)


# --- what the model does not describe ------------------------------------------------------------------------------


def two_step_trace(**second: int) -> tq.Trace:
    build = TraceBuilder()
    for at in (0, 100, 200):
        build.range("step[DECODE bs=2]", at, 90)
        build.launch("a", call_us=at + 5, call_dur_us=2, gpu_us=at + 10, gpu_dur_us=20)
        build.launch("b", call_us=at + 40, call_dur_us=2, gpu_us=at + 45, gpu_dur_us=20, **second)
    return build.trace()


def test_steps_on_several_devices_are_refused() -> None:
    trace = two_step_trace(device=1)
    assert step_model(trace, 1) is None
    assert not_modelled(trace, 1) == SEVERAL_DEVICES
    assert trace.table("critical_path").is_empty()


def test_steps_that_other_threads_launch_are_refused() -> None:
    build = TraceBuilder()
    for at in (0, 100, 200):
        build.range("step[DECODE bs=2]", at, 90)
        build.launch("a", call_us=at + 5, call_dur_us=2, gpu_us=at + 10, gpu_dur_us=20, tid=2)
    trace = build.trace()
    assert not_modelled(trace, 1) == OTHER_THREADS


def test_a_device_keeps_its_order_over_streams() -> None:
    """A kernel of another stream that waited for this one still comes after it when the host is faster."""
    trace = two_step_trace(stream=8)
    model = step_model(trace, 1)
    assert model is not None
    host = Fix.host_time(pl.DataFrame({"pid": [1], "tid": [1], "start_ns": [100_000], "end_ns": [200_000]}))
    assert model.measured_ns - model.saving_ns(host) >= 40_000  # both kernels, one after the other


def test_work_from_before_the_step_is_not_the_hosts_to_save() -> None:
    """The device is a step behind: launches earlier in the step change nothing."""
    build = TraceBuilder()
    for at in range(0, 500, 100):
        build.range("step[DECODE bs=2]", at, 30)
        build.launch("a", call_us=at + 20, call_dur_us=2, gpu_us=at + 80, gpu_dur_us=99)
    trace = build.trace()
    model = step_model(trace, 2)
    assert model is not None
    early = Fix.host_time(pl.DataFrame({"pid": [1], "tid": [1], "start_ns": [200_000], "end_ns": [220_000]}))
    assert model.saving_ns(early) == 0
