"""Nsight Systems SQLite exports: schema variants, odd rows, damage, and the exact counts of real captures."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_sqlite
from traceql.trace import LoadedTrace, Trace

Rows = list[dict[str, Any]]
KERNEL, MEMCPY = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY"
RUNTIME, GRAPH_TRACE = "CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
SYNC, OVERHEAD = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION", "CUPTI_ACTIVITY_KIND_OVERHEAD"


def global_id(pid: int, tid: int = 0) -> int:
    """A globalPid or globalTid as nsys packs it."""
    return 1 << 48 | pid << 24 | tid


def export(path: Path, tables: dict[str, Rows], *, extra_sql: str = "") -> Path:
    """A SQLite file with these tables; columns have no declared type, so that values stay as they are given."""
    with closing(sqlite3.connect(path)) as connection:
        for name, rows in tables.items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            connection.execute(f'create table "{name}" ({", ".join(f"{c!r}" for c in columns)})')
            places = ", ".join("?" * len(columns))
            values = [[row.get(column) for column in columns] for row in rows]
            connection.executemany(f'insert into "{name}" values ({places})', values)
        connection.executescript(extra_sql)
        connection.commit()
    return path


def strings(*texts: str | bytes) -> Rows:
    return [{"id": number, "value": text} for number, text in enumerate(texts)]


def kernel(start: int, end: int, **columns: Any) -> dict[str, Any]:
    row = {"start": start, "end": end, "deviceId": 0, "contextId": 1, "streamId": 7, "correlationId": 1}
    return {**row, "globalPid": global_id(42), "demangledName": 0, "shortName": 1, **columns}


def call(start: int, end: int, **columns: Any) -> dict[str, Any]:
    row = {"start": start, "end": end, "eventClass": 0, "globalTid": global_id(42, 43), "correlationId": 1}
    return {**row, "nameId": 2, "returnValue": 0, **columns}


NAMES = strings("void gemm<float>(int)", "gemm", "cudaLaunchKernel_v7000", "cuMemAlloc_v2", "step[DECODE bs=1]")


def load(tmp_path: Path, tables: dict[str, Rows], **keywords: Any) -> LoadedTrace:
    return nsys_sqlite.load(export(tmp_path / "x.sqlite", {"StringIds": NAMES, **tables}, **keywords))


def problems(trace: LoadedTrace, kind: str) -> list[tuple[str, int | None]]:
    return [(problem.message, problem.count) for problem in trace.problems if problem.kind == kind]


def test_kernel_columns(tmp_path: Path) -> None:
    shape = {"gridX": 1, "gridY": 2, "gridZ": 3, "blockX": 32, "blockY": 4, "blockZ": 5, "registersPerThread": 64}
    row = kernel(100, 150, **shape, staticSharedMemory=16, dynamicSharedMemory=1024)
    (found,) = load(tmp_path, {KERNEL: [row]}).frames["kernels"].to_dicts()
    assert found == {
        "start_ns": 100, "dur_ns": 50, "name": "void gemm<float>(int)", "short_name": "gemm", "device": 0,
        "stream": 7, "context": 1, "pid": 42, "correlation_id": 1, "graph_id": None, "graph_node_id": None,
        "grid_x": 1, "grid_y": 2, "grid_z": 3, "block_x": 32, "block_y": 4, "block_z": 5,
        "registers_per_thread": 64, "shared_memory_bytes": 1040,
    }  # fmt: skip


def test_kernel_name_falls_back(tmp_path: Path) -> None:
    rows = [kernel(1, 2, demangledName=None), kernel(3, 4, demangledName=99, shortName=98, mangledName=2)]
    frame = load(tmp_path, {KERNEL: rows}).frames["kernels"]
    assert frame["name"].to_list() == ["gemm", "cudaLaunchKernel_v7000"]
    assert frame["short_name"].to_list() == ["gemm", None]


def test_schema_3_7(tmp_path: Path) -> None:
    """Graph nodes are numbered within the upper half; no GRAPH_TRACE, no diagnostics, no overhead type."""
    nodes = [{"start": 1, "end": 1, "graphNodeId": (5 << 32) + 2, "originalGraphNodeId": (4 << 32) + 2}]
    trace = load(tmp_path, {
        KERNEL: [kernel(10, 20, graphNodeId=(5 << 32) + 2), kernel(20, 25, graphNodeId=None)],
        "CUDA_GRAPH_EVENTS": nodes,
        "PROFILER_OVERHEAD": [{"start": 1, "end": 5, "globalTid": global_id(42, 9), "nameId": 1, "returnValue": 0}],
    })  # fmt: skip
    assert trace.frames["kernels"].select("graph_id", "graph_node_id").rows() == [(5, 2), (None, None)]
    assert trace.frames["overheads"].rows() == [(1, 4, "gemm", 42, 9)]
    assert trace.frames["graph_traces"].is_empty()
    assert trace.problems == ()


def test_schema_3_16_diagnostics(tmp_path: Path) -> None:
    texts = [
        (1, "Profiling has started."), (1, "Number of dropped events: 0."), (2, "No NVTX events collected."),
        (2, "No NVTX events collected."), (1, "CUPTI: 12 records were dropped."),
        (3, "Not all CUDA events might have been collected."),
    ]  # fmt: skip
    rows = [{"timestamp": 0, "severity": severity, "text": text} for severity, text in texts]
    trace = load(tmp_path, {KERNEL: [kernel(1, 2)], "DIAGNOSTIC_EVENT": rows})
    assert problems(trace, "diagnostic") == [("No NVTX events collected.", 2)]
    assert problems(trace, "dropped") == [
        ("CUPTI: 12 records were dropped.", None),
        ("Not all CUDA events might have been collected.", None),
    ]


def test_schema_3_24_graph_traces(tmp_path: Path) -> None:
    replay = {**kernel(10, 90), "graphId": 1, "graphExecId": 2}
    labels = [{"id": 4, "name": "OVERHEAD_CUPTI_INSTRUMENTATION", "label": "Instrumentation (Profiler)"}]
    overhead = {"start": 1, "end": 3, "globalTid": global_id(42, 9)}
    trace = load(tmp_path, {
        KERNEL: [kernel(1, 5, graphId=3, graphNodeId=(3 << 32) + 1), kernel(5, 6, graphId=0, graphNodeId=0)],
        GRAPH_TRACE: [replay, {**replay, "start": 0, "end": 0}, {**replay, "deviceId": 2**31 - 1}],
        "PROFILER_OVERHEAD": [{**overhead, "nameId": 5, "overheadType": 4}],
        OVERHEAD: [{**overhead, "nameId": None, "overheadType": 7}, {**overhead, "nameId": 1, "overheadType": 7}],
        "ENUM_CUPTI_OVERHEAD_TYPE": labels,
        "StringIds": [*NAMES, {"id": 5, "value": "Unknown"}],
    })  # fmt: skip
    assert trace.frames["kernels"].select("graph_id", "graph_node_id").rows() == [(3, 1), (None, 0)]
    replays = trace.frames["graph_traces"].select("start_ns", "dur_ns", "graph_id", "graph_exec_id", "device")
    assert replays.rows() == [(10, 80, 1, 2, 0), (10, 80, 1, 2, None)]
    assert problems(trace, "skipped") == [(f"{GRAPH_TRACE}: rows without a valid start and end were left out", 1)]
    kinds = trace.frames["overheads"]["kind"].to_list()
    assert kinds == ["Instrumentation (Profiler)", "Lazy function loading", "gemm"]


def test_schema_3_28_unordered_rows_and_unknown_tables(tmp_path: Path) -> None:
    tables: dict[str, Rows] = {
        KERNEL: [kernel(300, 310, sharedMemoryRequestedPercentage=5), kernel(100, 110), kernel(200, 210)],
        "GRAPH_HOST_NODE": [{"start": 1, "end": 2}],
        "JIT": [{"start": 1, "end": 2}],
    }
    trace = Trace.from_loaded(load(tmp_path, tables))
    assert trace.loaded["kernels"]["start_ns"].to_list() == [0, 100, 200]


def test_calls_without_kernels(tmp_path: Path) -> None:
    rows = [call(5, 9, nameId=2), call(10, 12, nameId=3, returnValue=2)]
    trace = load(tmp_path, {RUNTIME: rows})
    assert trace.frames["runtime_calls"].rows() == [
        (5, 4, "cudaLaunchKernel", 42, 43, 1, 0),
        (10, 2, "cuMemAlloc_v2", 42, 43, 1, 2),
    ]
    assert trace.frames["kernels"].is_empty()


def test_without_strings(tmp_path: Path) -> None:
    trace = nsys_sqlite.load(export(tmp_path / "x.sqlite", {KERNEL: [kernel(1, 2)], RUNTIME: [call(1, 2)]}))
    assert trace.frames["kernels"]["name"].to_list() == [None]
    assert [count for _, count in problems(trace, "note")] == [1, 1]


def test_processes_may_share_correlation_ids(tmp_path: Path) -> None:
    other = {"globalPid": global_id(50), "globalTid": global_id(50, 51)}
    trace = load(tmp_path, {
        KERNEL: [kernel(10, 20), kernel(11, 21, globalPid=other["globalPid"])],
        RUNTIME: [call(1, 2), call(3, 4, globalTid=other["globalTid"])],
    })  # fmt: skip
    joined = trace.frames["kernels"].join(trace.frames["runtime_calls"], on=["pid", "correlation_id"])
    assert joined.select("pid", "tid", "start_ns_right").sort("pid").rows() == [(42, 43, 1), (50, 51, 3)]


def test_memory_operations_by_documented_number(tmp_path: Path) -> None:
    copy = {"bytes": 256, "srcKind": 0, "dstKind": 2}
    rows = [kernel(i, i + 1, **copy, copyKind=kind) for i, kind in enumerate([1, 2, 8, 10, 9, 0, 77], start=1)]
    memset = kernel(1, 2, bytes=64, value=7)
    trace = load(tmp_path, {MEMCPY: rows, "CUPTI_ACTIVITY_KIND_MEMSET": [memset]})
    memcpys = trace.frames["memcpys"]
    assert memcpys["kind"].to_list() == ["HtoD", "DtoH", "DtoD", "PtoP", "HtoH", None, None]
    assert (
        memcpys.row(0, named=True).items() >= {"bytes": 256, "src_memory": "pageable", "dst_memory": "device"}.items()
    )
    assert trace.frames["memsets"].select("bytes", "value", "pid").rows() == [(64, 7, 42)]


def test_enumerations_of_the_export_win(tmp_path: Path) -> None:
    trace = load(tmp_path, {
        MEMCPY: [kernel(1, 2, copyKind=40, srcKind=40, dstKind=7), kernel(2, 3, copyKind=41, srcKind=1, dstKind=2)],
        "ENUM_CUDA_MEMCPY_OPER": [
            {"id": 40, "name": "CUDA_MEMCPY_KIND_UVM_HTOD", "label": "Unified Host-to-Device"},
            {"id": 41, "name": "CUDA_MEMCPY_KIND_PTOP", "label": "Peer-to-Peer"},
        ],
        "ENUM_CUDA_MEM_KIND": [
            {"id": 40, "name": "CUDA_MEMOPR_MEMORY_KIND_DEVICE_STATIC", "label": "Device Static"},
            {"id": 7, "name": "CUDA_MEMOPR_MEMORY_KIND_UNKNOWN", "label": "Unknown"},
        ],
    })  # fmt: skip
    kinds = trace.frames["memcpys"].select("kind", "src_memory", "dst_memory").rows()
    assert kinds == [("UVM HtoD", "device static", None), ("PtoP", "pinned", "device")]


def test_synchronizations(tmp_path: Path) -> None:
    rows = [kernel(i, i + 1, syncType=i, streamId=2**32 - 1 if i == 4 else 7) for i in range(1, 6)]
    name = "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT"
    trace = load(tmp_path, {SYNC: rows, "ENUM_CUPTI_SYNC_TYPE": [{"id": 5, "name": name}]})
    frame = trace.frames["synchronizations"]
    assert frame["kind"].to_list() == ["event", "stream_wait", "stream", "context", "stream_wait"]
    assert frame["stream"].to_list() == [7, 7, 7, None, 7]


def nvtx(start: int | None, end: int | None, event_type: int = 59, **columns: Any) -> dict[str, Any]:
    row = {"start": start, "end": end, "eventType": event_type, "text": None, "textId": None, "domainId": 0}
    return {**row, "globalTid": global_id(42, 43), **columns}


def test_nvtx_text_marks_and_domains(tmp_path: Path) -> None:
    other = global_id(50, 51)
    trace = load(tmp_path, {"NVTX_EVENTS": [
        nvtx(0, None, 75, text="NCCL", domainId=3),
        nvtx(0, None, 75, text="other", domainId=3, globalTid=other),
        nvtx(1, None, 76, domainId=3),
        nvtx(1, None, 33, text="a category"),
        nvtx(10, 20, text="forward"),
        nvtx(11, 12, textId=4),
        nvtx(13, 15, 60, text="", textId=1, domainId=3),
        nvtx(14, 15, text="b", domainId=3, globalTid=other),
        nvtx(14, 15, text="c", domainId=9),
        nvtx(16, None, 34, text="a mark"),
    ]})  # fmt: skip
    columns = ["start_ns", "dur_ns", "name", "domain", "side", "pid", "tid"]
    assert trace.frames["annotations"].select(columns).rows() == [
        (10, 10, "forward", None, "cpu", 42, 43),
        (11, 1, "step[DECODE bs=1]", None, "cpu", 42, 43),
        (13, 2, "gemm", "NCCL", "cpu", 42, 43),
        (14, 1, "b", "other", "cpu", 50, 51),
        (14, 1, "c", "domain 9", "cpu", 42, 43),
        (16, 0, "a mark", None, "cpu", 42, 43),
    ]
    assert trace.problems == ()


def test_nvtx_ranges_left_open_end_with_the_trace(tmp_path: Path) -> None:
    ranges = [nvtx(5, None, text="open"), nvtx(500, None, text="late"), nvtx(6, 3, text="backwards"), nvtx(7, 8)]
    trace = load(tmp_path, {"NVTX_EVENTS": ranges, KERNEL: [kernel(100, 150)]})
    assert trace.frames["annotations"].select("start_ns", "dur_ns").rows() == [(5, 145), (500, 0), (7, 1)]
    assert [count for _, count in problems(trace, "note")] == [2]
    assert [count for _, count in problems(trace, "skipped")] == [1]


def test_rows_without_a_time_are_left_out_and_counted(tmp_path: Path) -> None:
    times = [(10, 20), (None, 20), (10, None), (20, 10), (0, 0), (-(2**63), 2**63 - 1), (5, 5)]
    trace = load(tmp_path, {KERNEL: [{**kernel(1, 1), "start": start, "end": end} for start, end in times]})
    assert trace.frames["kernels"].select("start_ns", "dur_ns").rows() == [(10, 10), (5, 0)]
    assert problems(trace, "skipped") == [(f"{KERNEL}: rows without a valid start and end were left out", 5)]


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """Stored as TEXT, as nsys writes it, with bytes that are not."""
    sql = "update StringIds set value = cast(x'67656d6dff' as text) where id = 0"
    gpu = [{"id": 0, "name": "GPU", "smCount": 1}]
    sql += "; update TARGET_INFO_GPU set name = cast(x'e9' as text)"
    trace = load(tmp_path, {KERNEL: [kernel(1, 2)], "TARGET_INFO_GPU": gpu}, extra_sql=sql)
    assert trace.frames["kernels"]["name"].to_list() == ["gemm\ufffd"]
    assert trace.frames["devices"]["name"].to_list() == ["\ufffd"]


def test_values_of_a_wrong_type(tmp_path: Path) -> None:
    """Whole numbers survive being stored as text or float; anything else is missing, and counted."""
    rows = [
        kernel(10, 20, gridX="8", streamId=7.0),
        kernel(30, 40, gridX="x", streamId=7.5, deviceId=b"\xff"),
        kernel(50, 60, gridX=float("inf"), streamId=None, contextId=2.0**60),
    ]
    trace = load(tmp_path, {KERNEL: rows})
    columns = ["start_ns", "grid_x", "stream", "device", "context"]
    assert trace.frames["kernels"].select(columns).rows() == [
        (10, 8, 7, 0, 1), (30, None, None, None, 1), (50, None, None, 0, None),
    ]  # fmt: skip
    assert [count for _, count in problems(trace, "skipped")] == [5]


def test_types_that_change_after_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsys_sqlite, "_BATCH_ROWS", 2)
    ranges = [nvtx(i, i + 1, text=None if i < 5 else "late", textId=1) for i in range(1, 8)]
    kernels = [kernel(i, i + 1, gridX=i if i < 5 else "five", graphId=None if i < 5 else 1) for i in range(1, 8)]
    trace = load(tmp_path, {"NVTX_EVENTS": ranges, KERNEL: kernels})
    assert trace.frames["annotations"]["name"].to_list() == ["gemm"] * 4 + ["late"] * 3
    assert trace.frames["kernels"]["grid_x"].to_list() == [1, 2, 3, 4, None, None, None]
    assert trace.frames["kernels"]["graph_id"].to_list() == [None] * 4 + [1] * 3


def test_large_tables_are_read_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [kernel(i, i + 1, gridX=i) for i in range(1, 1001)]
    gaps = f"delete from {KERNEL} where rowid between 300 and 600"
    whole = load(tmp_path, {KERNEL: rows}, extra_sql=gaps).frames["kernels"]
    monkeypatch.setattr(nsys_sqlite, "_PART_ROWS", 10)
    assert nsys_sqlite.load(tmp_path / "x.sqlite").frames["kernels"].equals(whole)
    assert whole.height == 699


def test_views_triggers_and_odd_tables(tmp_path: Path) -> None:
    """Views are not read (this one never ends); a column may be called rowid; a table may have no row ids."""
    sql = f"""
        create view {MEMCPY} as with recursive r(start) as (select 1 union all select start + 1 from r)
            select start, start as end from r;
        create trigger t after insert on StringIds begin delete from StringIds; end;
        create table {RUNTIME} (start, end, globalTid, correlationId, nameId, key primary key) without rowid;
        insert into {RUNTIME} values (1, 2, {global_id(42, 43)}, 1, 2, 0), (3, 'x', 0, 1, 2, 1);
    """
    trace = load(tmp_path, {KERNEL: [kernel(5, 6, rowid="odd", gridX="?")]}, extra_sql=sql)
    assert trace.frames["memcpys"].is_empty()
    assert trace.frames["runtime_calls"].select("name", "start_ns").rows() == [("cudaLaunchKernel", 1)]
    assert trace.frames["kernels"].height == 1


sqlite_values = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            dict.fromkeys(("start", "end", "deviceId", "globalPid", "graphNodeId", "shortName"), sqlite_values)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_value_crashes(tmp_path: Path, rows: Rows) -> None:
    path = tmp_path / "x.sqlite"
    path.unlink(missing_ok=True)
    trace = nsys_sqlite.load(export(path, {KERNEL: rows, "NVTX_EVENTS": rows, "StringIds": NAMES}))
    untimed = sum(
        count or 0 for message, count in problems(trace, "skipped") if KERNEL in message and "start" in message
    )
    assert trace.frames["kernels"].height + untimed == len(rows)
    Trace.from_loaded(trace)


def gpu(number: int, **columns: Any) -> dict[str, Any]:
    sizes = {"l2CacheSize": 50_000_000, "totalMemory": 80_000_000_000, "memoryBandwidth": 3_352_320_000_000}
    row = {"id": number, "name": f"GPU {number}", "isDiscrete": 1, "smCount": 132, "computeMajor": 9, "computeMinor": 0}
    return {**row, **sizes, "cuDevice": number, **columns}


def test_devices(tmp_path: Path) -> None:
    integrated = gpu(1, isDiscrete=0)
    trace = load(tmp_path, {KERNEL: [kernel(1, 2)], "TARGET_INFO_GPU": [gpu(0), integrated]})
    assert trace.frames["devices"].to_dicts() == [{
        "device": 0, "name": "GPU 0", "sm_count": 132, "compute_capability": "9.0",
        "memory_bandwidth_bytes_per_s": 3_352_320_000_000.0, "memory_bytes": 80_000_000_000, "l2_bytes": 50_000_000,
    }]  # fmt: skip


def test_integrated_gpus_that_ran_something_are_devices(tmp_path: Path) -> None:
    rows = [gpu(0), gpu(1, isDiscrete=0)]
    trace = load(tmp_path, {KERNEL: [kernel(1, 2, deviceId=1)], "TARGET_INFO_GPU": rows})
    assert trace.frames["devices"]["device"].to_list() == [0, 1]


def test_device_is_the_ordinal_the_process_saw(tmp_path: Path) -> None:
    """One process that was given GPU 3 alone calls it 0; GPUs it did not see have no ordinal."""
    seen = [{"gpuId": 3, "cudaId": 0, "pid": 42, "numMultiprocessors": 66}]
    tables = {KERNEL: [kernel(1, 2)], "TARGET_INFO_GPU": [gpu(i) for i in range(4)], "TARGET_INFO_CUDA_DEVICE": seen}
    devices = load(tmp_path, tables).frames["devices"]
    assert devices.select("device", "name", "sm_count").rows() == [(0, "GPU 3", 66)]


def test_processes_that_number_the_gpus_differently(tmp_path: Path) -> None:
    seen = [{"gpuId": 0, "cudaId": 0, "pid": 42}, {"gpuId": 5, "cudaId": 0, "pid": 50}]
    trace = load(tmp_path, {
        KERNEL: [kernel(1, 2), kernel(1, 2, globalPid=global_id(50))],
        "TARGET_INFO_GPU": [gpu(i) for i in range(6)],
        "TARGET_INFO_CUDA_DEVICE": seen,
        "GPU_METRICS": [{"timestamp": 1, "typeId": 256 + 5, "metricId": 0, "value": 1}],
    })  # fmt: skip
    assert trace.frames["kernels"].select("pid", "device").rows() == [(42, 0), (50, 5)]
    assert trace.frames["counters"]["device"].to_list() == [5]
    assert len(problems(trace, "note")) == 1


def test_gpu_metrics(tmp_path: Path) -> None:
    samples = [
        {"timestamp": 10, "typeId": 512, "metricId": 3, "value": 55},
        {"timestamp": 11, "typeId": 512, "metricId": 4},
    ]
    metrics = [
        {"typeId": 512, "metricId": 3, "metricName": "SMs Active [Throughput %]"},
        {"typeId": 513, "metricId": 3, "metricName": "of another GPU"},
        {"typeId": 512, "metricId": 4, "metricName": "Clock"},
    ]
    trace = load(tmp_path, {"GPU_METRICS": samples, "TARGET_INFO_GPU_METRICS": metrics, "NVTX_EVENTS": [nvtx(1, 2)]})
    assert trace.frames["counters"].rows() == [
        (10, 0, "SMs Active", 55.0, "Throughput %", 0), (11, 0, "Clock", None, None, 0),
    ]  # fmt: skip


def named(**entries: str) -> Rows:
    return [{"name": name.replace("__", ":"), "value": value} for name, value in entries.items()]


def test_metadata_keeps_no_secrets(tmp_path: Path) -> None:
    trace = load(tmp_path, {
        KERNEL: [kernel(1, 2)],
        "META_DATA_EXPORT": named(EXPORT_PRODUCT_VERSION="2025.5.2", EXPORT_HOST="host-7", EXPORT_USER="me"),
        "META_DATA_CAPTURE": [
            *named(PROCESS_0__CUDA_GRAPH_TRACE_OPTIONS__MODE="Node", PROCESS_0__ENVIRONMENT_VARIABLE="TOKEN=hunter2"),
            *named(CAPTURE_EVENT_TYPE="Cuda"), *named(CAPTURE_EVENT_TYPE="NvtxEvents"),
            *named(PROCESS_0__ARGUMENT_0="--key=hunter2", DEVICE_DISPLAY_NAME="host-7"),
        ],
        "TARGET_INFO_SYSTEM_ENV": named(NvDriverVersion="580.1", Hostname="host-7", DeviceEnvironment="A=hunter2"),
    })  # fmt: skip
    assert dict(trace.frames["metadata"].select("key", "value").rows()) == {
        "product_version": "2025.5.2", "cuda_graph_trace": "Node", "traced": "Cuda, NvtxEvents",
        "driver_version": "580.1",
    }  # fmt: skip


@pytest.mark.parametrize(("shift", "offset"), [("0", 1000), ("1000", 0), ("250", 750), ("soon", 1000)])
def test_wall_clock(tmp_path: Path, shift: str, offset: int) -> None:
    tables: dict[str, Rows] = {
        KERNEL: [kernel(1, 2)],
        "TARGET_INFO_SESSION_START_TIME": [{"utcEpochNs": 1000}],
        "META_DATA_EXPORT": named(EXPORT_CONFIG_TIME_SHIFT=shift),
    }
    assert load(tmp_path, tables).unix_offset_ns == offset


def test_wall_clock_unknown(tmp_path: Path) -> None:
    assert load(tmp_path, {KERNEL: [kernel(1, 2)]}).unix_offset_ns is None


@pytest.mark.parametrize(
    "tables",
    [
        {"users": [{"id": 1}], "orders": [{"id": 1}]},
        {KERNEL: [{"start": 1, "end": 2, "processId": 1}], "StringTable": [{"_id_": 1}]},  # nvprof
    ],
)
def test_foreign_database(tmp_path: Path, tables: dict[str, Rows]) -> None:
    path = export(tmp_path / "x.sqlite", tables)
    with pytest.raises(UnreadableTraceError, match="not an Nsight Systems export") as caught:
        nsys_sqlite.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert all(name in message for name in tables)
    assert "nsys export" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"no database at all" * 100])
def test_not_a_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    with pytest.raises(UnreadableTraceError, match=r"x\.sqlite"):
        nsys_sqlite.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTraceError, match="unable to open"):
        nsys_sqlite.load(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def damaged_copy(tmp_path: Path) -> tuple[Path, int]:
    """An export whose last table, of kernels, lies in the last pages of the file; and its size."""
    names = strings(*(f"kernel {i}" for i in range(100)))
    rows = [kernel(i, i + 1, gridX=i) for i in range(1, 20_001)]
    path = export(tmp_path / "x.sqlite", {"StringIds": names, RUNTIME: [call(1, 2)], KERNEL: rows})
    return path, path.stat().st_size


def test_truncated_database(tmp_path: Path) -> None:
    path, size = damaged_copy(tmp_path)
    os.truncate(path, size * 3 // 4 - 1000)  # not at the edge of a page
    trace = nsys_sqlite.load(path)
    kernels = trace.frames["kernels"]
    assert trace.frames["runtime_calls"].height == 1
    assert 10_000 < kernels.height < 16_000
    assert kernels["grid_x"].to_list() == list(range(1, kernels.height + 1))
    first, second = problems(trace, "truncated")
    assert "malformed" in first[0]
    assert second[0].startswith(f"{KERNEL}: the file is damaged; {kernels.height} rows")


def test_damaged_page(tmp_path: Path) -> None:
    path, size = damaged_copy(tmp_path)
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(bytes(4096))
    trace = nsys_sqlite.load(path)
    assert trace.frames["runtime_calls"].height == 1
    assert 0 < trace.frames["kernels"].height < 20_000
    assert len(problems(trace, "truncated")) == 1


def test_nothing_readable(tmp_path: Path) -> None:
    path = export(tmp_path / "x.sqlite", {KERNEL: [kernel(i, i + 1) for i in range(1, 2000)]})
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(UnreadableTraceError, match="damaged"):
        nsys_sqlite.load(path)


def test_rows_in_a_write_ahead_log(tmp_path: Path) -> None:
    path = export(tmp_path / "x.sqlite", {"StringIds": NAMES, KERNEL: [kernel(1, 2)]})
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute(f"insert into {KERNEL} (start, end) values (3, 4)")
        connection.commit()
        assert nsys_sqlite.load(path).frames["kernels"].height == 2


def test_a_name_with_special_characters(tmp_path: Path) -> None:
    path = export(tmp_path / "100% é?#;.sqlite", {"StringIds": NAMES, KERNEL: [kernel(1, 2)]})
    assert nsys_sqlite.load(path).frames["kernels"].height == 1


EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES")


def truth() -> dict[str, dict[str, Any]]:
    if not EXTRA:
        return {}
    entries = json.loads((Path(EXTRA) / "truth.json").read_text(encoding="utf-8"))
    return {name: entry for name, entry in entries.items() if name.endswith(".sqlite")}


@pytest.mark.skipif(not EXTRA, reason="TRACEQL_EXTRA_TRACES names no folder of captures")
@pytest.mark.parametrize("name", truth())
def test_exact_counts_of_real_captures(name: str) -> None:
    expected = truth()[name]
    trace = Trace.from_loaded(nsys_sqlite.load(Path(EXTRA or "") / name))
    kernels, memcpys, memsets = (trace.loaded[table] for table in ("kernels", "memcpys", "memsets"))
    calls = trace.loaded["runtime_calls"]
    assert (kernels.height, memcpys.height, memsets.height, calls.height) == (
        expected["kernels"], expected["memcpys"], expected["memsets"], expected["runtime_calls"],
    )  # fmt: skip
    assert kernels["dur_ns"].sum() == expected["kernel_ns"]
    assert pl.concat([memcpys["dur_ns"], memsets["dur_ns"]]).sum() == expected["memop_ns"]
    assert trace.loaded["graph_traces"].height == expected["graph_trace_rows"]
    assert kernels["name"].n_unique() == expected["distinct_kernel_names"]
    assert dict(calls["name"].value_counts().rows()).items() >= dict(expected["runtime_top"]).items()
    work = pl.concat([kernels.select("device", "start_ns", "dur_ns"), memcpys.select("device", "start_ns", "dur_ns"),
                      memsets.select("device", "start_ns", "dur_ns")])  # fmt: skip
    for device, figures in expected["devices"].items():
        rows = work.filter(pl.col("device") == int(device))
        assert rows["start_ns"].min() == figures["first"] - trace.source_offset_ns
        assert (rows["start_ns"] + rows["dur_ns"]).max() == figures["last"] - trace.source_offset_ns
    steps = trace.loaded["annotations"].filter(pl.col("name").str.starts_with("step["))
    starts = [step["cpu"][0] - trace.source_offset_ns for step in expected["steps"]]
    assert steps["start_ns"].to_list()[-len(starts) :] == starts
    assert trace.problems == ()


PUBLIC = {  # counted with the sqlite3 shell
    "flameox-nsight-2025.5.2-graph": {
        "kernels": 3, "memcpys": 1, "runtime_calls": 33, "graph_traces": 2, "synchronizations": 2, "overheads": 35,
    },
    "nsys-ai-h100_2gpu_1s": {
        "kernels": 3442, "memcpys": 904, "memsets": 22, "runtime_calls": 5796, "annotations": 16782,
        "synchronizations": 244, "overheads": 198, "devices": 0,
    },
    "nsys-ai-mock": {"kernels": 2, "memcpys": 1, "runtime_calls": 9, "synchronizations": 1, "overheads": 31},
}  # fmt: skip


@pytest.mark.skipif(not EXTRA, reason="TRACEQL_EXTRA_TRACES names no folder of captures")
@pytest.mark.parametrize("name", PUBLIC)
def test_public_captures(name: str) -> None:
    path = Path(EXTRA or "") / "public" / "nsys" / f"{name}.sqlite"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the captures")
    trace = nsys_sqlite.load(path)
    assert {table: trace.frames[table].height for table in PUBLIC[name]} == PUBLIC[name]
    assert trace.frames["kernels"]["name"].null_count() == 0
