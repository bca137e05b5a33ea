"""A cut of a trace around one finding, for the Perfetto UI: Chrome trace JSON made from the tables of any source.

Times are the source's own (microseconds with three decimals, so that nothing is rounded). Host threads and GPU streams
become tracks, launches point at the GPU work they started, and the finding has a track of its own.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl

from traceql.finding import Finding
from traceql.trace import Trace

_ENCODER = msgspec.json.Encoder(decimal_format="number")

_MARGIN_NS = 1_000_000
_GPU_PID = 1 << 22
"""GPU tracks are shown as processes of their own, numbered from here: no real process id is that large."""

_HOST_TABLES = {
    "runtime_calls": "cuda_runtime",
    "cpu_ops": "cpu_op",
    "python_calls": "python_function",
    "annotations": "user_annotation",
}
_GPU_TABLES = {"kernels": "kernel", "memcpys": "gpu_memcpy", "memsets": "gpu_memset", "graph_traces": "graph_replay"}


def window(trace: Trace, finding: Finding) -> tuple[int, int]:
    """The finding's span with a margin of two steps or 1 ms on both sides, ns; the whole trace when it has no span."""
    if finding.start_ns is None:
        return -(2**62), 2**62
    period = trace.table("steps")["period_ns"].median()
    margin = max(2 * int(period or 0), _MARGIN_NS)  # type: ignore[arg-type]
    return finding.start_ns - margin, (finding.end_ns or finding.start_ns) + margin


def cut(trace: Trace, finding: Finding | None = None) -> bytes:
    """Gzip-compressed Chrome trace JSON of the events that touch the finding's window (all without a finding)."""
    begin, end = (-(2**62), 2**62) if finding is None else window(trace, finding)
    events = [*_host(trace, begin, end), *_gpu(trace, begin, end), *_flows(trace, begin, end)]
    if finding is not None:
        events += _finding_track(trace, finding)
    events += _track_names(events)
    document = {"schemaVersion": 1, "displayTimeUnit": "ns", "traceEvents": events}
    return gzip.compress(_ENCODER.encode(document), mtime=0)


def _touching(frame: pl.DataFrame, begin: int, end: int) -> pl.DataFrame:
    return frame.filter((pl.col("start_ns") < end) & (pl.col("start_ns") + pl.col("dur_ns") >= begin))


def _microseconds(ns: int) -> Decimal:
    """Exact: a float has 53 bits, an epoch in microseconds with three decimals needs 61."""
    return Decimal(ns).scaleb(-3)


def _us(trace: Trace, start_ns: int) -> Decimal:
    return _microseconds(start_ns + trace.source_offset_ns)


def _event(
    trace: Trace, name: str, category: str, pid: int, tid: int, start_ns: int, dur_ns: int, **args: Any
) -> dict[str, Any]:
    return {
        "ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, "ts": _us(trace, start_ns),
        "dur": _microseconds(dur_ns), "args": {k: v for k, v in args.items() if v is not None},
    }  # fmt: skip


def _host(trace: Trace, begin: int, end: int) -> Iterator[dict[str, Any]]:
    for table, category in _HOST_TABLES.items():
        frame = _touching(trace.table(table), begin, end)
        if table == "annotations":
            frame = frame.filter(pl.col("side") == "cpu")
        for name, pid, tid, start, dur in frame.select("name", "pid", "tid", "start_ns", "dur_ns").rows():
            yield _event(trace, name or "?", category, pid or 0, tid or 0, start, dur)


def _gpu(trace: Trace, begin: int, end: int) -> Iterator[dict[str, Any]]:
    names = trace.table("gpu_ops").select("kind", "source_id", "name", "launch_id")
    kinds = {"kernels": "kernel", "memcpys": "memcpy", "memsets": "memset", "graph_traces": "graph"}
    for table, category in _GPU_TABLES.items():
        frame = _touching(trace.table(table), begin, end)
        identity = frame.columns[0]
        named = frame.join(
            names.filter(pl.col("kind") == kinds[table]).select(pl.col("source_id").alias(identity), shown="name"),
            on=identity,
            how="left",
        )
        full = pl.col("name") if table == "kernels" else pl.lit(None, pl.String)
        columns = ["shown", "device", "stream", "start_ns", "dur_ns", "correlation_id", "step_id"]
        for shown, device, stream, start, dur, correlation, step, kernel in named.select(
            *columns, full.alias("full")
        ).rows():
            yield _event(
                trace, shown or category, category, _GPU_PID + (device or 0), stream or 0, start, dur,
                correlation=correlation, step=step, kernel=kernel,
            )  # fmt: skip


def _flows(trace: Trace, begin: int, end: int) -> Iterator[dict[str, Any]]:
    """Launch call → first GPU row, where both lie in the cut."""
    calls = _touching(trace.table("launches").filter(pl.col("gpu_start_ns").is_not_null()), begin, end)
    first = (
        trace.table("gpu_ops")
        .sort("start_ns")
        .unique("launch_id", keep="first")
        .select("launch_id", "device", "stream")
    )
    for launch, pid, tid, start, gpu, device, stream in (
        calls.filter(pl.col("gpu_start_ns") < end)
        .join(first, on="launch_id")
        .select("launch_id", "pid", "tid", "start_ns", "gpu_start_ns", "device", "stream")
        .rows()
    ):
        common = {"cat": "ac2g", "name": "launch", "id": launch}
        yield {"ph": "s", **common, "pid": pid or 0, "tid": tid or 0, "ts": _us(trace, start)}
        yield {
            "ph": "f",
            "bp": "e",
            **common,
            "pid": _GPU_PID + (device or 0),
            "tid": stream or 0,
            "ts": _us(trace, gpu),
        }


def _finding_track(trace: Trace, finding: Finding) -> list[dict[str, Any]]:
    start = finding.start_ns or 0
    end = finding.end_ns if finding.end_ns is not None else start + 1
    return [
        _event(
            trace, f"{finding.code} {finding.rule}", "finding", _GPU_PID - 1, 0, start, max(1, end - start),
            message=finding.message, advice="; ".join(finding.advice),
        )
    ]  # fmt: skip


def _track_names(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metadata rows that name processes and threads, findings first, then the host, then GPUs."""
    rows = []
    for pid in sorted({e["pid"] for e in events}):
        is_gpu, is_finding = pid >= _GPU_PID, pid == _GPU_PID - 1
        name = f"GPU {pid - _GPU_PID}" if is_gpu else "traceql findings" if is_finding else f"process {pid}"
        order = 2 if is_gpu else 0 if is_finding else 1
        rows.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}})
        rows.append({"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": order}})
        if is_gpu:
            streams = sorted({e["tid"] for e in events if e["pid"] == pid})
            rows += [
                {"ph": "M", "name": "thread_name", "pid": pid, "tid": s, "args": {"name": f"stream {s}"}}
                for s in streams
            ]
    return rows
