"""
## What it does
Reports launch calls that waited because the device's launch queue was full.

## Why it matters
Good news: the host is so far ahead that it has to wait, so the GPU sets the pace and neither launch overhead nor
Python costs anything. It also explains launch calls of milliseconds, which are no launch overhead and which other
figures (launch time, self CPU time of the op around) would otherwise be read wrongly.

## How it is measured
The profiler says so itself where it can: CUPTI's overhead rows of the kind "Command Buffer Full". Without those:
kernel launch calls of at least `min-call-us` with at least `min-queued-count` launches of that device outstanding,
the device working for nine tenths of the call. The rule reports from `min-calls-count` such calls.

`min-queued-count` is 500: in a public H100 trace every one of 695 blocked calls had 1,012-1,022 launches
outstanding, the depth of a channel's queue; with large argument lists the buffer fills earlier. `min-call-us` is 50:
unblocked launch calls in the captures took 4-12 µs, 75 µs at the longest. `min-calls-count` is 10: public traces of a
busy GPU had 198 and 695 such calls, a few alone are a hiccup of the host.

## Known problems
Launches made before the capture began are not known, so the first calls look less queued than they were.

## How to fix
Nothing to fix. To go faster, make the kernels faster; host-side work can be spent freely.

## References
CUPTI documentation, CUpti_ActivityOverheadKind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.launch_queue import held_by_full_queue, queued_launches
from traceql.finding import Finding, Severity
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration

_BUFFER_FULL = "(?i)command buffer full"


class LaunchQueueFull(Rule):
    code = "TQL107"
    name = "launch-queue-full"
    summary = "Launch calls waited for room in the device's queue: the GPU sets the pace."
    severity = Severity.INFO
    needs = ("gpu_rows", "host_calls", "launch_links")

    @dataclass(frozen=True)
    class Options:
        min_call_us: float = option(50.0, "a launch call that waited lasts at least this long")
        min_queued_count: float = option(500, "launches outstanding on the device when the call began")
        min_calls_count: float = option(10, "calls that waited; fewer are not reported")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        stated = trace.loaded["overheads"].filter(pl.col("kind").str.contains(_BUFFER_FULL))
        waited = held_by_full_queue(trace, options.min_call_us * 1000, options.min_queued_count)
        told_by = "profiler" if not stated.is_empty() else "queue depth"
        calls = stated if told_by == "profiler" else waited
        if calls.height >= options.min_calls_count:
            yield self._finding(trace, calls, told_by, waited)

    def _finding(self, trace: Trace, calls: pl.DataFrame, told_by: str, waited: pl.DataFrame) -> Finding:
        worst = calls.sort(pl.col("dur_ns") * -1, "start_ns").row(0, named=True)
        total = int(calls["dur_ns"].sum())
        return self.finding(
            f"{counted(calls.height, 'launch call')} waited for room in the launch queue, for {duration(total)} of host "
            "time: the GPU is the slower side, and these calls are not launch overhead.",
            key=(told_by,),
            subject="launch queue",
            start_ns=worst["start_ns"],
            end_ns=worst["start_ns"] + worst["dur_ns"],
            step_id=worst.get("step_id"),
            evidence={
                "waiting_calls": calls.height,
                "waited_ms": total / 1e6,
                "longest_wait_us": worst["dur_ns"] / 1000,
                "most_queued_launches": queued_launches(trace)["queued"].max(),
                "told_by": told_by,
                "calls_with_a_deep_queue": waited.height,
            },
            advice=["Nothing to fix: look for faster kernels, not for a faster host."],
        )
