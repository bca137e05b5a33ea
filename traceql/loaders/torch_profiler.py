"""PyTorch profiler (Kineto) traces → the table contract."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from traceql.loaders import kineto_fast, kineto_processes
from traceql.loaders.limits import MOST_INTEGER, possible
from traceql.trace import LoadedTrace, Problem

_EPOCH_LIKELY_NS = 10**17
"""A time over this (1973 in ns since 1970) without a stated base is a Unix time: old Kineto wrote those."""

_VERSION_SUFFIX = r"_v\d{4,}$"  # cudaLaunchKernel_v7000


def load(path: Path) -> LoadedTrace:
    """Read one rank's trace; raises UnreadableTraceError when it holds no whole event."""
    file = kineto_fast.parse(path)
    families, beyond = _possible(file.families)
    header = file.header
    pid, undecided = _process(families)
    frames = {
        "kernels": _gpu(families["kernel"], pid),
        "memcpys": _memcpys(families["memcpy"], pid),
        "memsets": _gpu(families["memset"], pid),
        "synchronizations": _gpu(families["sync"], pid).with_columns(kind=_sync_kind()),
        "runtime_calls": families["call"].with_columns(pl.col("name").str.replace(_VERSION_SUFFIX, "")),
        "cpu_ops": families["op"],
        "python_calls": families["python"],
        "annotations": _annotations(families),
        "collective_calls": _collective_calls(families, pid),
        "overheads": families["overhead"].select(
            "start_ns", "dur_ns", kind="name", pid=_thread_or_null("pid"), tid=_thread_or_null("tid")
        ),
        "devices": _devices(header),
        "metadata": _metadata(header),
    }
    starts = [frame["start_ns"].min() for frame in families.values() if not frame.is_empty()]
    first = min((s for s in starts if isinstance(s, int)), default=None)
    return LoadedTrace(
        source="torch_profiler",
        path=path,
        frames=frames,
        rank=_rank(header, path),
        unix_offset_ns=_unix_offset(header, first),
        first_ns=first,
        problems=(*file.problems, *beyond, *undecided),
    )


def _possible(families: dict[str, pl.DataFrame]) -> tuple[dict[str, pl.DataFrame], list[Problem]]:
    """The families without the rows whose times cannot be, and the problem to report for those."""
    kept = {
        f: frame if frame.select(possible().all()).item() else frame.filter(possible()) for f, frame in families.items()
    }
    lost = sum(frame.height - kept[family].height for family, frame in families.items())
    message = f"{lost} events last over 100 days or lie over 146 years off; they were left out"
    return kept, [Problem("skipped", message, count=lost)] if lost else []


def _process(families: dict[str, pl.DataFrame]) -> tuple[pl.Expr, list[Problem]]:
    """The host process of a GPU row, and what is to be said of rows that have none.

    Kineto's GPU rows carry the device where others have the process; a trace has one process unless it was merged.
    """
    pids = pl.concat([families[family]["pid"] for family in ("call", "op", "python")]).drop_nulls().unique()
    if len(pids) < 2:
        return pl.lit(int(pids[0]) if len(pids) else None, pl.Int64), []
    columns = [_DEVICE.alias("device"), pl.col("pid").alias("row_pid"), "correlation_id", "start_ns"]
    rows = pl.concat([families[family].select(columns) for family in ("kernel", "memcpy", "memset")])
    calls = families["call"].select("pid", "correlation_id", "start_ns")
    owner = kineto_processes.owners(rows, calls)
    left = rows.join(owner, on=kineto_processes.PLACE, how="anti", nulls_equal=True)
    known = pl.lit(None, pl.Int64)
    for device, row_pid, pid in owner.rows():
        known = pl.when(_DEVICE.eq(device) & pl.col("pid").eq(row_pid)).then(pid).otherwise(known)
    return known, [*kineto_processes.undecided(left, calls), *kineto_processes.shared_devices(owner)]


_DEVICE = pl.coalesce("device", "pid")
"""The device of a GPU row: old files have it in the process field alone."""


def _gpu(frame: pl.DataFrame, pid: pl.Expr) -> pl.DataFrame:
    """GPU rows: device and stream from the arguments, else from where old files put them (pid and tid)."""
    return frame.with_columns(
        device=_DEVICE,
        stream=pl.coalesce("stream", "tid"),
        pid=pid,
        # Kineto writes 0 for "not in a graph"
        graph_id=pl.when(pl.col("graph_id") != 0).then("graph_id"),
        graph_node_id=pl.when(pl.col("graph_node_id") != 0).then("graph_node_id"),
    )


def _memcpys(frame: pl.DataFrame, pid: pl.Expr) -> pl.DataFrame:
    """Direction and memory kinds from the event's name: ``Memcpy HtoD (Pinned -> Device)``."""
    ends = pl.col("name").str.extract_groups(r"\((?<src>[\w ]+?) *-> *(?<dst>[\w ]+?)\)")
    return _gpu(frame, pid).with_columns(
        kind=pl.col("name").str.extract(r"\b([DHP]to[DHP])\b"),
        src_memory=ends.struct.field("src").str.to_lowercase(),
        dst_memory=ends.struct.field("dst").str.to_lowercase(),
    )


