"""
## What it does
Lists the matrix products of a step that run at the memory system's ceiling, with their shapes, FLOPs, bytes, intensity
and what they achieved.

## Why it matters
At decode batch sizes a GEMM reads each weight once for a handful of rows: below the ridge point more FLOP/s do not
help, only fewer bytes or more rows do. Knowing that a kernel is at its ceiling ends the search for a faster one.

## How it is measured
M, N, K and the type come from the operator's recorded shapes (or from an aligned eager trace); the time is that of all
its kernels, split-K reduction included. FLOPs = 2·M·N·K, bytes = both operands and the result once. Memory-bound means:
intensity under the device's ridge point **and** at least 40 % of its peak bandwidth. The rule fires when these GEMMs
together take at least `min-share-pct` of the step's GPU busy time.

## Known problems
Weights resident in L2 make a small GEMM look faster than DRAM allows. Graph replays and compiled regions have no
operators: without an aligned eager trace only the GEMMs outside them are listed.

## How to fix
Larger batches (more rows per weight read), quantised weights (fewer bytes), fusion of what surrounds the GEMM. For a
fixed model and batch the floor is weights over bandwidth.

## References
Williams, Waterman, Patterson: "Roofline: an insightful visual performance model", CACM 2009. Peaks: docs/hardware.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.gemms import gemms
from traceql.derived.roofline import device_match
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace

_SITE = ["op", "m", "n", "k", "dtype"]


class MemoryBoundGemm(Rule):
    code = "TQL401"
    name = "memory-bound-gemm"
    summary = "Matrix products at the memory bandwidth ceiling take a large part of the step."
    severity = Severity.INFO
    needs = ("gpu_rows", "launch_links", "shapes", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(5.0, "share of the steps' GPU busy time that memory-bound GEMMs must reach")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        known = gemms(trace).filter(pl.col("step_id").is_not_null())
        if known.is_empty():
            raise NotApplicableError(
                "no operator with GEMM shapes inside the steps; align with an eager trace to get them"
            )
        if known["bound"].is_null().all():
            match = device_match(trace, known["device"][0])
            raise NotApplicableError(f"the GPU's peaks are unknown: {match.note}")
        kinds = steps(trace).select("step_id", step_kind="kind", busy="gpu_busy_ns")
        for (kind,), group in known.join(kinds, on="step_id").group_by("step_kind", maintain_order=True):
            of_kind = kinds.filter(pl.col("step_kind").eq_missing(pl.lit(kind)))
            busy = int(of_kind["busy"].sum())
            bound = group.filter(pl.col("bound") == "memory")
            share = 100 * int(bound["dur_ns"].sum()) / busy if busy else 0.0
            if share >= options.min_share_pct:
                yield self._finding(trace, kind, bound, share, of_kind.height, busy)

    def _finding(self, trace: Trace, kind: object, bound: pl.DataFrame, share: float, count: int, busy: int) -> Finding:
        sites = (
            bound.group_by(_SITE)
            .agg(
                pl.len().alias("calls"),
                pl.col("dur_ns").sum().alias("total"),
                pl.col("flops", "bytes", "intensity", "ridge").first(),
                pct_of_roof=pl.col("pct_of_roof").median(),
                kernel=pl.col("kernel_name").mode().first(),
            )
            .sort("total", descending=True)
        )
        top = sites.row(0, named=True)
        gpu = device_match(trace, bound["device"][0]).gpu
        per_step = int(bound["dur_ns"].sum()) / count / 1000
        longest = bound.sort("dur_ns", descending=True).row(0, named=True)
        return self.finding(
            f"Memory-bound GEMMs take {share:.0f} % of the GPU time of a {kind or ''}{' ' if kind else ''}step "
            f"({per_step:,.0f} µs): {sites.height} shapes at {top['intensity']:.0f} FLOP/B or so, under the ridge of "
            f"{top['ridge']:.0f}{f' of {gpu.name}' if gpu else ''}.",
            key=(str(kind),),
            subject=f"{top['op']} [{top['m']},{top['k']}]×[{top['k']},{top['n']}]",
            step_id=longest["step_id"],
            start_ns=longest["start_ns"],
            end_ns=longest["start_ns"] + longest["dur_ns"],
            evidence={
                "memory_bound_gemm_us_per_step": per_step,
                "share_of_gpu_busy_pct": share,
                "gpu": gpu.name if gpu else None,
                "peak_bandwidth_tb_per_s": gpu.bandwidth_bytes_per_s / 1e12 if gpu else None,
                "gemms": [_site_row(row, count, busy) for row in sites.head(12).rows(named=True)],
            },
            advice=[
                "More rows per weight read: a larger batch costs little until the ridge point.",
                "Fewer bytes per weight: FP8 or INT4 weights cut the time nearly in proportion.",
                "The rest is at the hardware's ceiling; look elsewhere for time.",
            ],
        )


def _site_row(row: dict[str, float], steps: int, busy_ns: int) -> dict[str, object]:
    each = row["total"] / row["calls"]
    return {
        "op": row["op"],
        "shape": f"[{row['m']},{row['k']}]×[{row['k']},{row['n']}] {row['dtype']}",
        "kernel": row["kernel"],
        "calls_per_step": row["calls"] / steps,
        "us_each": each / 1000,
        "flops": row["flops"],
        "bytes": row["bytes"],
        "intensity_flop_per_byte": row["intensity"],
        "ridge_flop_per_byte": row["ridge"],
        "achieved_tb_per_s": row["bytes"] / each / 1e3,
        "achieved_tflops": row["flops"] / each / 1e3,
        "median_pct_of_roof": row["pct_of_roof"],
        "share_of_gpu_busy_pct": 100 * row["total"] / busy_ns,
    }
