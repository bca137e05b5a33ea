"""Invariants on traces nobody recorded: whatever the times, sums are conserved and intervals do not overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceql import metrics
from traceql.derived import intervals
from traceql.derived.host import host_timeline
from traceql.derived.ops import op_gpu_rows, op_instances
from traceql.derived.step_metrics import step_metrics
from traceql.testing import TraceBuilder
from traceql.trace import Trace

TIME = st.integers(0, 400)
LENGTH = st.integers(0, 60)


@st.composite
def built_traces(draw: st.DrawFn) -> Trace:
    """Any mix of launches, replays, operators, ranges, waits, overheads, on two threads, streams and devices."""
    build = TraceBuilder(gpu=None)
    for i in range(draw(st.integers(0, 4))):
        build.range("step[DECODE bs=2]", 100 * i, draw(st.integers(1, 100)))
    for _ in range(draw(st.integers(0, 25))):
        tid, device, stream = draw(st.integers(1, 2)), draw(st.integers(0, 1)), draw(st.integers(7, 8))
        call, call_dur, gpu, dur = draw(TIME), draw(LENGTH), draw(TIME), draw(LENGTH)
        kind = draw(st.sampled_from(["launch", "graph", "op", "range", "wait", "copy", "overhead", "stray", "python"]))
        if kind == "launch":
            build.launch(
                "k",
                call_us=call,
                call_dur_us=call_dur,
                gpu_us=gpu,
                gpu_dur_us=dur,
                tid=tid,
                device=device,
                stream=stream,
            )
        elif kind == "graph":
            nodes = [("n", gpu + 3 * i, dur) for i in range(draw(st.integers(0, 4)))]
            build.graph(nodes, call_us=call, call_dur_us=call_dur, tid=tid, device=device, stream=stream)
        elif kind == "op":
            build.op(f"aten::{draw(st.sampled_from('abc'))}", call, call_dur, tid=tid)
        elif kind == "range":
            build.range("work", call, call_dur, tid=tid)
        elif kind == "python":
            build.python("f.py(1): f", call, call_dur, tid=tid)
        elif kind == "wait":
            build.call("cudaStreamSynchronize", call, call_dur, tid=tid)
        elif kind == "copy":
            build.memcpy(
                "HtoD",
                call_us=call,
                call_dur_us=call_dur,
                gpu_us=gpu,
                gpu_dur_us=dur,
                tid=tid,
                device=device,
                stream=stream,
            )
        elif kind == "overhead":
            build.overhead("Buffer Flush", call, call_dur, tid=draw(st.sampled_from([None, 1, 2])))
        else:
            build.kernel("stray", gpu, dur, device=device, stream=stream)
    return build.trace()


def union(rows: list[tuple[int, int]]) -> int:
    reach, total = -1, 0
    for start, end in sorted(rows):
        total += max(0, end - max(start, reach))
        reach = max(reach, end)
    return total


relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def unrecorded(trace: Trace) -> list[tuple[int, int]]:
    """When replays without a row may have run: from the launch call to the end of the thread's next wait."""
    launched = set(trace.table("kernels")["correlation_id"]) | set(trace.loaded["graph_traces"]["correlation_id"])
    calls = trace.loaded["runtime_calls"].select("name", "tid", "correlation_id", "start_ns", "dur_ns").rows()
    waits = [(tid, s, s + d) for name, tid, _, s, d in calls if "Synchronize" in name]
    return [
        (s, min((w for w in waits if w[0] == tid and w[1] >= s), key=lambda w: w[1], default=(0, 0, 10**9))[2])
        for name, tid, correlation, s, _ in calls
        if "GraphLaunch" in name and correlation not in launched
    ]


@relaxed
@given(built_traces())
def test_idle_time_is_conserved(trace: Trace) -> None:
    ops, gaps, parts = trace.table("gpu_ops"), trace.table("gaps"), trace.table("gap_parts")
    hidden = unrecorded(trace)
    for (device,), rows in ops.group_by("device"):
        spans = [(s, s + d) for s, d in rows.select("start_ns", "dur_ns").rows()]
        first, last = min(s for s, _ in spans), max(e for _, e in spans)
        cut = [(max(s, first), min(e, last)) for s, e in hidden]
        idle = last - first - union(spans + cut)
        assert gaps.filter(pl.col("device") == device)["dur_ns"].sum() == idle
    assert parts["dur_ns"].sum() == gaps["dur_ns"].sum()
    joined = parts.join(gaps.select("gap_id", a="start_ns", b=pl.col("start_ns") + pl.col("dur_ns")), on="gap_id")
    assert joined.filter(
        (pl.col("start_ns") < pl.col("a")) | (pl.col("start_ns") + pl.col("dur_ns") > pl.col("b"))
    ).is_empty()
    for (_,), rows in parts.sort("start_ns").group_by("gap_id"):
        for (s, d), (following, _) in pairwise(rows.select("start_ns", "dur_ns").rows()):
            assert s + d == following  # parts follow each other without a hole or an overlap
    assert gaps["cause"].null_count() == 0


