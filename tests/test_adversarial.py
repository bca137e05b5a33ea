"""Odd but plausible files, end to end: every figure against the plain count, every invariant, no rule that breaks."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import plain_count
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql import engine, metrics
from traceql.derived.ops import op_gpu_rows, op_instances
from traceql.derived.step_metrics import step_metrics
from traceql.report import headline
from traceql.trace import Trace

Event = dict[str, Any]
FILES: dict[str, Callable[[], list[Event]]] = {}
"""Name → the events of a Kineto file."""

NSYS: dict[str, Callable[[], dict[str, list[dict[str, Any]]]]] = {}
"""Name → the tables of an Nsight Systems export."""


def kineto(function: Callable[[], list[Event]]) -> Callable[[], list[Event]]:
    FILES[function.__name__] = function
    return function


def nsys(function: Callable[[], dict[str, list[dict[str, Any]]]]) -> Callable[[], dict[str, list[dict[str, Any]]]]:
    NSYS[function.__name__] = function
    return function


def host(cat: str, name: str, ts: Any, dur: Any, *, pid: Any = 100, tid: Any = 1, **args: Any) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def mark(name: str, ts: Any, dur: Any, **where: Any) -> Event:
    return host("user_annotation", name, ts, dur, **where)


def call(ts: Any, number: int, name: str = "cudaLaunchKernel", dur: Any = 4, **where: Any) -> Event:
    return host("cuda_runtime", name, ts, dur, correlation=number, **where)


def gpu(
    name: str, ts: Any, dur: Any, number: int | None, *, device: int = 0, stream: int = 7, cat: str = "kernel"
) -> Event:
    args: dict[str, Any] = {"device": device, "stream": stream, "grid": [8, 1, 1], "block": [128, 1, 1]}
    if number is not None:
        args["correlation"] = number
    return {"ph": "X", "cat": cat, "name": name, "pid": device, "tid": stream, "ts": ts, "dur": dur, "args": args}


def pair(name: str, at: float, dur: float, number: int, *, after: float = 6, **where: Any) -> list[Event]:
    """A launch call at ``at`` and its kernel ``after`` later."""
    place = {k: where.pop(k) for k in ("device", "stream") if k in where}
    return [call(at, number, **where), gpu(name, at + after, dur, number, **place)]


def steps(count: int, body: Callable[[float, Iterator[int]], list[Event]], every: float = 1000) -> list[Event]:
    numbers = itertools.count(1)
    events: list[Event] = []
    for i in range(count):
        events.append(mark("step[DECODE bs=4]", i * every, every * 0.9))
        events += body(i * every, numbers)
    return events


# --- kineto ----------------------------------------------------------------------------------------------------------


@kineto
def overlapping_streams() -> list[Event]:
    def body(at: float, numbers: Iterator[int]) -> list[Event]:
        found = []
        for i, stream in enumerate((7, 13, 20, 7)):
            found += pair(f"k{i}", at + 20 * i, 100 + 30 * i, next(numbers), stream=stream)
        return found

    return steps(4, body)


@kineto
def zero_durations() -> list[Event]:
    return steps(4, lambda at, n: [e for i in range(5) for e in pair("null_kernel", at + 50 * i, 0, next(n))])


@kineto
def nested_step_marks() -> list[Event]:
    """A mixed step around decode steps of its own name family."""
    events = [mark("step[MIXED bs=4 toks=100]", 0, 900), mark("step[DECODE bs=2]", 300, 200)]
    events += pair("outer", 10, 20, 1) + pair("inner", 310, 20, 2) + pair("outer2", 600, 20, 3)
    events += [mark("step[DECODE bs=2]", 1000, 500), *pair("inner", 1010, 20, 4)]
    return events


@kineto
def overlap_scheduling() -> list[Event]:
    """The host range of a step begins before the GPU work of the one before ends; GPU work is queued throughout."""
    events, free = [], 0.0
    for i in range(6):
        events.append(mark("step[DECODE bs=4]", i * 100, 80))
        for j in range(4):
            number, at = i * 10 + j + 1, i * 100 + 10 * j
            start = max(free, at + 6)
            free = start + 24
            events += [call(at, number), gpu("k", start, 24, number)]
    return events


@kineto
def overlapping_step_ranges() -> list[Event]:
    """Marks on two threads of one process whose ranges overlap."""
    events = []
    for i in range(5):
        for tid in (1, 2):
            at = i * 100 + 40 * (tid - 1)
            events.append(mark("step[DECODE bs=4]", at, 90, tid=tid))
            events += pair("k", at + 10, 20, 10 * i + tid, tid=tid, stream=tid)
    return events


@kineto
def launches_outside_steps() -> list[Event]:
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return events + pair("warm_up", -500, 20, 90) + pair("between", 950, 20, 91) + pair("after", 5000, 20, 92)


@kineto
def no_correlations() -> list[Event]:
    """GPU rows without ids: nothing can be joined, nothing is invented."""
    events = steps(3, lambda at, n: [call(at + 10, next(n))])
    return events + [gpu("k", i * 1000 + 16, 50, None) for i in range(3)]


@kineto
def gpu_annotations_alone() -> list[Event]:
    """No host side: GPU ranges and kernels."""
    events = []
    for i in range(4):
        events += [gpu("k", i * 100 + 5, 30, None), gpu("k", i * 100 + 50, 30, None)]
        events.append({**gpu("step[DECODE bs=4]", i * 100, 90, None, cat="gpu_user_annotation")})
    return events


@kineto
def amd_names() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        number, graph = next(n), next(n)
        return [
            call(at, number, "hipLaunchKernel"), gpu("Cijk_Alik_Bljk", at + 8, 30, number),
            call(at + 50, graph, "hipGraphLaunch", dur=20), gpu("a", at + 75, 30, graph), gpu("b", at + 106, 30, graph),
            call(at + 150, 0, "hipStreamSynchronize", dur=100),
        ]  # fmt: skip

    return steps(4, body)


@kineto
def old_categories() -> list[Event]:
    """Capitalised categories, device and stream in pid and tid alone, call ids as texts."""
    events: list[Event] = []
    for i in range(3):
        events.append({"ph": "X", "cat": "Runtime", "name": "cudaLaunchKernel", "ts": i * 100, "dur": 4, "pid": "77",
                       "tid": "77", "args": {"correlation": i + 1}})  # fmt: skip
        events.append({"ph": "X", "cat": "Kernel", "name": "k", "ts": i * 100 + 9, "dur": 20, "pid": "2",
                       "tid": "stream 7", "args": {"correlation": i + 1}})  # fmt: skip
    return events


@kineto
def two_ranks_in_one_file() -> list[Event]:
    events = []
    for rank in (0, 1):
        for i in range(4):
            at, where = i * 1000 + rank * 500, {"pid": 500 + rank}
            events.append(mark("step[DECODE bs=4]", at, 400, **where))
            events += pair("k", at + 10, 100, 100 * rank + i + 1, device=rank, **where)
    return events


@kineto
def unsorted_events() -> list[Event]:
    events = overlapping_streams()
    random.Random(3).shuffle(events)
    return events


@kineto
def times_as_texts_with_digits_beyond_nanoseconds() -> list[Event]:
    base = 1_757_000_000_000_000  # µs since 1970
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return [e | {"ts": f"{base + e['ts']}.{i % 1000:03d}4", "dur": f"{e['dur']}.0004"} for i, e in enumerate(events)]


@kineto
def times_no_float_holds() -> list[Event]:
    """In nanoseconds these are over 2^61: a float64 is 512 of them apart."""
    base = 4_503_599_627_370_001
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return [e | {"ts": base + int(e["ts"])} for e in events]


@kineto
def begin_and_end_events() -> list[Event]:
    """Ranges as B/E pairs (other producers write those) beside complete events: those without a duration are left out."""
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return [
        *events,
        {"ph": "B", "cat": "cpu_op", "name": "aten::mm", "pid": 100, "tid": 1, "ts": 5},
        {"ph": "E", "cat": "cpu_op", "name": "aten::mm", "pid": 100, "tid": 1, "ts": 40},
        {"ph": "i", "name": "marker", "pid": 100, "tid": 1, "ts": 40, "s": "t"},
        {"ph": "s", "id": 1, "cat": "ac2g", "name": "ac2g", "pid": 100, "tid": 1, "ts": 10},
        {"ph": "f", "id": 1, "cat": "ac2g", "name": "ac2g", "pid": 0, "tid": 7, "ts": 16, "bp": "e"},
        {"ph": "C", "name": "gpu memory", "pid": 100, "ts": 40, "args": {"bytes": 5}},
        {"ph": "M", "name": "process_name", "pid": 100, "args": {"name": "python"}},
    ]


@kineto
def duplicate_ids() -> list[Event]:
    """Runtime and driver call share an id, as cuLaunchKernel inside cudaLaunchKernel does."""

    def body(at: float, n: Iterator[int]) -> list[Event]:
        number = next(n)
        inner = host("cuda_driver", "cuLaunchKernel", at + 1, 2, correlation=number)
        return [*pair("k", at, 50, number), inner]

    return steps(3, body)


@kineto
def empty_and_hostile_names() -> list[Event]:
    names = [
        "",
        " ",
        "</script><script>alert(1)</script>",
        "\u202eevil",
        "a" * 5000,
        "naïve kernel 😀",
        "x\ny\tz",
        "a|b`c`",
    ]
    return steps(3, lambda at, n: [e for i, name in enumerate(names) for e in pair(name, at + 20 * i, 10, next(n))])


@kineto
def partial_replays_at_both_edges() -> list[Event]:
    """The first replay's launch call lies before the window, the last one's rows after it."""
    events = [gpu(f"node{i}", 5 + 11 * i, 10, 1) for i in range(3)]  # launched before the recording
    for i in range(4):
        at, number = 100 + 200 * i, i + 2
        events += [mark("step[DECODE bs=4]", at - 20, 190), call(at, number, "cudaGraphLaunch", dur=10)]
        if i < 3:
            events += [gpu(f"node{j}", at + 15 + 11 * j, 10, number) for j in range(6)]
    return events


@kineto
def only_memory_operations() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        first, second = next(n), next(n)
        return [
            call(at, first, "cudaMemcpyAsync"), gpu("Memcpy HtoD (Pinned -> Device)", at + 8, 30, first, cat="gpu_memcpy"),
            call(at + 50, second, "cudaMemsetAsync"), gpu("Memset (Device)", at + 60, 5, second, cat="gpu_memset"),
        ]  # fmt: skip

    return steps(3, body)


@kineto
def one_step_over_two_devices() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        found = []
        for i in range(3):
            for device in (0, 1):
                found += pair("k", at + 200 * i + 10 * device, 90 + 30 * device, next(n), device=device)
        return found

    return steps(4, body)


@kineto
def work_before_its_call() -> list[Event]:
    """Clocks that disagree by a few µs: GPU work seems to start before its launch call."""
    return steps(3, lambda at, n: [e for i in range(4) for e in pair("k", at + 50 * i, 20, next(n), after=-3)])


@kineto
def one_event() -> list[Event]:
    return [gpu("k", 5, 10, 1)]


@kineto
def calls_alone() -> list[Event]:
    return steps(3, lambda at, n: [call(at + 10, next(n)), call(at + 20, next(n), "cudaGraphLaunch")])


@kineto
def replays_nobody_recorded() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        return [
            *pair("prepare", at + 10, 20, next(n)),
            call(at + 50, next(n), "cudaGraphLaunch", dur=10),
            call(at + 100, 0, "cudaStreamSynchronize", dur=300),
            *pair("sample", at + 450, 20, next(n)),
        ]

    return steps(4, body)


@kineto
def negative_times_and_lengths() -> list[Event]:
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    shifted = [e | {"ts": e["ts"] - 5000} for e in events]
    return [*shifted, gpu("bad", 10, -5, 99), gpu("worse", None, 5, 98), gpu("nan", "NaN", 5, 97)]


@kineto
def a_thousand_streams() -> list[Event]:
    return steps(3, lambda at, n: [e for i in range(300) for e in pair("k", at + i, 10, next(n), stream=i)])


# --- nsys ------------------------------------------------------------------------------------------------------------

KERNEL, RUNTIME = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME"
GRAPH_TRACE, NVTX = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "NVTX_EVENTS"
NAMES = ["k", "cudaLaunchKernel_v7000", "cuGraphLaunch", "step[DECODE bs=2]", "cudaStreamSynchronize_v3020"]


def where(pid: int, tid: int = 0) -> int:
    return 1 << 48 | pid << 24 | tid


def row(start: int, end: int, number: int, *, device: int = 0, pid: int = 42, **columns: Any) -> dict[str, Any]:
    found = {"start": start, "end": end, "deviceId": device, "contextId": 1, "streamId": 7, "correlationId": number}
    return {**found, "globalPid": where(pid), "demangledName": 0, "shortName": 0, **columns}


def api(start: int, end: int, number: int, name: int = 1, *, pid: int = 42) -> dict[str, Any]:
    found = {"start": start, "end": end, "eventClass": 0, "globalTid": where(pid, 43), "correlationId": number}
    return {**found, "nameId": name, "returnValue": 0}


def nvtx(start: int, end: int, *, pid: int = 42) -> dict[str, Any]:
    found = {
        "start": start,
        "end": end,
        "eventType": 59,
        "rangeId": None,
        "category": None,
        "color": None,
        "text": None,
    }
    return {**found, "globalTid": where(pid, 43), "textId": 3, "domainId": 0}


@nsys
def without_nvtx() -> dict[str, list[dict[str, Any]]]:
    at = [i * 10_000 for i in range(20)]
    return {KERNEL: [row(a + 5_000, a + 8_000, i + 1) for i, a in enumerate(at)],
            RUNTIME: [api(a, a + 3_000, i + 1) for i, a in enumerate(at)]}  # fmt: skip


@nsys
def without_calls() -> dict[str, list[dict[str, Any]]]:
    return {KERNEL: [row(i * 10_000, i * 10_000 + 3_000, i + 1) for i in range(20)],
            NVTX: [nvtx(i * 50_000, i * 50_000 + 40_000) for i in range(4)]}  # fmt: skip


@nsys
def only_graph_traces() -> dict[str, list[dict[str, Any]]]:
    at = [i * 100_000 for i in range(6)]
    return {GRAPH_TRACE: [row(a + 20_000, a + 80_000, i + 1) | {"graphId": 1, "graphExecId": 2} for i, a in enumerate(at)],
            RUNTIME: [api(a + 5_000, a + 15_000, i + 1, 2) for i, a in enumerate(at)],
            NVTX: [nvtx(a, a + 90_000) for a in at]}  # fmt: skip


@nsys
def two_processes_two_devices() -> dict[str, list[dict[str, Any]]]:
    at = [i * 100_000 for i in range(5)]
    both = [(40, 0, 0), (41, 1, 30_000)]
    return {KERNEL: [row(a + s + 9_000, a + s + 50_000, i + 1, device=d, pid=p) for p, d, s in both for i, a in enumerate(at)],
            RUNTIME: [api(a + s, a + s + 4_000, i + 1, pid=p) for p, _, s in both for i, a in enumerate(at)],
            NVTX: [nvtx(a + s - 1, a + s + 60_000, pid=p) for p, _, s in both for a in at]}  # fmt: skip


@nsys
def replays_without_record_between_kernels() -> dict[str, list[dict[str, Any]]]:
    at = [i * 200_000 for i in range(5)]
    return {KERNEL: [row(a + 10_000, a + 20_000, 2 * i + 1) for i, a in enumerate(at)],
            RUNTIME: [c for i, a in enumerate(at) for c in (
                api(a, a + 5_000, 2 * i + 1), api(a + 30_000, a + 40_000, 2 * i + 2, 2),
                api(a + 45_000, a + 150_000, 0, 4))],
            NVTX: [nvtx(a, a + 160_000) for a in at]}  # fmt: skip


@nsys
def rows_without_ends_and_with_wrong_ones() -> dict[str, list[dict[str, Any]]]:
    return {KERNEL: [row(1_000, 2_000, 1), row(3_000, 2_500, 2), row(5_000, 5_000, 3)],
            RUNTIME: [api(500, 900, 1), api(2_000, 2_900, 2), api(4_000, 4_900, 3)]}  # fmt: skip


# --- the checks ------------------------------------------------------------------------------------------------------


def check(path: Path, expected: dict[str, Any]) -> Trace:
    """Open, count and judge one file."""
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    compare_with_count(trace, expected)
    hold_invariants(trace)
    broken = [(o.code, o.traceback) for o in engine.run(trace) if o.outcome == "error"]
    assert not broken
    report = tq.analyze(trace)
    for kind in ("text", "json", "html", "markdown"):
        assert report.render(kind)
    for finding in report.found:
        shares = {k: v for k, v in finding.evidence.items() if k.endswith("_pct") and isinstance(v, (int, float))}
        assert all(-1e-9 <= v <= 100 + 1e-9 for v in shares.values()), (finding.code, shares)
    assert "nan" not in headline.verdict(trace).lower()
    return trace


def compare_with_count(trace: Trace, expected: dict[str, Any]) -> None:
    found = metrics.of(trace)
    assert found["launches"] == {name: expected[name] for name in found["launches"]}
    assert {int(device) for device in found["gpus"]} == set(expected["devices"])
    for device, figures in expected["devices"].items():
        ours = found["gpus"][str(device)]
        for name in ("kernels", "kernel_time_ns", "busy_ns", "gpu_busy_ns", "span_ns"):
            assert ours[name] == figures[name], (device, name)
        assert ours["idle_pct"] == (
            None if figures["idle_pct"] is None else pytest.approx(figures["idle_pct"], abs=1e-3)
        )
    gaps = trace.table("gaps").filter(pl.col("dur_ns") > plain_count.GAP_NS)
    for device, (count, total) in expected["idle_gaps_gt_5us"].items():
        of_device = gaps.filter(pl.col("device") == device)
        assert [of_device.height, of_device["dur_ns"].sum()] == [count, total], device


def compare_steps(trace: Trace, expected: dict[str, Any]) -> None:
    fields = {"cpu_ns": "dur", "gpu_span_ns": "gpu_span_ns", "kernels": "kernels", "launch_calls": "launch_calls",
              "graph_launches": "graph_launches", "kind": "kind", "batch_size": "batch_size",
              "gpu_busy_ns": "gpu_busy_ns"}  # fmt: skip
    ours = [s for s in metrics.steps(trace) if s["found_by"] == "step mark"]
    assert len(ours) == len(expected["steps"])
    for one, other in zip(ours, expected["steps"], strict=True):
        for name, theirs in fields.items():
            if name == "gpu_busy_ns" and other[theirs] is None and one["kernels"] == 0:
                assert one[name] in (0, None)  # nothing ran in it: known to be idle where others are known
            else:
                assert one[name] == other[theirs], (one["step_id"], name)


def hold_invariants(trace: Trace) -> None:
    ops, gaps, parts = trace.table("gpu_ops"), trace.table("gaps"), trace.table("gap_parts")
    assert parts["dur_ns"].sum() == gaps["dur_ns"].sum()
    by_gap = parts.group_by("gap_id").agg(pl.col("dur_ns").sum().alias("total"))
    assert gaps.join(by_gap, on="gap_id", how="left").filter(pl.col("total").ne_missing(pl.col("dur_ns"))).is_empty()
    steps = trace.table("steps")
    known = steps.filter(pl.col("gpu_busy_ns").is_not_null())
    assert (known["gpu_busy_ns"] + known["gpu_idle_ns"] <= known["whole_ns"]).all()
    assert step_metrics(trace)["gpu_idle_pct"].drop_nulls().is_between(0, 100).all()
    assert steps["gpu_ops"].sum() == ops["step_id"].count()
    rows = op_gpu_rows(trace)
    assert rows.height == ops.height
    outside = rows.filter(pl.col("op_id").is_null())["dur_ns"].sum()
    assert op_instances(trace)["device_ns"].sum() + outside == ops["dur_ns"].sum()
    layers, kernels = trace.table("layers"), trace.table("kernels")
    assert layers["kernels"].sum() <= kernels.height


@pytest.mark.parametrize("name", FILES)
def test_kineto(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": FILES[name]()}), encoding="utf-8")
    expected = plain_count.count_torch(path)
    trace = check(path, expected)
    # the plain count takes the innermost mark, and marks on the host alone
    if name not in ("nested_step_marks", "overlapping_step_ranges", "gpu_annotations_alone"):
        compare_steps(trace, expected)


def test_ranges_on_the_gpu_tell_the_steps_of_a_trace_without_a_host(tmp_path: Path) -> None:
    events = gpu_annotations_alone()
    other_stream = [
        e | {"ts": e["ts"] + 10, "tid": 9, "args": e["args"] | {"stream": 9}}
        for e in events
        if "annotation" in e["cat"]
    ]
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"traceEvents": events + other_stream}))
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    columns = ["kind", "batch_size", "kernels", "gpu_busy_ns", "dur_ns", "period_ns"]
    steps = trace.table("steps").select(columns).rows()
    assert steps[:3] == [("decode", 4, 2, 60_000, None, 100_000)] * 3
    assert len(steps) == 4


@pytest.mark.parametrize("name", NSYS)
def test_nsys(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.sqlite"
    tables = {"StringIds": [{"id": i, "value": text} for i, text in enumerate(NAMES)], **NSYS[name]()}
    with closing(sqlite3.connect(path)) as connection:
        for table, rows in tables.items():
            columns = list(rows[0])
            connection.execute(f'create table "{table}" ({", ".join(columns)})')
            values = [[r.get(c) for c in columns] for r in rows]
            connection.executemany(f'insert into "{table}" values ({", ".join("?" * len(columns))})', values)
        connection.commit()
    check(path, plain_count.count_nsys(path))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    text = json.dumps({"schemaVersion": 1, "traceEvents": overlapping_streams()}, ensure_ascii=False)
    path.write_bytes(text.replace("k2", "caf\xe9").encode("latin-1"))
    expected = plain_count.count_torch(path)
    trace = check(path, expected)
    compare_steps(trace, expected)
    assert trace.table("kernels")["name"].str.starts_with("caf").any()


@pytest.mark.parametrize("indent", [None, 0, 4])
@pytest.mark.parametrize("array", [True, False])
def test_layouts_say_the_same(indent: int | None, array: bool, tmp_path: Path) -> None:
    """A bare array, keys in another order, any white space."""
    events = [dict(reversed(list(e.items()))) for e in partial_replays_at_both_edges()]
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(events if array else {"traceEvents": events, "schemaVersion": 1}, indent=indent))
    expected = plain_count.count_torch(path)
    compare_steps(check(path, expected), expected)


@st.composite
def generated(draw: st.DrawFn) -> list[Event]:
    """Launches, replays with and without rows, waits and copies of one or two processes, inside and outside steps."""
    numbers = itertools.count(1)
    events: list[Event] = []
    for process in range(draw(st.integers(1, 2))):
        place = {"pid": 100 + process}
        devices = [process] if draw(st.booleans()) else [process, process + 2]
        at = draw(st.integers(0, 300))
        for _ in range(draw(st.integers(0, 5))):
            length = draw(st.integers(20, 300))
            if draw(st.booleans()):
                events.append(mark(f"step[DECODE bs={draw(st.integers(1, 2))}]", at, length, **place))
            for _ in range(draw(st.integers(0, 6))):
                begin, number = at + draw(st.integers(0, 400)), next(numbers)
                start, dur = begin + draw(st.integers(0, 200)), draw(st.integers(0, 120))
                device, stream = draw(st.sampled_from(devices)), draw(st.sampled_from([7, 13]))
                kind = draw(st.sampled_from(["kernel", "kernel", "graph", "wait", "copy", "stray"]))
                where = {"device": device, "stream": stream}
                if kind == "kernel":
                    events += [call(begin, number, **place), gpu("k", start, dur, number, **where)]
                elif kind == "graph":
                    events.append(call(begin, number, "cudaGraphLaunch", **place))
                    nodes = draw(st.integers(0, 3))
                    events += [gpu(f"n{i}", start + 9 * i, dur, number, **where) for i in range(nodes)]
                elif kind == "wait":
                    events.append(call(begin, 0, "cudaStreamSynchronize", dur=dur, **place))
                elif kind == "copy":
                    name = draw(st.sampled_from(["cudaMemcpyAsync", "cudaMemcpy"]))
                    events.append(call(begin, number, name, dur=dur, **place))
                    events.append(
                        gpu("Memcpy HtoD (Pageable -> Device)", start, dur, number, cat="gpu_memcpy", **where)
                    )
                else:
                    events.append(gpu("stray", start, dur, None if draw(st.booleans()) else 10_000 + number, **where))
            at += length + draw(st.integers(0, 100))
    return events


@settings(
    max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each try opens a file: no shrinking
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(generated())
def test_generated_files(tmp_path: Path, events: list[Event]) -> None:
    if not any(e["cat"] in ("kernel", "gpu_memcpy", "cuda_runtime") for e in events):
        return
    path = tmp_path / "generated.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    expected = plain_count.count_torch(path)
    trace = tq.open(path, cache=False)
    assert isinstance(trace, Trace)
    compare_with_count(trace, expected)
    compare_steps(trace, expected)
    hold_invariants(trace)
    assert not [(o.code, o.traceback) for o in engine.run(trace) if o.outcome == "error"]
