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
together take at least `min-share-pct` of the step's GPU busy time. Beside it stands the floor: the weights that the
step's products read, each once, over the peak bandwidth; no step can be shorter (`step_floor` has it with keys and
values where their lengths are known).

A product over 100 % of a peak is listed with the assumption that broke: bytes from L2, structured sparsity, clocks.
Where Nsight Compute's counters were joined and class a kernel differently, both classes are shown.

`min-share-pct` is 5: these products are 68 % of the GPU time of an 8B-parameter model's decode at batch 64; under a
twentieth a better ceiling is hardly felt.

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
from typing import Any

import polars as pl

from traceql.derived.roofline import device_match
from traceql.derived.step_floor import step_floor
from traceql.derived.step_kinds import StepKind, step_kinds
from traceql.finding import Finding, Severity
from traceql.roofline_evidence import conclusive, doubts, gemms_in_steps
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration, percent

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
        known = gemms_in_steps(trace, "bound")
        yield from conclusive(trace, self._found(trace, known, options))

    def _found(self, trace: Trace, known: pl.DataFrame, options: Options) -> Iterator[Finding]:
        for kind in step_kinds(trace):
            bound = kind.rows(trace, known).filter(pl.col("bound") == "memory")
            if not bound.is_empty() and kind.share_pct(int(bound["dur_ns"].sum())) >= options.min_share_pct:
                yield self._finding(trace, kind, bound)

    def _finding(self, trace: Trace, kind: StepKind, bound: pl.DataFrame) -> Finding:
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
        per_step, share = kind.us_per_step(int(bound["dur_ns"].sum())), kind.share_pct(int(bound["dur_ns"].sum()))
        longest = bound.sort("dur_ns", descending=True).row(0, named=True)
        floor = _floor(trace, kind.name)
        least = f"; reading the weights once takes {duration(1000 * floor['floor_us_per_step'])}" if floor else ""
        costliest = "the costliest " if sites.height > 1 else ""
        return self.finding(
            f"Memory-bound GEMMs take {percent(share)} of the GPU time of a {kind.label} ({duration(1000 * per_step)}): "
            f"{counted(sites.height, 'shape')}, {costliest}at {top['intensity']:.0f} FLOP/B, under the ridge of "
            f"{top['ridge']:.0f}{f' of {gpu.name}' if gpu else ''}{least}.",
            key=(str(kind.name),),
            subject=f"{top['op']} [{top['m']},{top['k']}]×[{top['k']},{top['n']}]",
            step_id=longest["step_id"],
            start_ns=longest["start_ns"],
            end_ns=longest["start_ns"] + longest["dur_ns"],
            evidence={
                "memory_bound_gemm_us_per_step": per_step,
                "share_of_gpu_busy_pct": share,
                "gpu": gpu.name if gpu else None,
                "peak_bandwidth_tb_per_s": gpu.bandwidth_bytes_per_s / 1e12 if gpu else None,
                **floor,
                "gemms": [_site_row(row, kind) for row in sites.head(12).rows(named=True)],
                **doubts(trace, bound["kernel_name"].unique().to_list()),
            },
            advice=[
                "More rows per weight read: a larger batch costs little until the ridge point.",
                "Fewer bytes per weight: FP8 or INT4 weights cut the time nearly in proportion.",
                "The rest is at the hardware's ceiling; look elsewhere for time.",
            ],
        )


def _floor(trace: Trace, kind: str | None) -> dict[str, Any]:
    """The floor of the commonest batch size of this kind of step, beside what was measured; empty when unknown."""
    rows = step_floor(trace).filter(
        pl.col("kind").eq_missing(pl.lit(kind, pl.String)) & pl.col("floor_ns").is_not_null()
    )
    if rows.is_empty():
        return {}
    row = rows.row(0, named=True)
    return {
        "weight_bytes_per_step": row["weight_bytes"],
        "floor_us_per_step": row["weight_bytes"] / row["bandwidth_bytes_per_s"] * 1e6,
        "gpu_busy_us_per_step": None if row["gpu_busy_ns"] is None else row["gpu_busy_ns"] / 1000,
        "period_us_per_step": row["period_ns"] / 1000,
        "floor_note": row["note"],
    }


def _site_row(row: dict[str, float], kind: StepKind) -> dict[str, object]:
    each = row["total"] / row["calls"]
    return {
        "op": row["op"],
        "shape": f"[{row['m']},{row['k']}]×[{row['k']},{row['n']}] {row['dtype']}",
        "kernel": row["kernel"],
        "calls_per_step": row["calls"] / kind.steps,
        "us_each": each / 1000,
        "flops": row["flops"],
        "bytes": row["bytes"],
        "intensity_flop_per_byte": row["intensity"],
        "ridge_flop_per_byte": row["ridge"],
        "achieved_tb_per_s": row["bytes"] / each / 1e3,
        "achieved_tflops": row["flops"] / each / 1e3,
        "median_pct_of_roof": row["pct_of_roof"],
        "share_of_gpu_busy_pct": kind.share_pct(round(row["total"])),
    }
