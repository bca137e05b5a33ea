"""Rows of an Nsight Systems SQLite export."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plain_count.rows import VERSION_SUFFIX, Call, Mark, Op, Overhead, Rows

NSYS_GPU_ROWS = ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE")  # tables CUPTI_ACTIVITY_KIND_…
NVTX_RANGES = {59, 60}  # push/pop and start/end


def process_of(global_id: int | None) -> str | None:
    """The process id inside a globalTid or globalPid."""
    return None if global_id is None else str((global_id >> 24) & 0xFFFFFF)


def rows(db: sqlite3.Connection, table: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The columns of a table; None for a column it lacks, no rows where the table itself is missing."""
    present = {row[1] for row in db.execute(f'PRAGMA table_info("{table}")')}
    if present:
        selected = ", ".join(f'"{name}"' if name in present else "NULL" for name in columns)
        yield from db.execute(f'SELECT {selected} FROM "{table}"')


def read_nsys(path: str | Path) -> Rows:
    """Rows of an export; every table and column may be missing."""
    db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
    db.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
    found = Rows()
    try:
        strings: dict[int, str] = dict(rows(db, "StringIds", "id", "value"))
        for kind in NSYS_GPU_ROWS:
            columns = ["start", "end", "deviceId", "globalPid", "correlationId", "streamId", "demangledName"]
            for start, end, device, pid, correlation, stream, name in rows(db, f"CUPTI_ACTIVITY_KIND_{kind}", *columns):
                if None not in (start, end) and end >= start:
                    where = (-1 if device is None else device, process_of(pid))
                    found.ops.append(
                        Op(kind.lower(), start, end, *where, correlation or None, str(stream), strings.get(name, ""))
                    )
        columns = ["start", "end", "nameId", "globalTid", "correlationId"]
        for start, end, name_id, tid, correlation in rows(db, "CUPTI_ACTIVITY_KIND_RUNTIME", *columns):
            if start is not None:
                name = VERSION_SUFFIX.sub("", strings.get(name_id, ""))
                pid = process_of(tid) or ""
                found.calls.append(Call(name, start, pid, correlation or None, end or start, str(tid)))
        columns = ["start", "end", "eventType", "text", "textId", "globalTid"]
        for start, end, event_type, text, text_id, tid in rows(db, "NVTX_EVENTS", *columns):
            name = text if text is not None else strings.get(text_id, "")
            if event_type in NVTX_RANGES and None not in (start, end) and name.startswith("step["):
                found.marks.append(Mark(name, start, end, process_of(tid) or "", str(tid)))
        for start, end, tid, name_id in rows(db, "PROFILER_OVERHEAD", "start", "end", "globalTid", "nameId"):
            if None not in (start, end):
                found.overheads.append(Overhead(strings.get(name_id, ""), start, end, str(tid)))
    finally:
        db.close()
    return found
