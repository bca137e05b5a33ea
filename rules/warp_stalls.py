"""
## What it does
Names what the warps of a profiled kernel wait for, and what shortens that wait.

## Why it matters
A kernel that is at no ceiling waits. Nsight Compute counts for what: data from memory, a barrier, a full queue. Each
reason has another remedy.

## How it is measured
From the warp-state counters of a Nsight Compute report: the reason with the most warp cycles, as a share of all cycles
between two issued instructions of a warp. It counts from the reason's own threshold on, 30 % as in Nsight Compute's
warp-stall rule and 50 % for `wait`, which follows nearly every instruction (docs/nsight-compute.md lists them);
`threshold-factor` scales all. Left out are:

- reasons that are no fault by themselves (`not_selected`, `math_pipe_throttle`, `gmma`, `selected`);
- kernels whose schedulers issue in more than `max-issue-active-pct` of their cycles, 80 as in Nsight Compute's rule: the
  stalls are hidden;
- waits for memory of kernels at `min-ceiling-pct` of the memory throughput or more: at the ceiling a kernel has to wait.
  Nsight Compute calls a kernel latency-limited under 60 %;
- kernels with less than `min-share-pct` of the time: of the timeline's kernel time where the report was joined to one,
  else of the time of the profiled kernels.

## Known problems
Nsight Compute runs kernels alone with cold caches: waits for memory of kernels of a few µs are longer than in the
program. In warp-specialised kernels the producer warps wait by design.

## How to fix
The finding gives the remedy of its reason.

## References
Nsight Compute Profiling Guide, "Warp Stall Reasons": https://docs.nvidia.com/nsight-compute/ProfilingGuide/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived.ncu_join import launch_shape, weighted
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.stalls import StallAdvice, stall_advice
from traceql.trace import Trace


class WarpStalls(Rule):
    code = "TQL404"
    name = "warp-stalls"
    summary = "The warps of a profiled kernel spend most of their time in one kind of wait."
    severity = Severity.INFO
    needs = ("ncu",)

    @dataclass(frozen=True)
    class Options:
        threshold_factor: float = option(1.0, "scales every reason's own threshold")
        max_issue_active_pct: float = option(80.0, "busier schedulers hide their stalls")
        min_ceiling_pct: float = option(60.0, "memory throughput from which waiting for memory is expected")
        min_share_pct: float = option(5.0, "share of the time a kernel must have")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        kernels = weighted(trace)
        if kernels["top_stall"].null_count() == kernels.height:
            raise NotApplicableError(
                "the report has no warp-state counters; record them: ncu --set full, or --section WarpStateStats"
            )
        waiting = kernels.filter(
            pl.col("top_stall").is_not_null()
            & (pl.col("share_pct") >= options.min_share_pct)
            & (pl.col("issue_active_pct").fill_null(0) <= options.max_issue_active_pct)
        )
        for row in waiting.rows(named=True):
            advice = stall_advice(row["top_stall"]) or StallAdvice(row["top_stall"], "an unknown reason", "")
            if _counts(row, advice, options):
                yield self._finding(row, advice)

    def _finding(self, row: dict[str, Any], advice: StallAdvice) -> Finding:
        memory = row["memory_throughput_pct"]
        ceiling = "" if memory is None else f", at {memory:.0f} % of the memory throughput"
        return self.finding(
            f"Warps of {row['short_name']} spend {row['top_stall_pct']:.0f} % of their cycles in {advice.reason}, "
            f"{advice.means.split(' (')[0]}{ceiling}.",
            key=(row["short_name"], launch_shape(row), advice.reason),
            subject=row["short_name"],
            evidence={
                "stall": advice.reason,
                "stall_pct": row["top_stall_pct"],
                "threshold_pct": advice.threshold_pct,
                "cycles_per_issue_ratio": row["top_stall_ratio"],
                "issue_active_pct": row["issue_active_pct"],
                "sm_throughput_pct": row["sm_throughput_pct"],
                "memory_throughput_pct": memory,
                "achieved_occupancy_pct": row["achieved_occupancy_pct"],
                "bound": row["bound"],
                "launch": launch_shape(row),
                "ncu_us": row["dur_ns"] / 1000,
                "share_of_time_pct": row["share_pct"],
            },
            advice=[f"{advice.action[:1].upper()}{advice.action[1:]}."] if advice.action else [],
        )


def _counts(row: dict[str, Any], advice: StallAdvice, options: WarpStalls.Options) -> bool:
    if advice.harmless or row["top_stall_pct"] < advice.threshold_pct * options.threshold_factor:
        return False
    at_ceiling = (row["memory_throughput_pct"] or 0.0) >= options.min_ceiling_pct
    return not (advice.ceiling == "memory" and at_ceiling)
