"""The independent count against traces small enough to count by hand, and against recorded truth.

`TRACEQL_EXTRA_TRACES` names a folder of captures with a `truth.json` in it; without it those tests skip.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def load_plain_count() -> ModuleType:
    """The module beside this file, whatever the import mode."""
    spec = importlib.util.spec_from_file_location("plain_count", Path(__file__).with_name("plain_count.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


plain_count = load_plain_count()

# -------------------------------------------------------------------------------- torch, counted by hand

# Epoch microseconds with three decimals: a float64 cannot hold them. All times below are offsets to this.
EPOCH_US = 1712195495519000


def at(micros: str) -> str:
    """`12.345` as a timestamp of the file, digit for digit."""
    whole, _, fraction = micros.partition(".")
    return f"{EPOCH_US + int(whole)}.{fraction or '0'}"


def event(cat: str, name: str, ts: str, dur: str, pid: str, **args: Any) -> str:
    """One complete event as JSON text with unrounded numbers."""
    return (
        f'{{"ph": "X", "cat": "{cat}", "name": "{name}", "ts": {at(ts)}, "dur": {dur}, '
        f'"pid": {pid}, "tid": {pid}, "args": {json.dumps(args)}}}'
    )


def kernel(ts: str, dur: str, correlation: int | str, device: int = 0, cat: str = "kernel") -> str:
    return event(cat, "k", ts, dur, str(device), device=device, stream=7, correlation=correlation)


def call(name: str, ts: str, correlation: int, cat: str = "cuda_runtime") -> str:
    return event(cat, name, ts, "2", "42", correlation=correlation)


def step(name: str, ts: str, dur: str) -> str:
    return event("user_annotation", name, ts, dur, "42")


def count_text(folder: Path, *events: str, bare: bool = False, suffix: str = ".json") -> dict[str, Any]:
    listed = f"[{','.join(events)}]"
    text = listed if bare else f'{{"schemaVersion": 1, "traceEvents": {listed}, "traceName": "x"}}'
    path = folder / f"trace{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    figures: dict[str, Any] = plain_count.count_torch(path)
    return figures


# A decode step of two graph segments with one eager kernel between, and work around it:
#   copy      1.000 -  2.000   no launch in the file
#   segment A 10.000 - 12.500, 12.000 - 14.001 (overlapping kernels)
#   eager     16.001 - 17.001
#   segment B 20.001 - 25.001, with a fill 25.001 - 26.001
#   kernel    40.000 - 41.000  launched after the step
PIECEWISE = [
    kernel("1", "1.000", 900, cat="gpu_memcpy"),
    step("step[DECODE bs=8]", "5", "15"),
    call("cudaGraphLaunch", "5", 1),
    kernel("10.000", "2.500", 1),
    kernel("12.000", "2.001", 1),
    call("cuLaunchKernelEx", "8", 2, "cuda_driver"),
    kernel("16.001", "1.000", 2),
    call("cudaGraphLaunch", "15", 3),
    kernel("20.001", "5", 3),
    kernel("25.001", "1", 3, cat="gpu_memset"),
    call("cudaLaunchKernel", "20", 4),  # at the exclusive end of the step
    kernel("40.000", "1.000", 4),
    event("gpu_user_annotation", "step[DECODE bs=8]", "10", "16.001", "0"),
    event("cuda_sync", "Stream Sync", "26", "10", "0", device=0, stream=7, correlation=5),
    call("cudaStreamSynchronize", "22", 5),
    event("Trace", "PyTorch Profiler (0)", "0", "99", '"Spans"'),
]


def test_piecewise_totals(tmp_path: Path) -> None:
    got = count_text(tmp_path, *PIECEWISE)
    assert (got["kernels"], got["memcpys"], got["memsets"]) == (5, 1, 1)
    assert got["kernel_time_ns"] == 2_500 + 2_001 + 1_000 + 5_000 + 1_000
    # Kernels: 10-14.001, 16.001-17.001, 20.001-25.001, 40-41; the copy and the fill add 1 µs each.
    busy = 4_001 + 1_000 + 5_000 + 1_000
    assert got["devices"] == {
        0: {
            "kernels": 5,
            "kernel_time_ns": 11_501,
            "busy_ns": busy,
            "gpu_busy_ns": busy + 2_000,
            "span_ns": 40_000,
            "idle_pct": 100 * (40_000 - 13_001) / 40_000,
        }
    }
    assert (got["matched_gpu_ops"], got["unmatched_gpu_ops"]) == (6, 1)
    assert (got["launch_calls"], got["graph_launches"], got["graph_kernels"]) == (2, 2, 3)
    # 2-10 and 26.001-40; the gaps of 2 and 3 µs are below the threshold.
    assert got["gaps_gt_5us"] == {0: [2, 8_000 + 13_999]}


def test_piecewise_step(tmp_path: Path) -> None:
    got = count_text(tmp_path, *PIECEWISE)
    assert got["steps"] == [
        {
            "step_id": 0,
            "name": "step[DECODE bs=8]",
            "kind": "decode",
            "batch_size": 8,
            "start": (EPOCH_US + 5) * 1_000,
            "dur": 15_000,
            "gpu_start": (EPOCH_US + 10) * 1_000,
            "gpu_span_ns": 16_001,
            "gpu_busy_ns": 4_001 + 1_000 + 6_000,
            "own_busy_ns": 4_001 + 1_000 + 6_000,
            "kernels": 4,
            "memops": 1,
            "launch_calls": 1,
            "graph_launches": 2,
            "graph_segments": 2,
        }
    ]
    boundary = {"device": 0, "start": EPOCH_US * 1_000 + 14_001, "wall_ns": 6_000, "idle_ns": 5_000}
    boundary |= {"eager_gpu_ops": 1, "eager_busy_ns": 1_000}
    assert got["segments_and_boundaries"] == [{"step_id": 0, "boundaries": [boundary]}]


@pytest.mark.parametrize(("bare", "suffix"), [(True, ".json"), (False, ".json.gz"), (True, ".json.gz")])
def test_containers_are_the_same_trace(tmp_path: Path, bare: bool, suffix: str) -> None:
    assert count_text(tmp_path, *PIECEWISE, bare=bare, suffix=suffix) == count_text(tmp_path, *PIECEWISE)


def test_order_of_events_does_not_matter(tmp_path: Path) -> None:
    assert count_text(tmp_path, *reversed(PIECEWISE)) == count_text(tmp_path, *PIECEWISE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1712195495519689.123", 1712195495519689123),
        ("4330576097713.241", 4330576097713241),
        ("7", 7_000),
        ("0.001", 1),
        ("1.5e3", 1_500_000),
        ("NaN", None),
        ("Infinity", None),
        ("soon", None),
    ],
)
def test_digits_to_nanoseconds(text: str, expected: int | None) -> None:
    assert plain_count.nanoseconds(text) == expected


def test_old_categories_and_devices_in_the_pid(tmp_path: Path) -> None:
    """A 2020-style array: capitalised categories, device only in the pid, a correlation that is text."""
    old = [
        '{"ph": "X", "cat": "Kernel", "name": "k", "ts": 10, "dur": 4, "pid": "1", "tid": "stream 7",'
        ' "args": {"correlation": "5"}}',
        '{"ph": "X", "cat": "Memcpy", "name": "Memcpy", "ts": 20, "dur": 1, "pid": 1, "tid": "stream 7",'
        ' "args": {"correlation": 6}}',
        '{"ph": "X", "cat": "Runtime", "name": "cudaLaunchKernel", "ts": 1, "dur": 2, "pid": "99",'
        ' "tid": "99", "args": {"correlation": 5}}',
        '{"ph": "X", "cat": "Operator", "name": "aten::mm", "ts": 0, "dur": 5, "pid": "99", "tid": "99"}',
        '{"ph": "X", "cat": "Kernel", "name": "k", "ts": NaN, "dur": 4, "pid": "1", "tid": "stream 7"}',
        '{"ph": "M", "name": "process_name", "pid": "1"}',
    ]
    got = count_text(tmp_path, *old, bare=True)
    assert list(got["devices"]) == [1]
    assert (got["kernels"], got["memcpys"], got["launch_calls"]) == (1, 1, 1)
    assert (got["matched_gpu_ops"], got["unmatched_gpu_ops"]) == (1, 1)
    assert got["gaps_gt_5us"] == {1: [1, 6_000]}


def test_hip_launches(tmp_path: Path) -> None:
    """AMD names; a correlation id of 0 is no id."""
    names = ["hipLaunchKernel", "hipExtLaunchKernel", "hipModuleLaunchKernel", "hipExtModuleLaunchKernel"]
    calls = [call(name, str(i), i) for i, name in enumerate(names)]
    got = count_text(tmp_path, *calls, call("hipGraphLaunch", "9", 9), kernel("20", "1", 0), kernel("30", "1", 9))
    assert (got["launch_calls"], got["graph_launches"], got["graph_kernels"]) == (4, 1, 1)
    assert (got["matched_gpu_ops"], got["unmatched_gpu_ops"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "is_kernel", "is_graph"),
    [
        ("cudaLaunchKernel", True, False),
        ("cudaLaunchKernelExC", True, False),
        ("cudaLaunchCooperativeKernel", True, False),
        ("cuLaunchKernel", True, False),
        ("cuLaunchKernelEx", True, False),
        ("cuLaunchKernel_ptsz", True, False),
        ("cudaGraphLaunch", False, True),
        ("cuGraphLaunch", False, True),
        ("cudaGraphLaunch_ptsz", False, True),
        ("cudaLaunchHostFunc", False, False),
        ("cudaGraphInstantiate", False, False),
        ("cudaGraphAddKernelNode", False, False),
    ],
)
def test_what_is_a_launch(name: str, is_kernel: bool, is_graph: bool) -> None:
    one = plain_count.Call(name, 0, "1", 1)
    assert (one.is_kernel_launch, one.is_graph_launch) == (is_kernel, is_graph)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step[DECODE bs=64]", ("decode", 64)),
        ("step[EXTEND bs=4 toks=1024]", ("prefill", 4)),
        ("step[MIXED bs=3 toks=99]", ("mixed", 3)),
        ("step[TARGET_VERIFY bs=2 toks=8]", ("verify", 2)),
        ("step[IDLE bs=0]", ("other", 0)),
        ("step[]", (None, None)),
    ],
)
def test_step_kinds(name: str, expected: tuple[str | None, int | None]) -> None:
    assert plain_count.step_kind(name) == expected


def test_innermost_step_and_busy_in_its_window(tmp_path: Path) -> None:
    """A call belongs to the inner step; a late kernel of the outer one keeps the GPU busy in its span."""
    got = count_text(
        tmp_path,
        step("step[MIXED bs=2]", "0", "100"),
        step("step[DECODE bs=2]", "50", "10"),
        call("cudaLaunchKernel", "1", 1),
        call("cudaLaunchKernel", "51", 2),
        call("cudaLaunchKernel", "52", 3),
        kernel("58", "10", 1),  # 58-68
        kernel("55", "1", 2),  # 55-56
        kernel("70", "5", 3),  # 70-75
    )
    outer, inner = got["steps"]
    assert (outer["kernels"], inner["kernels"]) == (1, 2)
    assert (inner["gpu_span_ns"], inner["gpu_busy_ns"], inner["own_busy_ns"]) == (20_000, 16_000, 6_000)


def test_replays_without_rows_are_not_idle(tmp_path: Path) -> None:
    """A graph launch that left nothing on the device: busy and idle are unknown, the span is not."""
    got = count_text(
        tmp_path,
        call("cudaLaunchKernel", "1", 1),
        kernel("5", "1", 1),
        step("step[DECODE bs=1]", "10", "10"),
        call("cudaGraphLaunch", "11", 2),
        call("cudaMemcpyAsync", "15", 3),
        kernel("105", "1", 3, cat="gpu_memcpy"),
    )
    device = got["devices"][0]
    assert (device["busy_ns"], device["span_ns"]) == (1_000, 101_000)
    assert (device["gpu_busy_ns"], device["idle_pct"]) == (None, None)
    assert (got["graph_launches"], got["graph_kernels"]) == (1, 0)
    (only,) = got["steps"]
    assert (only["gpu_busy_ns"], only["own_busy_ns"], only["graph_segments"]) == (None, None, None)
    assert (only["gpu_span_ns"], only["kernels"], only["memops"], only["graph_launches"]) == (1_000, 0, 1, 1)


def test_no_gpu_rows(tmp_path: Path) -> None:
    got = count_text(tmp_path, step("step[DECODE bs=1]", "0", "5"), call("cudaLaunchKernel", "1", 1))
    assert (got["devices"], got["gaps_gt_5us"], got["kernels"]) == ({}, {}, 0)
    (only,) = got["steps"]
    assert (only["gpu_span_ns"], only["gpu_busy_ns"], only["launch_calls"]) == (None, None, 1)


# -------------------------------------------------------------------------------- nsys, counted by hand

PIDS = {"a": 100, "b": 200}
COLUMNS = {
    "StringIds": "id, value",
    "CUPTI_ACTIVITY_KIND_KERNEL": "start, end, deviceId, globalPid, correlationId",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "start, end, deviceId, globalPid, correlationId",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": "start, end, deviceId, globalPid, correlationId",
    "CUPTI_ACTIVITY_KIND_RUNTIME": "start, end, nameId, globalTid, correlationId",
    "NVTX_EVENTS": "start, end, eventType, text, textId, globalTid",
}
KERNELS, COPIES, TRACES, CALLS = list(COLUMNS)[1:5]
STRINGS = [
    (1, "cuLaunchKernel"),
    (2, "cudaGraphLaunch_v10000"),
    (3, "cuMemcpyHtoDAsync_v2"),
    (4, "step[DECODE bs=2]"),
]


def gid(process: str, thread: int = 0) -> int:
    """globalTid of a thread; globalPid with thread 0."""
    return (1 << 48) | (PIDS[process] << 24) | thread


def count_tables(folder: Path, tables: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    path = folder / "trace #1.sqlite"
    db = sqlite3.connect(path)
    for table, rows in {"StringIds": STRINGS, **tables}.items():
        columns = ", ".join(f'"{column}"' for column in COLUMNS[table].split(", "))
        db.execute(f'CREATE TABLE "{table}" ({columns})')
        db.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(rows[0]))})', rows)
    db.commit()
    db.close()
    figures: dict[str, Any] = plain_count.count_nsys(path)
    return figures


def test_nsys_joins_within_the_process(tmp_path: Path) -> None:
    """Two processes reuse correlation id 1: only the kernel of the process that called has a launch."""
    got = count_tables(
        tmp_path,
        {
            KERNELS: [(1_000, 2_000, 0, gid("a"), 1), (1_000, 3_000, 1, gid("b"), 1)],
            COPIES: [(9_000, 9_500, 1, gid("b"), 2)],
            CALLS: [(500, 600, 1, gid("a", 7), 1), (500, 600, 3, gid("b", 8), 2)],
            "NVTX_EVENTS": [
                (400, 700, 59, None, 4, gid("a", 7)),
                (300, None, 59, "step[DECODE bs=9]", None, gid("a", 7)),
                (400, 700, 34, "step[DECODE bs=9]", None, gid("a", 7)),
            ],
        },
    )
    assert (got["matched_gpu_ops"], got["unmatched_gpu_ops"], got["launch_calls"]) == (2, 1, 1)
    assert {d: f["gpu_busy_ns"] for d, f in got["devices"].items()} == {0: 1_000, 1: 2_500}
    assert got["gaps_gt_5us"] == {0: [0, 0], 1: [1, 6_000]}
    # The step is of process a; the copy of process b starts in the same nanoseconds and is not part of it.
    (only,) = got["steps"]
    assert (only["name"], only["kernels"], only["memops"], only["gpu_span_ns"]) == (
        STRINGS[3][1],
        1,
        0,
        1_000,
    )


def test_nsys_graph_trace_rows_are_busy(tmp_path: Path) -> None:
    """An opaque replay counts as busy and as a segment, but is neither a kernel nor a matched operation."""
    got = count_tables(
        tmp_path,
        {
            KERNELS: [(0, 100, 0, gid("a"), 1)],
            TRACES: [(1_000, 11_000, 0, gid("a"), 2), (20_000, 30_000, 0, gid("a"), 3)],
            CALLS: [(0, 10, 1, gid("a"), 1), (500, 600, 2, gid("a"), 2), (15_000, 15_100, 2, gid("a"), 3)],
            "NVTX_EVENTS": [(400, 40_000, 60, "step[DECODE bs=1]", None, gid("a"))],
        },
    )
    device = got["devices"][0]
    assert (device["busy_ns"], device["gpu_busy_ns"], device["span_ns"]) == (100, 20_100, 30_000)
    assert device["idle_pct"] == 33.0
    assert (got["kernels"], got["graph_launches"], got["graph_kernels"]) == (1, 2, 0)
    assert (got["matched_gpu_ops"], got["unmatched_gpu_ops"]) == (1, 0)
    assert got["steps"][0]["graph_segments"] == 2
    (boundary,) = got["segments_and_boundaries"][0]["boundaries"]
    assert (boundary["wall_ns"], boundary["idle_ns"], boundary["eager_gpu_ops"]) == (9_000, 9_000, 0)


def test_nsys_silent_replays_of_one_process(tmp_path: Path) -> None:
    """Only the devices of the process whose replays left no rows have no busy time."""
    got = count_tables(
        tmp_path,
        {
            KERNELS: [(0, 100, 0, gid("a"), 1), (0, 100, 1, gid("b"), 1)],
            CALLS: [(0, 10, 1, gid("a"), 1), (0, 10, 1, gid("b"), 1), (500, 600, 2, gid("b"), 2)],
        },
    )
    assert {d: f["gpu_busy_ns"] for d, f in got["devices"].items()} == {0: 100, 1: None}


def test_nsys_tables_and_columns_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "bare.sqlite"
    db = sqlite3.connect(path)
    db.execute('CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start, "end")')
    db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (10, 30)")
    db.commit()
    db.close()
    got = plain_count.count_nsys(path)
    assert (got["kernels"], got["unmatched_gpu_ops"], got["launch_calls"], got["steps"]) == (1, 1, 0, [])
    assert got["devices"][-1]["gpu_busy_ns"] == 20


def test_main_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count_text(tmp_path, *PIECEWISE)
    assert plain_count.main([str(tmp_path / "trace.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kernels"] == 5
    assert printed["devices"]["0"]["span_ns"] == 40_000


# -------------------------------------------------------------------------------- recorded truth

EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES", "")
TRUTH_FILE = Path(EXTRA) / "truth.json" if EXTRA else None
HAS_TRUTH = TRUTH_FILE is not None and TRUTH_FILE.is_file()
needs_truth = pytest.mark.skipif(not HAS_TRUTH, reason="TRACEQL_EXTRA_TRACES names no folder with a truth.json")
TRUTH: dict[str, Any] = json.loads(TRUTH_FILE.read_text("utf-8")) if HAS_TRUTH and TRUTH_FILE else {}
CAPTURES = [name for name in TRUTH if name.startswith(("torch/", "nsys/"))] or ["no captures"]

STEP_KEYS = {
    "name": "name",
    "dur": "cpu_ns",
    "gpu_span_ns": "gpu_span_ns",
    "gpu_busy_ns": "gpu_busy_ns",
    "own_busy_ns": "own_busy_ns",
    "kernels": "kernels",
    "memops": "memops",
    "launch_calls": "launches",
    "graph_launches": "graph_launches",
}
BUSY_KEYS = {"gpu_busy_ns", "own_busy_ns"}

# From EXPECTED.md beside the truth: boundaries, their wall and idle ns, eager rows, idle over 5 and 10 µs.
BOUNDARIES = {
    "torch/sglang-h200-llama8b-bs4-prefill-piecewise.trace.json.gz": (32, 2_222_711, 963_868, 160, 32, 1),
    "nsys/mini-decode-piecewise-node.sqlite": (288, None, 5_791_892, None, None, 192),
    "torch/sglang-h200-llama8b-bs64-decode-graph.trace.json.gz": (0, 0, 0, 0, 0, 0),
}


def count_capture(name: str) -> dict[str, Any]:
    path = Path(EXTRA) / name
    if not path.is_file():
        pytest.skip(f"{name} is not in TRACEQL_EXTRA_TRACES")
    reader = plain_count.count_nsys if path.suffix == ".sqlite" else plain_count.count_torch
    figures: dict[str, Any] = reader(path)
    return figures


@needs_truth
@pytest.mark.parametrize("name", CAPTURES)
def test_against_truth(name: str) -> None:
    """Every figure both counts have, to the nanosecond."""
    truth, got = TRUTH[name], count_capture(name)
    for key in ("kernels", "memcpys", "memsets", "launch_calls", "graph_launches"):
        assert got[key] == truth[key], key
    assert got["kernel_time_ns"] == truth["kernel_ns"]
    assert got["graph_kernels"] == truth["kernels_from_graph"]
    assert got["matched_gpu_ops"] == truth["matched"] + truth["memops_matched"]
    memops_unmatched = truth["memcpys"] + truth["memsets"] - truth["memops_matched"]
    assert got["unmatched_gpu_ops"] == truth["unmatched"] + memops_unmatched
    assert [sum(column) for column in zip(*got["gaps_gt_5us"].values(), strict=True)] == truth["gaps_device_gt_5us"]

    # The truth's union counts what it sees; where replays left no rows, we say "not recorded" instead.
    silent = truth["graph_launches"] > 0 and truth["graph_launches_without_gpu_events"] == truth["graph_launches"]
    assert {str(device) for device in got["devices"]} == set(truth["devices"])
    for device, figures in got["devices"].items():
        expected = truth["devices"][str(device)]
        assert figures["busy_ns"] == expected["busy_kernels_ns"]
        assert figures["span_ns"] == expected["span_ns"]
        assert figures["gpu_busy_ns"] == (None if silent else expected["busy_all_ns"])
        idle = None if silent else pytest.approx(expected["idle_pct_all"], abs=5e-5)
        assert figures["idle_pct"] == idle

    assert len(got["steps"]) == len(truth["steps"])
    for figures, expected in zip(got["steps"], truth["steps"], strict=True):
        assert figures["start"] == expected["cpu"][0]
        assert figures["gpu_start"] == expected["gpu"][0]
        for ours, theirs in STEP_KEYS.items():
            value = None if silent and ours in BUSY_KEYS else expected[theirs]
            assert figures[ours] == value, (figures["step_id"], ours)


@needs_truth
@pytest.mark.parametrize("name", BOUNDARIES)
def test_boundaries_against_expected(name: str) -> None:
    found = [b for step in count_capture(name)["segments_and_boundaries"] for b in step["boundaries"]]
    idle = [b["idle_ns"] for b in found]
    totals = (sum(b["wall_ns"] for b in found), sum(idle), sum(b["eager_gpu_ops"] for b in found))
    longer = (sum(ns > 5_000 for ns in idle), sum(ns > 10_000 for ns in idle))
    for ours, expected in zip((len(found), *totals, *longer), BOUNDARIES[name], strict=True):
        assert expected is None or ours == expected


@needs_truth
def test_public_captures_can_be_counted() -> None:
    """Other projects' files: no truth, but the figures must hold together."""
    paths = sorted(p for p in Path(EXTRA).glob("public/*/*") if p.suffix in {".sqlite", ".gz", ".json"})
    if not paths:
        pytest.skip("no public/ captures in TRACEQL_EXTRA_TRACES")
    for path in paths:
        got = count_capture(str(path.relative_to(EXTRA)))
        rows = got["kernels"] + got["memcpys"] + got["memsets"]
        assert got["matched_gpu_ops"] + got["unmatched_gpu_ops"] == rows > 0, path.name
        for device in got["devices"].values():
            assert device["busy_ns"] <= device["kernel_time_ns"], path.name
            assert device["busy_ns"] <= device["gpu_busy_ns"] <= device["span_ns"], path.name
