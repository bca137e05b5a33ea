"""
## What it does
Says how much of the GPU's time lies in CUDA graph replays whose kernels are not in the trace, and how to record them.

## Why it matters
With whole-graph tracing, the default of Nsight Systems, a replay is one row or none at all. A tool that reads such a
trace as idle GPU time, or as a wait for the GPU, sends its user the wrong way.

## How it is measured
Each graph launch call is matched with GPU rows by correlation id. One device record for the whole replay: its time is
counted as busy and called opaque. No record at all: the replay ran between its launch call and the end of the next
synchronising call on that thread; the sum of those windows is an upper bound, and the trace's busy and idle times are
reported as not recorded.

## Known problems
The bound includes the host time of the launch and of the synchronising call.

## How to fix
Record with `nsys profile --cuda-graph-trace=node`. It adds 2-4 % to a step of 300 small graphs; the PyTorch profiler
records nodes always.

## References
Nsight Systems user guide, `--cuda-graph-trace`.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.graphs import graph_launches
from traceql.derived.opaque_replays import opaque_windows
from traceql.finding import Finding, Severity
from traceql.rule import NoOptions, Rule
from traceql.trace import Trace
from traceql.wording import duration, percent

_NODE_TRACE = "Record again with `nsys profile --cuda-graph-trace=node` to see the kernels of each replay."


class OpaqueGraphReplay(Rule):
    code = "TQL203"
    name = "opaque-graph-replay"
    summary = "CUDA graph replays are in the trace without their kernels."
    severity = Severity.INFO
    needs = ("host_calls", "graph_replays")

    def check(self, trace: Trace, options: NoOptions) -> Iterator[Finding]:
        launches = graph_launches(trace)
        unrecorded = launches.filter(pl.col("traced").is_null())
        whole = launches.filter(pl.col("traced") == "graph")
        if not unrecorded.is_empty():
            yield self._unrecorded(trace, unrecorded, launches.height)
        if not whole.is_empty():
            yield self._whole(trace, whole, launches.height)

    def _unrecorded(self, trace: Trace, unrecorded: pl.DataFrame, launches: int) -> Finding:
        windows = opaque_windows(trace).unique(["start_ns", "end_ns"])  # one for each device of the process
        calls = trace.loaded["runtime_calls"]
        last = int((calls["start_ns"] + calls["dur_ns"]).max() or 0)  # type: ignore[arg-type]
        bound = int(windows.select((pl.min_horizontal("end_ns", last) - pl.col("start_ns")).sum()).item())
        first = unrecorded.row(0, named=True)
        return self.finding(
            f"{unrecorded.height:,} of {launches:,} CUDA graph replays left no device record: GPU time not recorded, at most "
            f"{duration(bound)} from launch to the next synchronise; busy and idle time cannot be told.",
            key=("unrecorded",),
            step_id=first["step_id"],
            start_ns=first["start_ns"],
            end_ns=first["start_ns"] + first["dur_ns"],
            evidence={
                "replays": launches,
                "replays_without_record": unrecorded.height,
                "launch_to_synchronize_ms": bound / 1e6,
            },
            advice=[_NODE_TRACE],
        )

    def _whole(self, trace: Trace, whole: pl.DataFrame, launches: int) -> Finding:
        ops = gpu_ops(trace)
        opaque, total = int(ops.filter(pl.col("kind") == "graph")["dur_ns"].sum()), int(ops["dur_ns"].sum())
        first = whole.row(0, named=True)
        return self.finding(
            f"{whole.height:,} of {launches:,} CUDA graph replays are one row each, without kernels: {duration(opaque)} of "
            f"GPU time{f', {percent(100 * opaque / total)} of all' if total else ''}.",
            key=("whole",),
            step_id=first["step_id"],
            start_ns=first["gpu_start_ns"],
            end_ns=first["gpu_start_ns"] + first["gpu_dur_ns"],
            evidence={
                "replays": launches,
                "opaque_replays": whole.height,
                "opaque_gpu_ms": opaque / 1e6,
                "share_of_gpu_time_pct": 100 * opaque / total if total else None,
            },
            advice=[_NODE_TRACE],
        )
