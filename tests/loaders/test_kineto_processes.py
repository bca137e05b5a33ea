"""Several processes in one Kineto file: a GPU row is joined to the call of its own process or to none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import traceql as tq
from traceql.trace import Trace


def run(
    pid: Any, gpu_pid: Any, device: int, shift_us: float, first_id: int = 1, calls: int = 20
) -> list[dict[str, Any]]:
    """A process that launches a kernel every 10 µs; each starts 3 µs after its call."""
    events: list[dict[str, Any]] = []
    for i in range(calls):
        at, number = 1000 + shift_us + 10 * i, first_id + i
        host = {"ph": "X", "pid": pid, "tid": 1, "dur": 2}
        events.append(
            {**host, "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": at, "args": {"correlation": number}}
        )
        where = {"device": device, "stream": 7, "correlation": number}
        events.append(
            {
                "ph": "X",
                "cat": "kernel",
                "name": f"k{pid}",
                "pid": gpu_pid,
                "tid": 7,
                "ts": at + 3,
                "dur": 4,
                "args": where,
            }
        )
    return events


def opened(tmp_path: Path, *processes: list[dict[str, Any]]) -> Trace:
    path = tmp_path / "several.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": [e for events in processes for e in events]}))
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    return trace


def joined(trace: Trace) -> set[tuple[str, int | None]]:
    """Kernel name and the process of the call it was joined to."""
    kernels, calls = trace.table("kernels"), trace.table("launches").select("launch_id", call_pid="pid")
    return set(kernels.join(calls, on="launch_id", how="left").select("name", "call_pid").rows())


def test_causality_tells_the_process(tmp_path: Path) -> None:
    """Equal ids; the second process runs 1 ms later, so its calls come after the work of the first."""
    trace = opened(tmp_path, run(100, 0, 0, 0), run(200, 1, 1, 1000))
    assert joined(trace) == {("k100", 100), ("k200", None)}  # the first one's calls precede all: not proven
    assert any("several processes" in p.message for p in trace.problems)


def test_interleaved_processes_rule_each_other_out(tmp_path: Path) -> None:
    a, b = run(100, 0, 0, 0), run(200, 1, 1, 1000)
    late_a, early_b = run(100, 0, 0, 9000, first_id=50), run(200, 1, 1, 8000, first_id=50)
    trace = opened(tmp_path, a, late_a, b, early_b)
    assert joined(trace) == {("k100", 100), ("k200", 200)}
    assert not trace.problems


def test_lock_step_processes_are_not_joined(tmp_path: Path) -> None:
    trace = opened(tmp_path, run(100, 0, 0, 0), run(200, 1, 1, 1))
    assert joined(trace) == {("k100", None), ("k200", None)}
    (problem,) = trace.problems
    assert (problem.kind, problem.count) == ("note", 40)
    assert "several processes" in problem.message
    assert trace.table("launches")["gpu_ops"].sum() == 0


def test_ids_of_one_process_alone_are_certain(tmp_path: Path) -> None:
    trace = opened(tmp_path, run(100, 0, 0, 0), run(200, 1, 1, 1, first_id=500))
    assert joined(trace) == {("k100", 100), ("k200", 200)}
    assert not trace.problems


def test_two_processes_on_one_device_with_ids_of_their_own(tmp_path: Path) -> None:
    trace = opened(tmp_path, run(100, 0, 0, 0), run(200, 0, 0, 1, first_id=500))
    assert joined(trace) == {("k100", 100), ("k200", 200)}


@pytest.mark.parametrize("labels", [("[TP00] ", "[TP01] "), ("[TP00-PP00] ", "[TP00-PP01] "), ("[DP-3] ", "[DP-12] ")])
def test_labels_of_a_merged_file(tmp_path: Path, labels: tuple[str, str]) -> None:
    one, other = labels
    a = run(f"{one}4711", f"{one}0", 0, 0)
    b = run(f"{other}4712", f"{other}1", 1, 1)
    trace = opened(tmp_path, a, b)
    assert not trace.problems
    kernels = trace.table("kernels")
    calls = trace.table("launches").select("launch_id", call_pid="pid", call_start="start_ns")
    rows = kernels.join(calls, on="launch_id").select("name", "device", "call_pid").unique().rows()
    assert len(rows) == 2
    assert len({pid for *_, pid in rows}) == 2
    starts = kernels.join(calls, on="launch_id")
    assert (starts["start_ns"] - starts["call_start"]).unique().to_list() == [3000]


def test_ranks_that_number_their_gpus_alike(tmp_path: Path) -> None:
    trace = opened(tmp_path, run("[TP00] 1", "[TP00] 0", 0, 0), run("[TP01] 2", "[TP01] 0", 0, 1))
    assert {pid for _, pid in joined(trace)} == {0, 1}
    (problem,) = trace.problems
    assert "2 processes of this file use device 0" in problem.message
