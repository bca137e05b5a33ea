"""
## What it does
Finds kernels that reach neither ceiling of the GPU because they are small: fewer blocks than the GPU has SMs, or over
within 5 µs.

## Why it matters
Such a kernel's time is launch, first memory latency and drain. Calling it memory-bound sends people after bandwidth it
could never use: a gather of 1 MB in 10 µs moves 100 GB/s, 5 % of an A100's 2 TB/s, and halving its bytes changes
nothing. What helps is to have fewer of them, or more work in each.

## How it is measured
A kernel is latency-bound when it reaches less than 40 % of the peak bandwidth **and** of the peak FLOP/s, and has fewer
blocks than the GPU has SMs (under one wave at one block an SM) or takes less than 5 µs. Bytes come from the shapes of
its operator: a GEMM's operands, an elementwise operator's inputs and outputs; the same through an aligned eager run; or
from joined Nsight Compute counters, which class a small kernel only where even their cold-cache utilisation, moved into
the program's shorter duration, stays under 40 %. The rule fires when latency-bound kernels together take at least
`min-share-pct` of the GPU busy time of a kind of step. Kernels of which nothing is known are not judged: the finding
says what share of the GPU time was, and with less than `min-known-pct` of it the rule does not apply rather than pass.

The small kernels between the GEMMs of an 8B model's decode (norms, rotary embedding, cache writes) take 5 % of the GPU
time at batch 64 on an H200. Below that, fusing them is not where the time is.

## Known problems
Bytes by shapes are an upper bound of what crosses to DRAM, so a kernel fed from L2 may look closer to the ceiling than
it is. Kernels of Python extensions without an operator are not seen.

## How to fix
Fuse neighbours (norm with the GEMM's epilogue or the quantisation after it, rotary embedding with the cache write);
split the work over more blocks where one block loops over a row; programmatic dependent launch hides the launch.

## References
docs/roofline.md. NVIDIA, CUDA C++ Programming Guide, "Programmatic Dependent Launch".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived.latency_bound import classified_kernels
from traceql.derived.roofline import device_match
from traceql.derived.step_kinds import StepKind, step_kinds
from traceql.finding import Finding, Severity
from traceql.roofline_evidence import doubts
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import duration, percent


class LatencyBoundKernel(Rule):
    code = "TQL403"
    name = "latency-bound-kernel"
    summary = "Kernels too small to reach either ceiling take a visible part of the step."
    severity = Severity.INFO
    needs = ("gpu_rows", "launch_links", "shapes", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(5.0, "share of the steps' GPU busy time that latency-bound kernels must reach")
        min_known_pct: float = option(50.0, "share of that time with a known class, below which nothing is concluded")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        known = classified_kernels(trace)
        if known.is_empty():
            raise NotApplicableError(_nothing_known(trace))
        judged = 0
        for kind in step_kinds(trace):
            own = kind.rows(trace, known)
            small = own.filter(pl.col("bound") == "latency")
            fails = not small.is_empty() and kind.share_pct(int(small["dur_ns"].sum())) >= options.min_share_pct
            judged += fails or kind.share_pct(int(own["dur_ns"].sum())) >= options.min_known_pct
            if fails:
                yield self._finding(trace, kind, small, own)
        if not judged:
            share = 100 * int(known["dur_ns"].sum()) / max(sum(kind.busy_ns for kind in step_kinds(trace)), 1)
            raise NotApplicableError(
                f"only {share:.0f} % of the steps' GPU time belongs to kernels of known traffic; align with an eager "
                "trace, or join Nsight Compute's counters"
            )

    def _finding(self, trace: Trace, kind: StepKind, small: pl.DataFrame, known: pl.DataFrame) -> Finding:
        sites = (
            small.group_by("name", "op", "blocks", "sms", "source")
            .agg(
                pl.col("dur_ns").median(),
                pl.col("bandwidth_pct", "achieved_tb_per_s").median(),
                calls=pl.len(),
                total=pl.col("dur_ns").sum(),
            )
            .sort("total", "name", descending=[True, False])
        )
        top = sites.row(0, named=True)
        longest = small.filter(pl.col("name") == top["name"]).sort("dur_ns", descending=True).row(0, named=True)
        total_us, share = kind.us_per_step(int(small["dur_ns"].sum())), kind.share_pct(int(small["dur_ns"].sum()))
        reached = "" if top["bandwidth_pct"] is None else f" and reaches {top['bandwidth_pct']:.0f} % of the bandwidth"
        return self.finding(
            f"{_count(small.height / kind.steps)} {duration(1000 * total_us)} of a {kind.label}, {percent(share)} of its GPU "
            f"time; {top['name']} runs {top['calls'] / kind.steps:.3g}× for {duration(top['dur_ns'])}{_wave(top)}{reached}.",
            key=(kind.name, top["name"]),
            subject=top["name"],
            step_id=longest["step_id"],
            start_ns=longest["start_ns"],
            end_ns=longest["start_ns"] + longest["dur_ns"],
            evidence={
                "latency_bound_us_per_step": total_us,
                "share_of_gpu_busy_pct": share,
                "classified_share_of_gpu_busy_pct": kind.share_pct(int(known["dur_ns"].sum())),
                "sm_count": top["sms"],
                "steps": kind.steps,
                "kernels": [_site_row(row, kind) for row in sites.head(12).rows(named=True)],
                **doubts(trace, sites["name"].to_list()),
            },
            advice=[
                "Fuse them with their neighbours: less bandwidth or fewer FLOPs would not shorten them.",
                "Where one block loops over a row, split the row over blocks so that every SM has work.",
            ],
        )


def _count(kernels: float) -> str:
    return "1 latency-bound kernel takes" if round(kernels) == 1 else f"{kernels:,.0f} latency-bound kernels take"


def _wave(row: dict[str, Any]) -> str:
    if not row["sms"] or not row["blocks"] or row["blocks"] >= row["sms"]:
        return ""
    return f" with {row['blocks']} blocks for {row['sms']} SMs"


def _site_row(row: dict[str, Any], kind: StepKind) -> dict[str, Any]:
    return {
        "kernel": row["name"],
        "op": row["op"],
        "calls_per_step": row["calls"] / kind.steps,
        "us_each": row["dur_ns"] / 1000,
        "blocks": row["blocks"],
        "blocks_per_sm": row["blocks"] / row["sms"] if row["blocks"] and row["sms"] else None,
        "achieved_tb_per_s": row["achieved_tb_per_s"],
        "bandwidth_pct": row["bandwidth_pct"],
        "share_of_gpu_busy_pct": kind.share_pct(row["total"]),
        "source": row["source"],
    }


def _nothing_known(trace: Trace) -> str:
    match = device_match(trace, None)
    if match.gpu is None:
        return f"the GPU's peaks are unknown: {match.note}"
    return "no kernel inside the steps belongs to an operator of known traffic; align with an eager trace"
