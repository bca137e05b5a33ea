"""
## What it does
Looks at what lies between consecutive CUDA graph segments of a step: GPU idle time, the eager kernels that run there,
and what the host did meanwhile. Boundaries that look alike are one pattern with a count.

## Why it matters
A piecewise graph replays in segments with eager work between them (attention, page tables, residual routing). Each
boundary hands control back to the host; where the host is late, the GPU runs dry once a boundary, dozens of times a
step.

## How it is measured
A segment is the GPU work of one graph launch. A boundary runs from the end of one segment to the start of the next on
the same device in the same step. Its *idle* part is device idle time, its *eager* part the union of the GPU work in it
that no graph launched. The rule fires when idle plus eager time exceeds `min-share-pct` of the step's period. Eager
work is work: it is listed, and never counted as lost. The estimate counts only idle time at boundaries where the host
was late; a drain of a few µs between queued segments (device latency) stays.

`min-share-pct` is 3: boundaries take 9 % of a piecewise prefill on an H200 (most of it attention, which is work) and 23
% of a decode whose page tables are built between its 25 segments; 24 boundaries that only drain, 2.6 µs each, would be
3 % of that step.

## Known problems
Graph-node tracing adds 2-4 % to the step. With whole-graph tracing the segments are known and their kernels are not.

## How to fix
Move the host's work off the boundary: build page-table and index arrays on the GPU or before the step, launch the next
segment before reading anything back, merge segments, or capture the whole step.

## References
CUDA programming guide, "CUDA Graphs"; vLLM and SGLang documentation on piecewise CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.fixes import closing
from traceql.derived.graphs import graph_boundaries
from traceql.derived.step_costs import HOST_CAUSES, Median, median_steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, counted, duration, part_of, percent

_LATE = (*HOST_CAUSES, "blocked")
_PATTERN = ["before", "eager", "after", "cause", "cpu_activity"]


class GraphSegmentBoundary(Rule):
    code = "TQL201"
    name = "graph-segment-boundary"
    summary = "Time is lost or spent between the CUDA graph segments of a step."
    severity = Severity.WARNING
    needs = ("gpu_rows", "steps", "graph_replays")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(
            3.0, "share of the step period that idle plus eager time at boundaries must exceed"
        )

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        if trace.capabilities.graph_replays == "opaque":
            raise NotApplicableError("graph replays left no device record; record with --cuda-graph-trace=node")
        boundaries = graph_boundaries(trace)
        per_step = boundaries.group_by("step_id").agg(value=pl.col("idle_ns").sum() + pl.col("eager_gpu_ns").sum())
        for median in median_steps(trace, per_step):
            if median.share_pct > options.min_share_pct:
                own = closing(trace, pl.col("owner") == "graph boundary")
                yield self._finding(median, boundaries.filter(pl.col("step_id") == median.step_id), own)

    def _finding(self, median: Median, boundaries: pl.DataFrame, fix: Fix) -> Finding:
        patterns = (
            boundaries.group_by(_PATTERN)
            .agg(
                count=pl.len(),
                idle=pl.col("idle_ns").sum(),
                each=pl.col("idle_ns").median(),
                eager_ns=pl.col("eager_gpu_ns").sum(),
            )
            .sort(pl.col("idle") * -1, *_PATTERN)
        )
        late = patterns.filter(pl.col("cause").is_in(_LATE))
        idle, eager, late_ns = (int(s.sum()) for s in (boundaries["idle_ns"], boundaries["eager_gpu_ns"], late["idle"]))
        late_count = int(late["count"].sum())
        worst = boundaries.sort("idle_ns", descending=True).row(0, named=True)
        activity = late["cpu_activity"][0] if late_count else None
        message = (
            f"{counted(boundaries.height, 'boundary', 'boundaries')} between graph segments in "
            f"{a_step(median.period_ns, median.label)}: GPU idle for {duration(idle)}, eager work for {duration(eager)} "
            f"({percent(median.share_pct)} together); "
        )
        where = f", {part_of(late['idle'][0], late_ns)} in {activity}" if activity else ""
        message += (
            f"the host is late at {late_count} of them ({duration(late_ns)}{where})."
            if late_count
            else "the host is late at none of them."
        )
        return self.finding(
            message,
            key=(median.kind,),
            subject=str(activity) if activity else f"{worst['before']} → {worst['after']}",
            step_id=median.step_id,
            start_ns=worst["start_ns"],
            end_ns=worst["end_ns"],
            fix=fix,
            certainty="modelled",
            evidence={
                "boundaries_per_step": boundaries.height,
                "idle_us_per_step": idle / 1000,
                "eager_us_per_step": eager / 1000,
                "host_late_boundaries_per_step": late_count,
                "host_late_idle_us_per_step": late_ns / 1000,
                "share_of_period_pct": median.share_pct,
                "steps": median.steps,
                "patterns": [
                    {
                        "count": row["count"], "idle_us": row["idle"] / 1000, "eager_us": row["eager_ns"] / 1000,
                        "cause": row["cause"], "host_activity": row["cpu_activity"], "before": row["before"],
                        "eager": row["eager"], "after": row["after"], "idle_us_each": row["each"] / 1000,
                    }
                    for row in patterns.head(8).rows(named=True)
                ],
            },
            advice=_advice(late_count, eager),
        )  # fmt: skip


def _advice(late_count: int, eager_ns: int) -> list[str]:
    advice = []
    if late_count:
        advice.append(
            "Take the host's work off the boundary: prepare page tables and indices before the step or on the GPU, and "
            "launch the next segment without waiting for the last."
        )
        advice.append("Merge segments, or capture the whole step, so that fewer boundaries remain.")
    if eager_ns:
        advice.append(
            "The eager kernels between segments are real work: capturing them saves their launches, not their time."
        )
    return advice