@relaxed
@given(built_traces())
def test_gpu_time_is_conserved_over_operators(trace: Trace) -> None:
    rows = op_gpu_rows(trace)
    assert rows["gpu_op_id"].is_unique().all()
    outside = rows.filter(pl.col("op_id").is_null())["dur_ns"].sum()
    instances = op_instances(trace)
    assert instances["device_ns"].sum() + outside == trace.table("gpu_ops")["dur_ns"].sum()
    tops = instances.filter(pl.col("parent_id").is_null())
    assert tops["device_total_ns"].sum() == instances["device_ns"].sum()
    assert (instances["self_cpu_ns"] <= instances["self_cpu_with_launch_ns"]).all()


@relaxed
@given(built_traces())
def test_counts_agree(trace: Trace) -> None:
    launches, ops = trace.table("launches"), trace.table("gpu_ops")
    counts = metrics.launch_counts(trace)
    assert counts["matched_gpu_ops"] + counts["unmatched_gpu_ops"] == ops.height
    assert launches["gpu_ops"].sum() == counts["matched_gpu_ops"]
    assert (launches["delay_ns"].drop_nulls() >= 0).all()
    steps = trace.table("steps")
    assert steps["kernels"].sum() == trace.table("kernels")["step_id"].count()
    known = steps.filter(pl.col("gpu_busy_ns").is_not_null() & (pl.col("gpu_ops") > 0))
    assert (known["gpu_busy_ns"] <= known["gpu_dur_ns"]).all()
    assert (known["gpu_busy_ns"] + known["gpu_idle_ns"] <= known["whole_ns"]).all()
    pct = step_metrics(trace)["gpu_idle_pct"].drop_nulls()
    assert pct.is_between(0, 100).all()
    segments, boundaries = trace.table("graph_segments"), trace.table("graph_boundaries")
    per_step = segments.filter(pl.col("step_id").is_not_null()).group_by("step_id", "device").len()
    assert boundaries.height == (per_step["len"] - 1).sum()
    assert (boundaries["idle_ns"] <= boundaries["dur_ns"]).all()


@relaxed
@given(built_traces())
def test_host_pieces_do_not_overlap_and_name_an_open_activity(trace: Trace) -> None:
    timeline = host_timeline(trace)
    spans = timeline.activities.select("start_ns", "end_ns").rows()
    for (_,), pieces in timeline.pieces.group_by("thread"):
        rows = pieces.sort("start_ns").select("start_ns", "end_ns", "activity").rows()
        for start, end, activity in rows:
            if activity >= 0:
                assert spans[activity][0] <= start < end <= spans[activity][1]
        assert all(a[1] == b[0] for a, b in pairwise(rows))  # together they are all time


@relaxed
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=25))
def test_innermost_is_the_last_started_that_is_open(spans: list[tuple[int, int]]) -> None:
    ordered = sorted(((s, s + d) for s, d in spans), key=lambda x: (x[0], -x[1]))
    starts, ends = (np.array(c, np.int64) for c in zip(*ordered, strict=True))
    found = intervals.innermost(starts, ends, np.zeros(len(ordered), np.int64))
    at = {
        t: row for s, e, row in found.select("start_ns", "end_ns", "row").rows() for t in range(max(s, 0), min(e, 75))
    }
    for t in range(75):
        open_ = [row for row, (s, e) in enumerate(ordered) if s <= t < e]
        assert at[t] == (max(open_) if open_ else -1)


@relaxed
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=20),
    st.lists(st.integers(-5, 80), min_size=1, max_size=10),
)
def test_busy_at(spans: list[tuple[int, int]], points: list[int]) -> None:
    frame = pl.DataFrame(
        {"start_ns": [s for s, _ in spans], "end_ns": [s + d for s, d in spans], "device": [0] * len(spans)},
        schema={"start_ns": pl.Int64, "end_ns": pl.Int64, "device": pl.Int64},
    )
    asked = pl.DataFrame({"at": points, "device": [0] * len(points)}, schema={"at": pl.Int64, "device": pl.Int64})
    (found,) = intervals.busy_at(asked, ["at"], frame, ["device"])
    assert found.to_list() == [union([(s, min(s + d, p)) for s, d in spans if s < p]) for p in points]
