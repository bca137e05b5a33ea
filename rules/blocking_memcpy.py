"""
## What it does
Finds copies inside steps that hold the host until the data has moved (synchronous calls, and asynchronous ones from
or to pageable memory), with their size, the bandwidth they reach against the host link, and who makes them.

## Why it matters
While the host is held it launches nothing, and the GPU runs dry behind the copy. A pageable buffer also has to be
staged through a pinned one, at a fraction of the link's speed.

## How it is measured
For every such copy whose call starts in a step: the copy itself, and the time within the call in which the device
is idle because the calling thread has not launched more. Time in which the GPU works is waiting, not loss. The rule
fires when that makes `min-cost-pct` of the period in the median step of its kind. Not counted, since they do not
hold the host: copies within the device, and host-to-device copies of up to 64 KiB, which return once staged.

`min-cost-pct` is 1: an eager FlashInfer decode reads 516 bytes back to pageable memory in two copies a step,
0.1-0.2 % of the step; a prefill of 0.7 s does so five times, 0.01 %.

The link's peak is that of the GPU's host interface (docs/hardware.md). The saving is the step timed again
without the host being held; at graph boundaries it belongs to graph-segment-boundary (TQL201).

## Known problems
A few hundred bytes never reach the link's bandwidth: for small copies the time counts, not the rate. The
synchronise that a framework calls after its copy is synchronizing-call's (TQL104).

## How to fix
Pin the host buffer and copy with `non_blocking=True`; keep the value on the GPU; gather several small copies into
one; read results back one step later.

## References
CUDA runtime API, "API synchronization behavior"; CUDA programming guide, "Asynchronous Concurrent Execution";
PyTorch tutorial on `pin_memory()` and `non_blocking`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host_calls import blocking_copies, callers
from traceql.derived.roofline import device_match
from traceql.derived.step_costs import Median, median_steps
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.report.units import number
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, counted, duration, percent, size

_SITE = ["name", "direction", "src_memory", "dst_memory", "caller"]


class BlockingMemcpy(Rule):
    code = "TQL105"
    name = "blocking-memcpy"
    summary = "A copy inside the step holds the host while the GPU has nothing else to do."
    severity = Severity.WARNING
    needs = ("gpu_rows", "host_calls", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_cost_pct: float = option(
            1.0, "share of the step period in which the GPU idles, or only copies, inside such calls"
        )

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        if steps(trace)["gpu_busy_ns"].count() == 0:
            raise NotApplicableError("GPU idle time is not recorded: graph replays left no device record")
        copies = _costs(trace)
        per_step = copies.group_by("step_id").agg(value=pl.col("cost_ns").sum())
        for median in median_steps(trace, per_step):
            if median.value > 0 and median.share_pct >= options.min_cost_pct:
                yield self._finding(trace, median, copies.filter(pl.col("step_id") == median.step_id))

    def _finding(self, trace: Trace, median: Median, copies: pl.DataFrame) -> Finding:
        sites = (
            copies.group_by(_SITE)
            .agg(
                pl.col("device").first(),
                pl.col("bytes").sum(),
                calls=pl.len(),
                held=pl.col("dur_ns").sum(),
                cost=pl.col("cost_ns").sum(),
                copying=pl.col("copy_ns").sum(),
            )
            .sort(pl.col("cost") * -1, *_SITE)
        )
        top = sites.row(0, named=True)
        worst = copies.sort(pl.col("cost_ns") * -1, "start_ns").row(0, named=True)
        rows = [_site_row(trace, row) for row in sites.head(8).rows(named=True)]
        where = f" in {top['caller']}" if top["caller"] else ""
        hold = f"{counted(copies.height, 'copy', 'copies')} {'holds' if copies.height == 1 else 'hold'}"
        most = "most in " if sites.height > 1 else ""
        route = f"{top['direction']} {top['src_memory']} → {top['dst_memory']}"
        return self.finding(
            f"{hold} up the host in {a_step(median.period_ns, median.label)}; for {duration(median.value)} of it "
            f"({percent(median.share_pct)}) the GPU is idle or only copies: {most}{top['name']} {route}{where}, "
            f"{size(top['bytes'])} in {counted(top['calls'], 'copy', 'copies')}{_rate(rows[0])}.",
            key=(median.kind, top["name"], top["direction"]),
            subject=top["caller"] or top["name"],
            step_id=median.step_id,
            start_ns=worst["start_ns"],
            end_ns=worst["end_ns"],
            fix=_fix(trace),
            certainty="modelled",
            evidence={
                "copies_per_step": copies.height,
                "cost_us_per_step": median.value / 1000,
                "share_of_period_pct": median.share_pct,
                "held_us_per_step": int(copies["dur_ns"].sum()) / 1000,
                "bytes_per_step": int(copies["bytes"].sum()),
                "steps": median.steps,
                "call_sites": rows,
            },
            advice=[
                "Pin the host buffer and copy with non_blocking=True; read results back one step later, behind an "
                "event.",
                "Keep the value on the GPU, or gather the small copies into one.",
            ],
        )


def _fix(trace: Trace) -> Fix:
    """Copies from or to pinned memory, asynchronous and on a stream of their own: nobody waits for them."""
    copies = blocking_copies(trace)
    rows = gpu_ops(trace).filter(pl.col("kind") == "memcpy").select("gpu_op_id", memcpy_id="source_id")
    idle = owned_gap_parts(trace).filter(pl.col("owner") == "blocking copy")
    beside = copies.join(rows, on="memcpy_id", how="inner").select("gpu_op_id", saved_ns="copy_ns")
    return Fix.waits(copies) | Fix.host_time(idle) | Fix.device_time(beside)


def _costs(trace: Trace) -> pl.DataFrame:
    """Blocking copies with ``caller`` and ``cost_ns``: the device idles for the call, or runs this copy."""
    idle = owned_gap_parts(trace).group_by("call_id").agg(idle_ns=pl.col("dur_ns").sum())
    return (
        blocking_copies(trace)
        .join(idle, on="call_id", how="left", maintain_order="left")
        .join(callers(trace).select("call_id", "caller"), on="call_id", how="left", maintain_order="left")
        .with_columns(pl.col("idle_ns").fill_null(0))
        .with_columns(cost_ns=pl.min_horizontal(pl.col("idle_ns") + pl.col("copy_ns"), "dur_ns"))
    )


_WORTH_A_RATE_BYTES = 1 << 20
"""Smaller copies are latency, whatever the link: 1 MiB takes 17 µs at 63 GB/s."""


def _rate(row: dict[str, Any]) -> str:
    """The bandwidth of a site's copies in words; nothing where they are too small for it to mean anything."""
    if row["bytes"] < _WORTH_A_RATE_BYTES * row["calls"]:
        return ""
    share = f", {percent(row['link_pct'])} of the link" if row["link_pct"] is not None else ""
    return f", {number(row['achieved_gb_per_s'])} GB/s{share}"


def _site_row(trace: Trace, site: dict[str, Any]) -> dict[str, Any]:
    gpu = device_match(trace, site["device"]).gpu
    link = gpu.pcie_bytes_per_s if gpu else None
    reached = site["bytes"] / site["copying"] if site["copying"] else 0.0  # bytes/ns is GB/s
    return {
        "call": site["name"],
        "direction": site["direction"],
        "source": site["src_memory"],
        "target": site["dst_memory"],
        "caller": site["caller"],
        "calls": site["calls"],
        "bytes": site["bytes"],
        "held_us": site["held"] / 1000,
        "cost_us": site["cost"] / 1000,
        "achieved_gb_per_s": reached,
        "link_gb_per_s": link / 1e9 if link else None,
        "link_pct": 100 * reached * 1e9 / link if link else None,
    }
