"""What is spoiled: small whole inputs of every kind, made here, so that nothing recorded is kept in the repository."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

_GLOBAL = 1 << 48 | 42 << 24


@cache
def kineto() -> list[Any]:
    """Documents: a decode with a replay and everything a trace may hold beside, a bare array of 2020, AMD names."""
    where = {"device": 0, "stream": 7}

    def x(cat: str, name: str, ts: Any, dur: Any, pid: Any = 9, tid: Any = 9, **args: Any) -> dict[str, Any]:
        return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}

    modern = [
        {"ph": "M", "name": "process_name", "pid": 9, "tid": 0, "ts": 0, "args": {"name": "python"}},
        x("user_annotation", "step[DECODE bs=8]", 0, 100.5, **{"External id": 1}),
        x("cpu_op", "aten::mm", 1.001, 20, **{"External id": 2, "Input Dims": [[8, 64], [64, 64]], "Input type": ["c10::BFloat16"] * 2, "Input Strides": [[64, 1], [1, 64]]}),
        x("python_function", "/srv/a.py(12): run", 0.5, 99, **{"Python id": 1, "Python parent id": None}),
        x("cuda_runtime", "cudaLaunchKernel", 2.25, 4, correlation=1, **{"External id": 2}),
        x("kernel", "void gemm<float>(int)", 10.125, 5, 0, 7, **where, correlation=1, grid=[132, 1, 1], block=[128, 1, 1], **{"External id": 2, "registers per thread": 64, "est. achieved occupancy %": 25, "shared memory": 1024, "context": 1}),
        {"ph": "s", "id": 1, "pid": 9, "tid": 9, "ts": 2.25, "cat": "ac2g", "name": "ac2g"},
        {"ph": "f", "id": 1, "pid": 0, "tid": 7, "ts": 10.125, "cat": "ac2g", "name": "ac2g", "bp": "e"},
        x("cuda_driver", "cuLaunchKernelEx", 20, 3, correlation=2),
        x("kernel", "ncclDevKernel_AllReduce_Sum_bf16", 24, 9.5, 0, 7, **where, correlation=2, **{"Collective name": "allreduce", "dtype": "BFloat16", "In msg nelems": 512, "Out msg nelems": 512, "Group size": 2, "Process Group Name": "0", "Process Group Ranks": "[0, 1]"}),
        x("cuda_runtime", "cudaGraphLaunch", 40, 10, correlation=3),
        x("kernel", "attention", 51, 6, 0, 7, **where, correlation=3, **{"graph id": 4, "graph node id": 17179869185}),
        x("kernel", "rms_norm", 57, 2, 0, 7, **where, correlation=3),
        x("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 60, 2, 0, 7, **where, correlation=4, bytes=4096),
        x("gpu_memset", "Memset (Device)", 63, 1, 0, 7, **where, correlation=5, bytes=64),
        x("cuda_runtime", "cudaMemcpyAsync", 55, 8, correlation=4),
        x("cuda_sync", "Stream Sync", 63, 2, 0, 7, **where, correlation=6),
        x("overhead", "Activity Buffer Request", 70, 1.5, -1, 0),
        x("gpu_user_annotation", "step[DECODE bs=8]", 10, 54, 0, 7),
        {"ph": "i", "s": "t", "name": "mark", "pid": 9, "tid": 9, "ts": 80},
        x("Trace", "PyTorch Profiler (0)", 0, 110, "Spans", "PyTorch Profiler"),
    ]  # fmt: skip
    header = {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "NVIDIA H200", "totalGlobalMem": 150109880320, "numSms": 132, "computeMajor": 9, "computeMinor": 0}],
        "distributedInfo": {"backend": "nccl", "rank": 1, "world_size": 2, "pg_config": [{"pg_name": "0", "ranks": [0, 1]}]},
        "baseTimeNanoseconds": 1790857026000000000,
        "with_stack": 1,
    }  # fmt: skip
    old = [
        {"ph": "X", "cat": "Operator", "name": "aten::add", "pid": 9, "tid": "3", "ts": 1712195495505583, "dur": 4, "args": {"Input dims": []}},
        {"ph": "X", "cat": "Runtime", "name": "cudaLaunchKernel", "pid": 9, "tid": "3", "ts": 1712195495505584, "dur": 2, "args": {"correlation": 7}},
        {"ph": "X", "cat": "Kernel", "name": "add_kernel", "pid": 0, "tid": "stream 7", "ts": 1712195495505590, "dur": 2, "args": {"device": 0, "stream": 7, "correlation": 7}},
    ]  # fmt: skip
    repeated = [
        event
        for step in range(3)
        for event in (
            x("cuda_runtime", "hipGraphLaunch", 1000 * step, 8, correlation=9 + step),
            x("kernel", "Cijk_Alik_MT64x64", 1000 * step + 20, 40, 2, 0, **where, correlation=9 + step),
            x("kernel", "paged_attention_ll4mi", 1000 * step + 70, 30, 2, 0, **where, correlation=9 + step),
        )
    ]
    return [{**header, "traceEvents": modern, "traceName": "t.json"}, old, {"traceEvents": repeated}]


@cache
def kineto_texts() -> list[bytes]:
    """The same as the profiler lays them out."""
    return [json.dumps(document, indent=indent).encode() for document in kineto() for indent in (None, 1)]


def _kernel(start: int, correlation: int, **more: Any) -> dict[str, Any]:
    return {
        "start": start, "end": start + 5000, "deviceId": 0, "contextId": 1, "streamId": 7, "correlationId": correlation,
        "globalPid": _GLOBAL, "demangledName": 1, "shortName": 2, "mangledName": 2, "gridX": 132, "gridY": 1, "gridZ": 1,
        "blockX": 128, "blockY": 1, "blockZ": 1, "registersPerThread": 64, "staticSharedMemory": 0,
        "dynamicSharedMemory": 1024, "graphNodeId": None, "graphId": None, **more,
    }  # fmt: skip


def _call(start: int, correlation: int, name: int) -> dict[str, Any]:
    return {
        "start": start, "end": start + 4000, "eventClass": 0, "globalTid": _GLOBAL | 43, "correlationId": correlation,
        "nameId": name, "returnValue": 0,
    }  # fmt: skip


def _copy(start: int, correlation: int, **more: Any) -> dict[str, Any]:
    return {
        "start": start, "end": start + 900, "deviceId": 0, "contextId": 1, "streamId": 7, "correlationId": correlation,
        "globalPid": _GLOBAL, "bytes": 4096, **more,
    }  # fmt: skip


@cache
def nsys_tables() -> dict[str, list[dict[str, Any]]]:
    """Tables of an export with every kind of row that the loader reads."""
    texts = [
        "", "void gemm<float>(int)", "gemm", "cudaLaunchKernel_v7000", "cuGraphLaunch", "cudaMemcpyAsync_v3020", "step[DECODE bs=1]",
        "cudaStreamSynchronize_v3020", "Buffer flush", "NCCL", "ncclAllReduce",
    ]  # fmt: skip
    return {
        "StringIds": [{"id": number, "value": text} for number, text in enumerate(texts)],
        "CUPTI_ACTIVITY_KIND_KERNEL": [_kernel(10_000, 1), _kernel(16_000, 2), *(_kernel(40_000 + 6000 * i, 3, graphNodeId=(5 << 32) + i, graphId=5) for i in range(4))],
        "CUPTI_ACTIVITY_KIND_RUNTIME": [_call(1_000, 1, 3), _call(6_000, 2, 3), _call(30_000, 3, 4), _call(70_000, 4, 5), _call(75_000, 6, 7), _call(100_000, 7, 4)],
        "CUPTI_ACTIVITY_KIND_MEMCPY": [_copy(72_000, 4, copyKind=2, srcKind=2, dstKind=0)],
        "CUPTI_ACTIVITY_KIND_MEMSET": [_copy(74_000, 5, value=0)],
        "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": [_copy(76_000, 6, syncType=3)],
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": [_copy(110_000, 7, graphId=9, graphExecId=3)],
        "PROFILER_OVERHEAD": [{"start": 60_000, "end": 61_000, "globalTid": _GLOBAL | 43, "nameId": 8, "overheadType": 3, "returnValue": 0}],
        "NVTX_EVENTS": [
            {"start": 500, "end": 90_000, "eventType": 59, "globalTid": _GLOBAL | 43, "text": None, "textId": 6, "domainId": 0},
            {"start": 700, "end": None, "eventType": 59, "globalTid": _GLOBAL | 43, "text": "open", "textId": None, "domainId": 1},
            {"start": 100, "end": None, "eventType": 75, "globalTid": _GLOBAL | 43, "text": "NCCL", "textId": None, "domainId": 1},
            {"start": 200, "end": 300, "eventType": 34, "globalTid": _GLOBAL | 43, "text": "mark", "textId": None, "domainId": 0},
        ],
        "TARGET_INFO_GPU": [{"id": 0, "name": "NVIDIA H200", "isDiscrete": 1, "l2CacheSize": 62914560, "totalMemory": 150109880320, "memoryBandwidth": 4_800_000_000_000, "smCount": 132, "cuDevice": 0, "computeMajor": 9, "computeMinor": 0}],
        "TARGET_INFO_CUDA_DEVICE": [{"gpuId": 0, "cudaId": 0, "pid": 42, "numMultiprocessors": 132}],
        "TARGET_INFO_SESSION_START_TIME": [{"utcEpochNs": 1790857026000000000}],
        "META_DATA_EXPORT": [{"name": "EXPORT_SCHEMA_VERSION", "value": "3.24.7"}, {"name": "EXPORT_CONFIG_TIME_SHIFT", "value": "0"}],
        "META_DATA_CAPTURE": [{"name": "CUDA_GRAPH_TRACE_OPTIONS:MODE", "value": "node"}],
        "DIAGNOSTIC_EVENT": [{"timestamp": 0, "severity": 2, "text": "CUPTI: 12 records were dropped."}],
        "GPU_METRICS": [{"timestamp": 1000 * i, "typeId": 256, "metricId": 1, "value": 50 + i} for i in range(5)],
        "TARGET_INFO_GPU_METRICS": [{"typeId": 256, "metricId": 1, "metricName": "SM Active [Throughput %]"}],
        "ENUM_CUDA_MEMCPY_OPER": [{"id": 2, "name": "CUDA_MEMCPY_KIND_DTOH", "label": "Device-to-Host"}],
        "CUDA_GRAPH_NODE_EVENTS": [{"start": 1, "end": 1, "graphNodeId": (5 << 32) + 1, "originalGraphNodeId": (4 << 32) + 1}],
    }  # fmt: skip


def write_sqlite(path: Path, tables: dict[str, list[dict[str, Any]]]) -> Path:
    """A database with these tables; columns have no declared type, so that values stay as they are given."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        for name, rows in tables.items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            if not columns:
                continue
            connection.execute(f'create table "{name}" ({", ".join(f"{c!r}" for c in columns)})')
            values = [[row.get(column) for column in columns] for row in rows]
            connection.executemany(f'insert into "{name}" values ({", ".join("?" * len(columns))})', values)
        connection.commit()
    return path


