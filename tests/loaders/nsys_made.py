"""Small Nsight Systems exports made by hand."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from traceql.loaders import nsys_sqlite
from traceql.trace import LoadedTrace

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


def nvtx(start: int | None, end: int | None, event_type: int = 59, **columns: Any) -> dict[str, Any]:
    row = {"start": start, "end": end, "eventType": event_type, "text": None, "textId": None, "domainId": 0}
    return {**row, "globalTid": global_id(42, 43), **columns}