def _sync_kind() -> pl.Expr:
    """``cuda_sync`` events are named Event Sync, Stream Wait Event, Stream Sync and Context Sync."""
    name = pl.col("name").str.to_lowercase()
    return (
        pl.when(name.str.contains("wait"))
        .then(pl.lit("stream_wait"))
        .when(name.str.contains("stream"))
        .then(pl.lit("stream"))
        .when(name.str.contains("event"))
        .then(pl.lit("event"))
        .when(name.str.contains("context|device"))
        .then(pl.lit("context"))
    )


def _annotations(families: dict[str, pl.DataFrame]) -> pl.DataFrame:
    host = families["annotation"].with_columns(side=pl.lit("cpu"))
    gpu = families["gpu_annotation"].select(
        "name", "start_ns", "dur_ns", device=pl.coalesce("device", "pid"), stream=pl.coalesce("stream", "tid")
    )
    return pl.concat([host, gpu.with_columns(side=pl.lit("gpu"))], how="diagonal")


def _collective_calls(families: dict[str, pl.DataFrame], pid: pl.Expr) -> pl.DataFrame:
    """What torch.distributed wrote on communication kernels and, in versions before 2.2, on its operators alone."""
    stated = {"name": "collective", "dtype": "collective_dtype", "world_size": "group_size"}
    rows = [
        families[family]
        .filter(pl.col("collective").is_not_null())
        .select(
            "start_ns", "dur_ns", "tid", "in_elements", "out_elements", "group", "group_ranks",
            side=pl.lit(side), **{column: pl.col(key) for column, key in stated.items()},
            pid=pid if side == "kernel" else pl.col("pid"),
            correlation_id=pl.col("correlation_id") if side == "kernel" else pl.lit(None, pl.Int64),
        )
        for family, side in (("kernel", "kernel"), ("op", "op"))
    ]  # fmt: skip
    return pl.concat(rows)


def _thread_or_null(column: str) -> pl.Expr:
    """Kineto writes pid -1 and tid 0 for overhead it cannot place on a thread."""
    return pl.when(pl.col(column) > 0).then(column)


def _devices(header: dict[str, Any]) -> pl.DataFrame:
    properties = header.get("deviceProperties")
    rows = [p for p in properties if isinstance(p, dict)] if isinstance(properties, list) else []
    return pl.DataFrame(
        {
            "device": [_number(p.get("id")) for p in rows],
            "name": [str(p["name"]) if p.get("name") else None for p in rows],
            "sm_count": [_number(p.get("numSms")) for p in rows],
            "compute_capability": [
                f"{p['computeMajor']}.{p['computeMinor']}" if {"computeMajor", "computeMinor"} <= p.keys() else None
                for p in rows
            ],
            "memory_bytes": [_number(p.get("totalGlobalMem")) for p in rows],
        },
        schema={
            "device": pl.Int64, "name": pl.String, "sm_count": pl.Int64,
            "compute_capability": pl.String, "memory_bytes": pl.Int64,
        },
    )  # fmt: skip


def _number(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and abs(value) < MOST_INTEGER else None


def _metadata(header: dict[str, Any]) -> pl.DataFrame:
    """The header's scalars: versions, flags, ids. Nested values have tables of their own or say nothing of time."""
    scalars = {k: v for k, v in header.items() if isinstance(v, (str, int, float)) and k != "traceName"}
    distributed = header.get("distributedInfo")
    if isinstance(distributed, dict):
        scalars |= {f"distributed.{k}": v for k, v in distributed.items() if isinstance(v, (str, int, float))}
        scalars |= _groups(distributed.get("pg_config"))
    return pl.DataFrame(
        {"key": list(scalars), "value": [str(v) for v in scalars.values()]},
        schema={"key": pl.String, "value": pl.String},
    )


def _groups(configured: Any) -> dict[str, str]:
    """``distributed.groups``: the process groups of several ranks that this one is in, as JSON [[name, [ranks]], …]."""
    rows = [g for g in configured if isinstance(g, dict)] if isinstance(configured, list) else []
    known = [[g.get("pg_name"), g["ranks"]] for g in rows if isinstance(g.get("ranks"), list) and len(g["ranks"]) > 1]
    return {"distributed.groups": json.dumps(known)} if known else {}


def _rank(header: dict[str, Any], path: Path) -> int | None:
    """Rank from ``distributedInfo``, else from the file name (rank-0, TP-1, rank1.)."""
    distributed = header.get("distributedInfo")
    if isinstance(distributed, dict) and (rank := _number(distributed.get("rank"))) is not None:
        world = _number(distributed.get("world_size"))
        return None if world == 1 else rank
    found = re.search(r"(?:rank|tp)[-_]?(\d+)", path.name, re.IGNORECASE)
    return int(found.group(1)) if found else None


def _unix_offset(header: dict[str, Any], first_ns: int | None) -> int | None:
    base = _number(header.get("baseTimeNanoseconds"))
    if base is not None:
        return base
    return 0 if first_ns is not None and first_ns > _EPOCH_LIKELY_NS else None
