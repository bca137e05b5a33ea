"""
## What it does
Finds device and pinned-host memory being allocated or freed within steps (cudaMalloc, cudaFree, cudaHostAlloc and
their driver and HIP kin), and names who does it.

## Why it matters
These calls take from tens of microseconds to milliseconds, and freeing waits for the GPU. A caching allocator makes
them once, while it warms up. When they go on in every few steps, memory is short or `empty_cache()` is called in
the loop.

## How it is measured
The host time of such calls that start in a step, over the period of all steps of that kind. The rule fires from
`min-share-pct`, when at least `min-steps-count` steps have some. Stream-ordered calls (cudaMallocAsync,
cudaFreeAsync) come from a pool and are left out. A single step that allocates much is step-outlier's (TQL108).

`min-share-pct` is 0.5: a server capture of 23 steps grew its pool once, 0.57 ms of 785 ms, 0.07 %, and is no
finding. `min-steps-count` is 2: a pool that grows once is warming up.

The saving is the step timed again without these calls.

## Known problems
A short profile right after start-up shows the warm-up of the allocator.

## How to fix
Leave `empty_cache()` out of the loop; reserve the memory at start-up (`--mem-fraction-static`, a larger pool);
`PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True` against fragmentation; allocate pinned buffers once and reuse
them.

## References
PyTorch documentation, "CUDA semantics: Memory management"; CUDA runtime API, cudaFree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.host_calls import allocations, callers, in_step_calls
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration, percent

_SITE = ["name", "caller"]


class AllocationInStep(Rule):
    code = "TQL701"
    name = "allocation-in-step"
    summary = "Memory is allocated or freed within the steps."
    severity = Severity.WARNING
    needs = ("host_calls", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(0.5, "share of the steps' time spent in allocating and freeing calls")
        min_steps_count: float = option(2, "steps of the kind with such a call")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        made = allocations(trace)["call_id"].implode()
        step = steps(trace).select("step_id", "kind", "period_ns")
        calls = in_step_calls(trace).filter(pl.col("call_id").is_in(made)).join(step, on="step_id")
        periods = step.group_by("kind").agg(period=pl.col("period_ns").sum(), steps=pl.len())
        kinds = (
            calls.group_by("kind")
            .agg(total=pl.col("dur_ns").sum(), affected=pl.col("step_id").n_unique())
            .join(periods, on="kind", nulls_equal=True)
            .with_columns(share_pct=100 * pl.col("total") / pl.col("period"))
            .filter(pl.col("share_pct") >= options.min_share_pct, pl.col("affected") >= options.min_steps_count)
            .sort(pl.col("total") * -1)
        )
        for kind in kinds.rows(named=True):
            yield self._finding(trace, kind, calls.filter(pl.col("kind").eq_missing(pl.lit(kind["kind"], pl.String))))

    def _finding(self, trace: Trace, kind: dict[str, int], calls: pl.DataFrame) -> Finding:
        named = calls.join(callers(trace).select("call_id", "caller"), on="call_id", how="left", maintain_order="left")
        sites = (
            named.group_by(_SITE)
            .agg(
                calls=pl.len(),
                total=pl.col("dur_ns").sum(),
                longest=pl.col("dur_ns").max(),
                steps=pl.col("step_id").n_unique(),
            )
            .sort(pl.col("total") * -1, *_SITE)
        )
        top = sites.row(0, named=True)
        worst = named.sort(pl.col("dur_ns") * -1, "start_ns").row(0, named=True)
        label = f"{kind['kind']} steps" if kind["kind"] else "steps"
        where = f" from {top['caller']}" if top["caller"] else ""
        return self.finding(
            f"{counted(calls.height, 'allocating or freeing call')} in {kind['affected']} of {kind['steps']} {label} "
            f"{'takes' if calls.height == 1 else 'take'} {duration(kind['total'] / kind['steps'])} a step "
            f"({percent(kind['share_pct'])}); most in {top['name']}{where}, {counted(top['calls'], 'call')}.",
            key=(kind["kind"], top["name"]),
            subject=top["caller"] or top["name"],
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["end_ns"],
            fix=Fix.host_time(calls),
            certainty="modelled",
            evidence={
                "calls": calls.height,
                "steps_with_calls": kind["affected"],
                "steps": kind["steps"],
                "call_us_per_step": kind["total"] / kind["steps"] / 1000,
                "share_of_period_pct": kind["share_pct"],
                "call_sites": [
                    {
                        "call": row["name"], "caller": row["caller"], "calls": row["calls"], "steps": row["steps"],
                        "total_us": row["total"] / 1000, "longest_us": row["longest"] / 1000,
                    }
                    for row in sites.head(8).rows(named=True)
                ],
            },
            advice=[
                "Take empty_cache() and first-time allocations out of the loop; reserve the memory before serving.",
                "If the pool is too small or fragmented, leave it more memory (SGLang: a lower --mem-fraction-static) or "
                "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.",
            ],
        )  # fmt: skip
