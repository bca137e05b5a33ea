"""Exports of every nsys schema and Kineto traces of every year: the same run reads as the same figures."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fuzz import seeds

import traceql as tq
from traceql.trace import Trace

Tables = dict[str, list[dict[str, Any]]]

KERNEL, RUNTIME, SYNC = (f"CUPTI_ACTIVITY_KIND_{name}" for name in ("KERNEL", "RUNTIME", "SYNCHRONIZATION"))
GRAPH_TRACE, MEMCPY = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "CUPTI_ACTIVITY_KIND_MEMCPY"
NODES = "CUDA_GRAPH_NODE_EVENTS"

SCHEMAS: dict[str, dict[str, Any]] = {
    # schema: (tables it has not yet, columns it has not yet, columns it has besides)
    "3.7.2": {
        "without": [GRAPH_TRACE, "DIAGNOSTIC_EVENT", NODES, "CUPTI_ACTIVITY_KIND_OVERHEAD"],
        "columns": {KERNEL: ["graphId"], "PROFILER_OVERHEAD": ["overheadType"], "TARGET_INFO_GPU": ["cuDevice"]},
    },
    "3.11.0": {"without": [GRAPH_TRACE, NODES], "columns": {KERNEL: ["graphId"], "PROFILER_OVERHEAD": ["overheadType"]}},
    "3.16.1": {"without": [GRAPH_TRACE, NODES], "columns": {KERNEL: ["graphId"]}, "more": {"NVTX_EVENTS": ["binaryData"]}},
    "3.20.0": {"without": [NODES], "columns": {}, "more": {"NVTX_EVENTS": ["binaryData", "jsonTextId"]}},
    "3.24.7": {"without": [], "columns": {}, "more": {KERNEL: ["clusterX", "clusterY", "clusterZ"], SYNC: ["eventSyncId"]}},
    "3.25.0": {"without": [], "columns": {}, "more": {KERNEL: ["sharedMemoryRequestedPercentage"]}},
    "3.28.1": {"without": [], "columns": {}, "more": {KERNEL: ["greenContextId"], RUNTIME: ["callStackId"]}, "shuffled": True},
}  # fmt: skip
"""As the documented tables of each release differ from those of 3.24; from 3.28 on the order of rows is not promised."""


def export(path: Path, version: str) -> Path:
    """The same run, as an export of ``version`` holds it."""
    form = SCHEMAS[version]
    tables: Tables = {
        name: [dict(row) for row in rows] for name, rows in seeds.nsys_tables().items() if name not in form["without"]
    }
    for name, columns in form["columns"].items():
        for row in tables.get(name, []):
            for column in columns:
                row.pop(column, None)
    for name, columns in form.get("more", {}).items():
        for row in tables[name]:
            row.update(dict.fromkeys(columns))
    if form.get("shuffled"):
        tables = {name: rows[::-1] for name, rows in tables.items()}
    tables["META_DATA_EXPORT"] = [{"name": "EXPORT_SCHEMA_VERSION", "value": version}]
    return seeds.write_sqlite(path, tables)


def opened(path: Path) -> Trace:
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    return trace


@pytest.mark.parametrize("version", SCHEMAS)
def test_an_export_of_each_schema(version: str, tmp_path: Path) -> None:
    trace, newest = opened(export(tmp_path / "t.sqlite", version)), opened(export(tmp_path / "n.sqlite", "3.24.7"))
    for table in ("memcpys", "memsets", "runtime_calls", "synchronizations", "devices", "counters"):
        assert trace.loaded[table].equals(newest.loaded[table]), table
    kernels = trace.loaded["kernels"]
    assert kernels.equals(newest.loaded["kernels"]), "the graph of a node follows from its id where graphId is missing"
    has_records = GRAPH_TRACE not in SCHEMAS[version]["without"]
    assert trace.loaded["graph_traces"].height == int(has_records)
    assert trace.capabilities.graph_replays == ("mixed")
    report = tq.analyze(trace)
    assert [o.code for o in report.rules if o.outcome == "error"] == []
    assert dict(trace.loaded["metadata"].select("key", "value").rows())["schema_version"] == version


def _tables(path: Path) -> list[tuple[str, list[str]]]:
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return [(name, [row[1] for row in connection.execute(f'pragma table_info("{name}")')]) for name in names]


def test_any_table_and_any_column_may_be_missing(tmp_path: Path) -> None:
    whole = export(tmp_path / "whole.sqlite", "3.24.7")
    content, loaded = whole.read_bytes(), opened(whole).loaded.keys()
    for number, (table, columns) in enumerate(_tables(whole)):
        for column in [None, columns[number % len(columns)]]:
            path = tmp_path / "less.sqlite"
            path.write_bytes(content)
            with closing(sqlite3.connect(path)) as connection:
                statement = (
                    f'drop table "{table}"'
                    if column is None or len(columns) == 1
                    else f'alter table "{table}" drop column "{column}"'
                )
                connection.execute(statement)
                connection.commit()
            trace = opened(path)
            assert trace.loaded.keys() == loaded, (table, column)


# --- Kineto ----------------------------------------------------------------------------------------------------------


def _event(cat: str, name: str, ts: Any, dur: Any, pid: Any, tid: Any, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def _run(names: dict[str, str], at: Any, gpu: Any, external: str) -> list[dict[str, Any]]:
    """Two launches, a copy and an operator, in the words of a version; ``at`` gives times, ``gpu`` places."""
    device, stream = gpu
    return [
        _event(names["op"], "aten::mm", at(0), 30, 9, 9, {external: 1, "Input Dims": [[8, 64], [64, 64]], "Input type": ["float", "float"]}),
        _event(names["call"], "cudaLaunchKernel", at(2), 4, 9, 9, {"correlation": 1, external: 1}),
        _event(names["call"], "cudaMemcpyAsync", at(12), 4, 9, 9, {"correlation": 2}),
        _event(names["kernel"], "gemm_kernel", at(10), 5, device, stream, {"device": 0, "stream": 7, "correlation": 1, external: 1, "grid": [132, 1, 1], "block": [128, 1, 1]}),
        _event(names["memcpy"], "Memcpy HtoD (Pinned -> Device)", at(20), 3, device, stream, {"device": 0, "stream": 7, "correlation": 2, "bytes": 4096}),
    ]  # fmt: skip


OLD = {"op": "Operator", "call": "Runtime", "kernel": "Kernel", "memcpy": "Memcpy"}
NEW = {"op": "cpu_op", "call": "cuda_runtime", "kernel": "kernel", "memcpy": "gpu_memcpy"}
EPOCH_US = 1_712_195_495_505_583


def _text(us: float) -> str:
    return f"{EPOCH_US + int(us)}.{round(us % 1 * 1000):03d}"


KINETO: dict[str, Any] = {
    "2020, a bare array, whole epoch µs": _run(OLD, lambda us: EPOCH_US + us, (0, "stream 7"), "external id"),
    "2021, schemaVersion 1, capital names": {"schemaVersion": 1, "traceEvents": _run(OLD, lambda us: EPOCH_US + us, (0, 7), "external id")},
    "2022, lower-case names": {"schemaVersion": 1, "deviceProperties": [], "traceEvents": _run(NEW, lambda us: EPOCH_US + us, (0, 7), "External id")},
    "2023, epoch µs with decimals": {"schemaVersion": 1, "distributedInfo": {"rank": 0}, "traceEvents": _run(NEW, _text, (0, 7), "External id")},
    "2024, base time": {"schemaVersion": 1, "baseTimeNanoseconds": EPOCH_US * 1000, "traceEvents": _run(NEW, lambda us: us, (0, 7), "External id")},
    "2025, decimals from the base, name last": {"displayTimeUnit": "ms", "baseTimeNanoseconds": EPOCH_US * 1000, "traceEvents": _run(NEW, lambda us: us + 0.001, (0, 7), "External id"), "traceName": "x.json"},
    "2026, CUDA 13: ids as texts, events first": {"traceEvents": [{**e, "args": e["args"] | {"correlation": str(e["args"]["correlation"])}} if "correlation" in e["args"] else e for e in _run(NEW, lambda us: us, (0, 7), "External id")], "schemaVersion": 1, "baseTimeNanoseconds": EPOCH_US * 1000},
}  # fmt: skip


@pytest.mark.parametrize("version", KINETO)
def test_a_trace_of_each_version_of_kineto(version: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    text = json.dumps(KINETO[version])
    for us in (0, 2, 10, 12, 20):
        text = text.replace(f'"{_text(us)}"', _text(us))
    path.write_text(text)
    trace = opened(path)
    kernel, copy = trace.table("kernels").row(0, named=True), trace.table("memcpys").row(0, named=True)
    assert (kernel["start_ns"], kernel["dur_ns"], kernel["device"], kernel["stream"]) == (10_000, 5_000, 0, 7)
    assert (copy["start_ns"], copy["bytes"], copy["kind"], copy["src_memory"]) == (20_000, 4096, "HtoD", "pinned")
    assert trace.table("launches")["delay_ns"].to_list() == [4_000, 4_000]
    assert trace.origin_unix_ns in (EPOCH_US * 1000, EPOCH_US * 1000 + 1)
    assert trace.table("cpu_ops").select(pl.col("input_shapes").is_not_null()).item()
    report = tq.analyze(trace)
    assert (
        report.metrics["launches"] | {"launch_calls": 1, "matched_gpu_ops": 2, "unmatched_gpu_ops": 0}
        == report.metrics["launches"]
    )
    assert [o.code for o in report.rules if o.outcome == "error"] == []
