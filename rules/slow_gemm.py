"""
## What it does
Finds matrix products that stay far below their own roof: the lower of the compute and the memory ceiling at their
intensity.

## Why it matters
GEMMs are most of a step's GPU time. One at 50 % of its roof takes twice as long as its bytes or its FLOPs need: a tile
that does not fit the shape, a split over K whose reduction costs more than it gains, too few tiles for the GPU. The
library chose a poor kernel for this shape; another batch size, another library or a tuned kernel may do better.

## How it is measured
Achieved FLOP/s over min(peak FLOP/s, intensity × peak bandwidth), from the operator's shapes and the time of all its
kernels; the median over the calls of a shape. A shape counts below `min-roof-pct`. The rule fires when such shapes are
together at least `min-gap-share-pct` of the GPU busy time of a kind of step above their roof.

60 % is what the well-tuned GEMMs of a Llama-3-8B reach and stay above on an H200: 61-83 % of the memory roof at batch
64, 65-73 % of the compute roof at 32,768 tokens. At batch 48 the attention output projection of the same model drops
to 51 % (14.0 µs, where batch 64 takes 11.8): cuBLAS splits it over K there and reduces in a second kernel. That gap is
4 % of the step; 1 % is left as the least worth a warning.

The saving is modelled: the time above what `min-roof-pct` of the roof would take, not above the roof, which no kernel
reaches. Where the host or another rank is slower than the GPU the step would not get shorter: nothing is saved, and the
finding is informational.

## Known problems
Launch and drain cost any kernel 2-3 µs: products whose roof is under 5 µs, as in tensor-parallel decode, cannot reach
60 %. In an aligned CUDA graph replay a kernel may start early and wait for the one before it (programmatic dependent
launch), which lengthens it: findings there are informational. Latency-bound products are TQL403's.

## How to fix
Pad or choose the batch size so that tiles fill the GPU; try another backend (cuBLASLt heuristics, CUTLASS, Triton with
autotuning, DeepGEMM); fuse neighbouring projections into one wider product.

## References
NVIDIA, "Matrix Multiplication Background User's Guide": tile and wave quantisation. docs/roofline.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from traceql.derived.fixes import kernel_time
from traceql.derived.gemm_tiles import tiling
from traceql.derived.roofline import device_match
from traceql.derived.step_kinds import StepKind, step_kinds
from traceql.finding import Finding, Severity
from traceql.roofline_evidence import conclusive, doubts, gemms_in_steps
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import duration, percent

_SITE = ["op", "m", "n", "k", "dtype", "b_dtype"]


class SlowGemm(Rule):
    code = "TQL402"
    name = "slow-gemm"
    summary = "Matrix products stay far below the roof of their own shape."
    severity = Severity.WARNING
    severity_if_worthless = Severity.INFO
    needs = ("gpu_rows", "launch_links", "shapes", "steps")

    @dataclass(frozen=True)
    class Options:
        min_roof_pct: float = option(60.0, "share of its roof below which a product is slow")
        min_gap_share_pct: float = option(1.0, "time above the roof of slow products, of the steps' GPU busy time")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        known = gemms_in_steps(trace, "pct_of_roof")
        yield from conclusive(trace, self._found(trace, known, options))

    def _found(self, trace: Trace, known: pl.DataFrame, options: Options) -> Iterator[Finding]:
        for kind in step_kinds(trace):
            own = kind.rows(trace, known)
            slow = _slow_sites(own, options.min_roof_pct)
            if not slow.is_empty() and kind.share_pct(int(slow["gap_ns"].sum())) >= options.min_gap_share_pct:
                yield self._finding(trace, kind, slow, own, options)

    def _finding(
        self, trace: Trace, kind: StepKind, slow: pl.DataFrame, gemm_rows: pl.DataFrame, options: Options
    ) -> Finding:
        top = slow.row(0, named=True)
        calls = gemm_rows.join(slow.head(1).select(_SITE), on=_SITE, how="semi", nulls_equal=True)
        worst = calls.sort("dur_ns", descending=True).row(0, named=True)
        match = device_match(trace, worst["device"])
        sms = match.gpu.sm_count if match.gpu else None
        rows = [_site_row(row, kind, sms) for row in slow.head(12).rows(named=True)]
        gap_us, share = kind.us_per_step(int(slow["gap_ns"].sum())), kind.share_pct(int(slow["gap_ns"].sum()))
        hint = f" ({rows[0]['hint']})" if rows[0]["hint"] else ""
        finding = self.finding(
            f"{_count(slow.height)} under {options.min_roof_pct:g} % of the roof in a {kind.label}, "
            f"{_shape(top)} at {top['pct_of_roof']:.0f} %{hint}: {duration(1000 * gap_us)} a step above the roof, "
            f"{percent(share)} of the GPU time.",
            key=(kind.name, f"{top['m']}x{top['n']}x{top['k']}"),
            subject=f"{top['op']} {_shape(top)}",
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["start_ns"] + worst["dur_ns"],
            fix=kernel_time(trace, _avoidable(gemm_rows, slow, options.min_roof_pct)),
            certainty="modelled",
            evidence={
                "above_roof_us_per_step": gap_us,
                "share_of_gpu_busy_pct": share,
                "steps": kind.steps,
                "gpu": match.gpu.name if match.gpu else None,
                "host_is_slower": kind.host_bound,
                "gemms": rows,
                **doubts(trace, slow["kernel_name"].to_list()),
            },
            advice=_advice(rows, kind),
        )
        only_aligned = slow["source"].eq("alignment").all()
        return replace(finding, severity=Severity.INFO) if only_aligned else finding


def _judged(rows: pl.DataFrame) -> pl.DataFrame:
    """The products that a roof says something about: not those too small to come near one."""
    return rows.filter(pl.col("pct_of_roof").is_not_null() & (pl.col("bound") != "latency"))


def _slow_sites(rows: pl.DataFrame, min_roof_pct: float) -> pl.DataFrame:
    """Slow shapes with ``gap_ns``, their time above the roof, largest first."""
    roof_ns = pl.col("dur_ns") * pl.col("pct_of_roof") / 100
    return (
        _judged(rows)
        .group_by(_SITE, maintain_order=True)
        .agg(
            pl.col("pct_of_roof", "dur_ns", "intensity").median(),
            pl.col("kernel_name", "source").mode().sort().first(),
            pl.col("kernels").median(),
            pl.col("ridge", "flops", "bytes").first(),
            calls=pl.len(),
            gap_ns=(pl.col("dur_ns") - roof_ns).sum().round().cast(pl.Int64),
        )
        .filter(pl.col("pct_of_roof") < min_roof_pct)
        .sort("gap_ns", "m", "n", "k", descending=[True, False, False, False])
    )


def _avoidable(rows: pl.DataFrame, slow: pl.DataFrame, min_roof_pct: float) -> pl.DataFrame:
    """kernel_id, saved_ns: what the products of slow shapes take beyond ``min_roof_pct`` of their roof."""
    above = pl.col("dur_ns") - pl.col("dur_ns") * pl.col("pct_of_roof") / min_roof_pct
    own = _judged(rows).join(slow.select(_SITE), on=_SITE, how="semi", nulls_equal=True)
    return own.select("kernel_id", saved_ns=above.clip(lower_bound=0).round().cast(pl.Int64)).drop_nulls()


def _site_row(row: dict[str, Any], kind: StepKind, sms: int | None) -> dict[str, Any]:
    tiles = tiling(row["kernel_name"], row["m"], row["n"], sms)
    reduced = row["kernels"] > 1
    split = f"split over K: {row['kernels']:.0f} kernels a product" if reduced else None
    return {
        "op": row["op"],
        "shape": _shape(row),
        "kernel": row["kernel_name"],
        "kernels_per_call": row["kernels"],
        "calls_per_step": row["calls"] / kind.steps,
        "us_each": row["dur_ns"] / 1000,
        "roof_us_each": row["dur_ns"] * row["pct_of_roof"] / 100 / 1000,
        "median_pct_of_roof": row["pct_of_roof"],
        "above_roof_us_per_step": kind.us_per_step(row["gap_ns"]),
        "intensity_flop_per_byte": row["intensity"],
        "ridge_flop_per_byte": row["ridge"],
        "achieved_tb_per_s": row["bytes"] / row["dur_ns"] / 1e3,
        "achieved_tflops": row["flops"] / row["dur_ns"] / 1e3,
        "tiles": tiles.tiles if tiles else None,
        "waves": tiles.waves if tiles else None,
        "tile_used_pct": tiles.used_pct if tiles else None,
        "hint": split or (tiles.hint if tiles else None),
        "source": row["source"],
    }


def _advice(rows: list[dict[str, Any]], kind: StepKind) -> list[str]:
    advice = ["Try the shape in another library or with autotuning: the kernel was chosen by a heuristic."]
    if any((row["hint"] or "").startswith("split") for row in rows):
        advice.append(
            "A product split over K pays for a second kernel; a neighbouring batch size may get another kernel."
        )
    if any(row["waves"] is not None and row["waves"] < 1 for row in rows):
        advice.append("Smaller tiles or a wider product (fused projections) give the idle SMs work.")
    if kind.host_bound:
        advice.append("The host is slower than the GPU here: the step gets shorter only once that is fixed.")
    return advice


def _shape(row: dict[str, Any]) -> str:
    types = row["dtype"] if row["dtype"] == row["b_dtype"] else f"{row['dtype']}·{row['b_dtype']}"
    return f"[{row['m']},{row['k']}]×[{row['k']},{row['n']}] {types}"


def _count(shapes: int) -> str:
    return "1 GEMM shape stays" if shapes == 1 else f"{shapes} GEMM shapes stay"
