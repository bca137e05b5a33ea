"""The independent count of Nsight Systems exports small enough to count by hand."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import plain_count

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