@cache
def ncu_pages() -> list[bytes]:
    """A raw and a details page."""
    identity = [
        "ID",
        "Process ID",
        "Process Name",
        "Host Name",
        "Kernel Name",
        "Context",
        "Stream",
        "Block Size",
        "Grid Size",
        "Device",
        "CC",
    ]
    kernel = [
        "7",
        "4711",
        "python3",
        "127.0.0.1",
        "void ns::gemm<float>(float*)",
        "1",
        "7",
        "(128, 1, 1)",
        "(64, 2, 1)",
        "0",
        "9.0",
    ]
    raw = {
        "gpu__time_duration.sum": ("ns", "12,345"), "dram__bytes_read.sum": ("Mbyte", "1.5"), "dram__bytes_write.sum": ("byte", "24"),
        "launch__registers_per_thread": ("register/thread", "80"), "launch__occupancy_limit_registers": ("block", "4"),
        "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": ("%", "46.63"),
        "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio": ("inst", "2.1"),
        "device__attribute_display_name": ("", "NVIDIA H200"), "device__attribute_memory_clock_rate": ("", "3201000"),
        "device__attribute_global_memory_bus_width": ("", "6144"),
    }  # fmt: skip
    units, values = zip(*raw.values(), strict=True)
    details = [
        ["GPU Speed Of Light Throughput", "Duration", "us", "2.91"],
        ["Memory Workload Analysis", "Memory Throughput", "Tbyte/s", "2.24"],
        ["Warp State Statistics", "Stall Wait", "inst", "2.1"],
    ]
    return [
        _csv([*identity, *raw], [[""] * len(identity) + list(units), [*kernel, *values], ["8", *kernel[1:], *values]]),
        b"==PROF== Connected\n" + _csv([*identity, "Section Name", "Metric Name", "Metric Unit", "Metric Value"], [[*kernel, *row] for row in details]),
    ]  # fmt: skip


