"""Nsight Systems SQLite exports: schema variants, every table, and what is no export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loaders.nsys_made import (
    GRAPH_TRACE,
    KERNEL,
    MEMCPY,
    NAMES,
    OVERHEAD,
    RUNTIME,
    SYNC,
    Rows,
    call,
    export,
    global_id,
    kernel,
    load,
    nvtx,
    problems,
)

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_sqlite
from traceql.trace import Trace


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
