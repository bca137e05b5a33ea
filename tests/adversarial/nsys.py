"""Odd but plausible Nsight Systems exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NSYS: dict[str, Callable[[], dict[str, list[dict[str, Any]]]]] = {}
"""Name → the tables of an export."""


def nsys(function: Callable[[], dict[str, list[dict[str, Any]]]]) -> Callable[[], dict[str, list[dict[str, Any]]]]:
    NSYS[function.__name__] = function
    return function


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