def _csv(header: list[str], rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


@cache
def manifest() -> dict[str, Any]:
    """A run directory's manifest."""
    stage = {
        "name": "torch-eager", "profiler": "torch", "mode": "eager", "status": "complete", "started": "2026-10-01T00:00:00Z", "exit_code": 0,
        "command": ["python", "RUN/x.py"], "environment": {"A": "1"},
        "latency": {"what": "decode step", "runs_ms": [7.2, 7.3], "median_ms": 7.25, "spread_pct": 1.4, "source": "log"},
        "clocks": [{"gpu": 0, "samples": 9, "sm_mhz_min": 1, "sm_mhz_median": 2, "sm_mhz_max": 3, "memory_mhz_median": 4, "throttle_reasons": {"power": 1}}],
        "files": [{"path": "t.json", "bytes": 9, "sha256": "00", "kind": "trace"}],
    }  # fmt: skip
    return {
        "schema": 1, "kind": "run", "name": "r", "status": "complete", "traceql": "0.1", "collector": "sglang", "command": ["traceql"],
        "started": "2026-10-01T00:00:00Z", "started_unix_ns": 1790857026000000000,
        "workload": {"engine": "sglang", "model": "llama", "batch_size": 64, "tp": 2, "topology": "nvlink", "gpus": [0, 1]},
        "machine": {"gpus": [{"index": 0, "name": "NVIDIA H200"}], "topology": {"0": {"1": "NV18"}}},
        "software": {"python": "3.11"}, "stages": [stage],
    }  # fmt: skip


@cache
def baseline() -> dict[str, Any]:
    """A baseline file."""
    entry = {
        "code": "TQL101",
        "rule": "launch-gap",
        "message": "m",
        "subject": "s",
        "magnitude": 8.5,
        "unit": "us_per_step",
    }
    where = {
        "gpu": "NVIDIA H200", "devices": 1, "world_size": None, "step_kind": "decode", "batch_size": 8, "profiler": "torch_profiler",
        "replays": None, "python_stacks": True, "shapes": False,
    }  # fmt: skip
    return {"traceql_baseline": 1, "captures": [{"context": where, "findings": {"ab12": entry}}]}


CONFIGURATION = b"""select = ["TQL1", "launch-gap"]
extend-select = ["TQL901"]
ignore = ["TQL106"]
fail-on = "warning"
[rules.TQL101]
severity = "error"
min_gap_us = 3.5
[rules.step-bubble]
severity = "info"
[baseline]
file = "b.json"
tolerance-pct = 10
[[budgets]]
metric = "step.gpu_idle_pct"
max = 8
kind = "decode"
[[budgets]]
sql = "select count(*) from kernels"
max = 420
[[suppress]]
rule = "TQL101"
reason = "known"
expires = 2030-01-01
subject = "a*"
"""
HARDWARE = b"""[[gpu]]
name = "NVIDIA H200"
match = ["H200 special"]
bandwidth_tb_per_s = 4.8
memory_gb = 141
sm_count = 132
compute_capability = "9.0"
source = "here"
tflops = { bf16 = 989.0, fp8 = 1979.0 }
[[gpu]]
name = "mine"
bandwidth_tb_per_s = 1
"""
PATTERNS = b"""[[kernel]]
category = "gemm"
pattern = "(?i)my_gemm_.*"
[[kernel]]
category = "attention"
pattern = "fa[23]"
"""
SERVER_LOG = b"""[2026-10-01 10:00:00] server_args=ServerArgs(disable_radix_cache=False)
[2026-10-01 10:00:01] Prefill batch. #new-seq: 1, #new-token: 512, #cached-token: 128, token usage: 0.01
INFO Prefix cache hit rate: 45.5%
sglang:cached_tokens_total{model="x"} 512.0
vllm:prefix_cache_queries_total{engine="0"} 1000.0
vllm:prefix_cache_hits_total{engine="0"} 10.0
"""
KERNEL_NAMES = [
    "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}>(int)::{lambda(int)#1}>(int, at::native::X)",
    "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int>>>(Params)",
    "_ZN5aiter3addIfEEvPT_", "nvjet_tst_64x8_64x16_4x1_v_bz_TNN", "triton_poi_fused_add_0", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "void (anonymous namespace)::kernel<A<B<C>>, D>()",
]  # fmt: skip
QUERIES = [
    "select name, sum(dur_ns) as total from kernels group by name order by total desc limit 3",
    "with k as (select * from kernels where dur_ns > 5) select count(*) from k join memcpys m on k.step_id = m.step_id",
    "select * from read_csv('SECRET')", "select * from 'SECRET'", 'select * from "SECRET"', "select * from scan_parquet('SECRET')",
    "select * from kernels union all select * from READ_JSON('SECRET')", "select (select max(x) from read_ipc('SECRET')) from kernels",
    "select * from kernels where name in (select a from read_csv('SECRET'))", "select * from read_ndjson/**/('SECRET')",
    "explain select * from kernels", "select name, dur_ns / 1e3 as us from kernels where name like '%k%' and dur_ns between 1 and 9 limit 5",
    "select k.name, count(*) over (partition by k.name) n from kernels k left join steps s on k.step_id = s.step_id",
    "select substr(name, 1, 3) s, round(avg(dur_ns), 2) a from kernels group by s having avg(dur_ns) > 0", "select case when dur_ns > 1 then 'a' else name end from kernels", "select 1; drop table kernels",
]  # fmt: skip
