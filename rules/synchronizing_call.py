"""
## What it does
Finds calls inside steps that wait for the GPU (`.item()`, stream, device and event synchronises) and leave it idle,
and names who calls them.

## Why it matters
A wait in the middle of a step drains the queue: nothing is launched until it returns, and the GPU runs dry between
the end of its work and the host's next launch.

## How it is measured
For every synchronising call that starts in a step: device idle time *while the call lasts*, in gaps ended by work
of the waiting thread. Waiting while the GPU works is not a fault and costs nothing here; what the host does after
the call returned is not the call's doing either (launch-gap, TQL101). The rule fires when this makes at least
`min-idle-pct` of the period in the median step of its kind. Runtime and driver calls, CUDA and HIP alike, are
recognised by name.

`min-idle-pct` is 1: returning from a wait takes 3-4 µs after the GPU is done (measured with Nsight Systems on an
H200: 12 waits a capture), so one wait a step costs 0.2 % of a 1.5 ms step and is no finding; 17 waits cost 2.8 %.

Copies that block are blocking-memcpy's (TQL105), waits at graph boundaries are shown here and their saving is
counted by graph-segment-boundary (TQL201).

## Known problems
Where a graph replay left no device record, the GPU may have been busy during the wait: that time is not idle and
not counted. A busy-wait in Python (`event.query()` in a loop) is no synchronising call.

## How to fix
Keep the value on the GPU (`torch.where`, index tensors), compute it before the step, copy it with
`non_blocking=True` to pinned memory and read it one step later, replace a device-wide synchronise by an event.

## References
CUDA runtime API, "API synchronization behavior"; PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU
synchronization".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived import api
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.host_calls import callers, in_step_calls
from traceql.derived.step_costs import Median, median_steps
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, counted, duration, percent

_SITE = ["name", "caller"]


class SynchronizingCall(Rule):
    code = "TQL104"
    name = "synchronizing-call"
    summary = "A call inside the step waits for the GPU and leaves it idle."
    severity = Severity.WARNING
    needs = ("gpu_rows", "host_calls", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_idle_pct: float = option(
            1.0, "share of the step period in which the GPU is idle while the step waits for it"
        )

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        if steps(trace)["gpu_busy_ns"].count() == 0:
            raise NotApplicableError("GPU idle time is not recorded: graph replays left no device record")
        waits = _waits(trace)
        per_step = waits.group_by("step_id").agg(value=pl.col("idle_ns").sum())
        for median in median_steps(trace, per_step):
            if median.share_pct >= options.min_idle_pct:
                fix = Fix.waits(waits.filter(pl.col("own_ns") > 0))
                yield self._finding(median, waits.filter(pl.col("step_id") == median.step_id), fix)

    def _finding(self, median: Median, waits: pl.DataFrame, fix: Fix) -> Finding:
        sites = (
            waits.group_by(_SITE)
            .agg(
                calls=pl.len(),
                waited=pl.col("dur_ns").sum(),
                idle=pl.col("idle_ns").sum(),
                longest=pl.col("dur_ns").max(),
            )
            .sort(pl.col("idle") * -1, *_SITE)
        )
        top = sites.row(0, named=True)
        worst = waits.sort(pl.col("idle_ns") * -1, "start_ns").row(0, named=True)
        waited, own = (int(waits[c].sum()) for c in ("dur_ns", "own_ns"))
        site = f"{top['name']} from {top['caller']}" if top["caller"] else top["name"]
        most = f"; {duration(top['idle'])} of that in {site}, {counted(top['calls'], 'call')}"
        most = most if sites.height > 1 else f": {site}"
        elsewhere = f"; {duration(median.value - own)} of it at graph boundaries (TQL201)" if median.value > own else ""
        return self.finding(
            f"{counted(waits.height, 'synchronising call')} in {a_step(median.period_ns, median.label)} "
            f"{'leaves' if waits.height == 1 else 'leave'} the GPU idle for {duration(median.value)} "
            f"({percent(median.share_pct)}){most}{elsewhere}.",
            key=(median.kind, top["name"]),
            subject=top["caller"] or top["name"],
            step_id=median.step_id,
            start_ns=worst["start_ns"],
            end_ns=worst["end_ns"],
            fix=fix,
            certainty="modelled",
            evidence={
                "waits_per_step": waits.height,
                "idle_us_per_step": median.value / 1000,
                "share_of_period_pct": median.share_pct,
                "waited_us_per_step": waited / 1000,
                "idle_at_graph_boundaries_us": (median.value - own) / 1000,
                "steps": median.steps,
                "call_sites": [
                    {
                        "call": row["name"], "caller": row["caller"], "calls": row["calls"],
                        "waited_us": row["waited"] / 1000, "idle_us": row["idle"] / 1000,
                        "longest_wait_us": row["longest"] / 1000,
                    }
                    for row in sites.head(8).rows(named=True)
                ],
            },
            advice=[
                "Keep the value on the GPU, or read it back one step later with a non-blocking copy to pinned memory "
                "and an event.",
                "Where a wait must stay, launch the work that does not depend on it first.",
            ],
        )  # fmt: skip


def _waits(trace: Trace) -> pl.DataFrame:
    """Synchronising calls made in a step with their ``caller``, ``idle_ns`` while they last, and ``own_ns``, the part
    of it whose saving no other rule counts."""
    idle = (
        owned_gap_parts(trace)
        .filter(pl.col("cause") == "blocked")
        .group_by("call_id")
        .agg(
            idle_ns=pl.col("dur_ns").sum(),
            own_ns=pl.col("dur_ns").filter(pl.col("owner") == "wait").sum(),
        )
    )
    return (
        in_step_calls(trace)
        .filter(pl.col("name").str.contains(api.SYNCHRONIZE))
        .join(idle, on="call_id", how="left", maintain_order="left")
        .join(callers(trace).select("call_id", "caller"), on="call_id", how="left", maintain_order="left")
        .with_columns(pl.col("idle_ns", "own_ns").fill_null(0))
    )
