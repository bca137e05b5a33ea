"""Nsight Systems exports written from built traces: each trace becomes one process of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import polars as pl

from traceql.trace import Trace

_TABLES = """
create table StringIds (id integer primary key, value text);
create table ThreadNames (globalTid integer, nameId integer);
create table TARGET_INFO_GPU (id integer, name text, busLocation text, isDiscrete integer, smCount integer);
create table TARGET_INFO_CUDA_DEVICE (gpuId integer, cudaId integer, pid integer);
create table TARGET_INFO_SESSION_START_TIME (utcEpochNs integer);
create table CUPTI_ACTIVITY_KIND_KERNEL (start integer, end integer, deviceId integer, contextId integer, streamId integer,
    correlationId integer, globalPid integer, demangledName integer, shortName integer);
create table CUPTI_ACTIVITY_KIND_RUNTIME (start integer, end integer, globalTid integer, correlationId integer,
    nameId integer, returnValue integer);
create table NVTX_EVENTS (start integer, end integer, eventType integer, globalTid integer, text text, domainId integer);
"""
PID = 100
"""The first trace's process; the next ones count on."""
_PUSH_POP = 59


def global_id(pid: int, tid: int = 0) -> int:
    """A globalPid or globalTid as nsys packs it."""
    return 1 << 48 | pid << 24 | tid


def written(
    path: Path,
    processes: Sequence[Trace],
    *,
    gpus: Sequence[int] | None = None,
    visible_devices: bool = False,
    tells_gpus: bool = True,
    names: Mapping[int, str] | None = None,
    wall_clock: bool = True,
) -> Path:
    """An export of ``processes``, the n-th on the n-th of ``gpus`` (counted from 0 unless given).

    ``visible_devices``: each process sees its GPU as device 0; ``tells_gpus``: the export says which GPU that is. ``names``
    are main threads', by place.
    """
    texts: dict[str, int] = {}

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts))

    gpus = gpus or range(len(processes))
    origins = [trace.origin_unix_ns or 0 for trace in processes]
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_TABLES)
        if wall_clock:
            db.execute("insert into TARGET_INFO_SESSION_START_TIME values (?)", (min(origins),))
        for place, (trace, gpu, origin) in enumerate(zip(processes, gpus, origins, strict=True)):
            pid, base = PID + place, origin - min(origins)
            device = 0 if visible_devices else gpu
            db.execute(
                "insert into TARGET_INFO_GPU values (?, 'NVIDIA H200', ?, 1, 132)", (gpu, f"0000:{gpu:02x}:00.0")
            )
            if tells_gpus:
                db.execute("insert into TARGET_INFO_CUDA_DEVICE values (?, ?, ?)", (gpu, device, pid))
            if names and place in names:
                db.execute("insert into ThreadNames values (?, ?)", (global_id(pid, pid), text(names[place])))
            end = pl.col("start_ns") + pl.col("dur_ns")
            kernels = trace.loaded["kernels"].select("start_ns", end.alias("end"), "stream", "correlation_id", "name")
            db.executemany(
                "insert into CUPTI_ACTIVITY_KIND_KERNEL values (?, ?, ?, 1, ?, ?, ?, ?, ?)",
                [(s + base, e + base, device, stream, correlation, global_id(pid), text(name), text(name.split("(")[0]))
                 for s, e, stream, correlation, name in kernels.rows()],
            )  # fmt: skip
            calls = trace.loaded["runtime_calls"].select("start_ns", end.alias("end"), "tid", "correlation_id", "name")
            db.executemany(
                "insert into CUPTI_ACTIVITY_KIND_RUNTIME values (?, ?, ?, ?, ?, 0)",
                [(s + base, e + base, global_id(pid, tid), correlation, text(name))
                 for s, e, tid, correlation, name in calls.rows()],
            )  # fmt: skip
            ranges = trace.loaded["annotations"].select("start_ns", end.alias("end"), "tid", "name")
            db.executemany(
                f"insert into NVTX_EVENTS values (?, ?, {_PUSH_POP}, ?, ?, 0)",
                [(s + base, e + base, global_id(pid, tid), name) for s, e, tid, name in ranges.rows()],
            )
        db.executemany("insert into StringIds values (?, ?)", [(number, value) for value, number in texts.items()])
        db.commit()
    return path
