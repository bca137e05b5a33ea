"""
## What it does
Adds up the gaps in which the GPU had nothing to run because the host had not launched the next work yet, in the
median step of each kind, and names the op, range or Python frame that the launching thread was in.

## Why it matters
A decode step is hundreds of kernels of a few microseconds. When each launch costs the host more than the kernel
costs the GPU, the step runs at the speed of Python. The gaps are the part of the step that a CUDA graph, a fused op
or a faster scheduler gets back.

## How it is measured
A gap is time in which no kernel, copy, fill or graph replay runs on the device, over all streams. Each gap of at
least `min-gap-us` is cut by what the thread that launched the *next* GPU work was doing: *host* (it had not reached
the launch: op dispatch, Python), *launch* or *graph launch* (inside the launch call), *launch latency* (the call
had returned, nothing was queued). Time in profiler overhead, in synchronising calls and between nodes of one replay
is not counted here, nor are gaps before work that was already queued (device latency). The sum is compared with the
step's period, start to next start. The step shown is the median one of its kind by that share.

The estimate leaves out what other rules count: gaps between steps (step-bubble, TQL103), at graph boundaries
(graph-segment-boundary, TQL201), under blocking copies (TQL105) and allocations (TQL701) made in the step.

## Known problems
A profiler slows the host more than the GPU: with Python stacks an eager decode step of 13 ms took 32-36 ms. The
gaps are then larger than in production; their order and their causes are not. Compare with the unprofiled step
time.

## How to fix
Capture the step in a CUDA graph. Where that is not possible: fuse small ops (torch.compile, custom kernels), move
work that does not depend on the step out of it, drop hooks and per-layer Python.

## References
CUDA programming guide, "CUDA Graphs"; the causes are defined in docs/definitions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.gap_host import UNCOVERED
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.step_costs import HOST_CAUSES, Median, median_steps
from traceql.finding import Finding, Severity
from traceql.rule import Rule, option
from traceql.trace import Trace

_ADVICE = {
    "host": "The host had not reached the launch: capture the step in a CUDA graph, or cut the Python and op "
    "dispatch in the frames above.",
    "launch": "Launch calls themselves are the delay: fewer, larger kernels (fusion) or one graph launch in their "
    "place.",
    "launch latency": "The call returned and the GPU was still idle: launches come one at a time, nothing is queued "
    "ahead.",
    "graph launch": "cudaGraphLaunch is the delay: launch the next replay before the last one ends, or split off "
    "what changes per step.",
}


class LaunchGap(Rule):
    code = "TQL101"
    name = "launch-gap"
    summary = "The GPU waits in a step because the host launches its work too late."
    severity = Severity.WARNING
    needs = ("gpu_rows", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_gap_us: float = option(5.0, "shorter gaps are drain between queued kernels and are not counted")
        min_share_pct: float = option(5.0, "share of the step period the counted gaps must exceed")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        parts = owned_gap_parts(trace).filter(
            (pl.col("gap_ns") >= options.min_gap_us * 1000) & pl.col("cause").is_in(HOST_CAUSES)
        )
        per_step = parts.group_by("step_id").agg(value=pl.col("dur_ns").sum())
        for median in median_steps(trace, per_step):
            if median.share_pct > options.min_share_pct:
                yield self._finding(trace, median, parts.filter(pl.col("step_id") == median.step_id))

    def _finding(self, trace: Trace, median: Median, parts: pl.DataFrame) -> Finding:
        causes = (
            parts.group_by("cause")
            .agg(gaps=pl.col("gap_id").n_unique(), total=pl.col("dur_ns").sum())
            .sort(pl.col("total") * -1, "cause")
        )
        blames = (
            parts.group_by("cause", "blame")
            .agg(gaps=pl.col("gap_id").n_unique(), total=pl.col("dur_ns").sum())
            .sort(pl.col("total") * -1, "cause", "blame")
        )
        gaps = parts.unique("gap_id").sort(pl.col("gap_ns") * -1, "gap_id")
        worst = gaps.head(3)
        top = causes.row(0, named=True)
        culprit = blames.filter(pl.col("cause") == top["cause"]).row(0, named=True)
        count, us = gaps.height, median.value / 1000
        return self.finding(
            f"{us:,.0f} µs of a {median.period_ns / 1e6:.2f} ms {median.label} ({median.share_pct:.0f} %) the GPU waits "
            f"for the host, in {count} gaps; most of it {_phrase(top['cause'])}, {_under(culprit['blame'])}.",
            key=(median.kind,),
            subject=culprit["blame"],
            step_id=median.step_id,
            start_ns=worst["gap_start_ns"][0],
            end_ns=worst["gap_start_ns"][0] + worst["gap_ns"][0],
            # none of its own where other rules account for every part of it
            savings_us_per_step=int(parts.filter(pl.col("owner") == "host late")["dur_ns"].sum()) / 1000 or None,
            certainty="modelled",
            evidence={
                "launch_gap_us_per_step": us,
                "share_of_period_pct": median.share_pct,
                "step_period_us": median.period_ns / 1000,
                "steps": median.steps,
                "range_us_per_step": [median.low / 1000, median.high / 1000],
                "by_cause": [{"cause": c, "gaps": n, "us_per_step": t / 1000} for c, n, t in causes.rows()],
                "by_blame": [
                    {"cause": c, "blame": b, "gaps": n, "us_per_step": t / 1000} for c, b, n, t in blames.head(5).rows()
                ],
                "worst_gaps": [
                    {
                        "start_ns": r["gap_start_ns"],
                        "gap_us": r["gap_ns"] / 1000,
                        "before": r["before"],
                        "after": r["after"],
                    }
                    for r in worst.rows(named=True)
                ],
            },
            advice=[_ADVICE[cause] for cause in causes["cause"].head(2)],
        )


def _under(blame: str) -> str:
    return f"with {UNCOVERED}" if blame == UNCOVERED else f"longest under {blame}"


def _phrase(cause: str) -> str:
    return {
        "host": "before the launch is reached", "launch": "inside launch calls",
        "launch latency": "between a launch call's return and the kernel's start", "graph launch": "inside the graph "
        "launch call",
    }[cause]  # fmt: skip
