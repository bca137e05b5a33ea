"""The independent count of torch traces small enough to count by hand."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import plain_count
import pytest

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


def test_main_prints_json(tmp_path: Path) -> None:
    count_text(tmp_path, *PIECEWISE)
    command = [sys.executable, "-m", "plain_count", str(tmp_path / "trace.json")]
    printed = json.loads(subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True).stdout)
    assert printed["kernels"] == 5
    assert printed["devices"]["0"]["span_ns"] == 40_000
