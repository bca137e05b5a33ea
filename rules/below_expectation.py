"""
## What it does
Compares the utilisation of profiled kernels with what kernels of their kind usually reach.

## Why it matters
Whether 45 % of the memory throughput is good depends on the kernel: for a prefill GEMM it is what one expects, for
decode attention it is half of what is possible.

## How it is measured
A kernel's kind follows from its name (attention, GEMM, norm, embedding) and, for attention and GEMMs, from the side of
the ridge its intensity lies on: tensor operations over DRAM bytes, both counted. Names do not tell decode from prefill.
docs/nsight-compute.md shows the usual ranges; they are working figures taken on A100. There the compute
throughput, the tensor pipe and the memory throughput are each held against their range. On other GPUs the ratio of FLOP/s
to bandwidth is another, and only the unit that limits the kind is judged.

A finding is a kernel that stays more than `tolerance-pct` points below the range and has `min-share-pct` of the time (of
the timeline's kernel time where the report was joined to one, else of the profiled kernels). Above the range is no fault.
Latency-bound kernels are left out: their size, not their code, keeps them from the ceiling. Ranges are given in steps of
5 points, so less than that is no difference.

## Known problems
Kernels run alone at base clocks under Nsight Compute. Kinds without figures (mixture of experts, sampling) are not
judged, nor are kernels without DRAM and tensor counters (a details page has none).

## How to fix
Look at the kernel's other findings: what its warps wait for (TQL404), how it accesses memory (TQL406). For attention, try
another backend or another split of the keys.

## References
docs/roofline.md, docs/nsight-compute.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived.ncu_join import launch_shape, weighted
from traceql.derived.roofline import device_match
from traceql.expectations import Expectation, Unit, expectation, expectations
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace

_COLUMN: dict[Unit, str] = {
    "sm": "sm_throughput_pct",
    "tensor": "tensor_pipe_pct",
    "memory": "memory_throughput_pct",
}
_WORDS: dict[Unit, str] = {"sm": "compute throughput", "tensor": "tensor pipe", "memory": "memory throughput"}


class BelowExpectation(Rule):
    code = "TQL405"
    name = "below-expectation"
    summary = "A profiled kernel uses the GPU less than kernels of its kind usually do."
    severity = Severity.INFO
    needs = ("ncu",)

    @dataclass(frozen=True)
    class Options:
        tolerance_pct: float = option(5.0, "points below the usual range that still count as inside")
        min_share_pct: float = option(5.0, "share of the time a kernel must have")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        known = [(row, expected) for row in _kernels(trace) if (expected := expectation(row["category"], row["side"]))]
        if not known:
            raise NotApplicableError(_nothing_known(trace))
        match = device_match(trace, None)
        gpu = match.gpu.name if match.gpu else None
        for row, expected in known:
            low = _below(row, expected, expected.holds_on(gpu), options.tolerance_pct)
            if low and row["share_pct"] >= options.min_share_pct:
                yield self._finding(row, expected, low, gpu)

    def _finding(self, row: dict[str, Any], expected: Expectation, low: list[Unit], gpu: str | None) -> Finding:
        unit = expected.limit if expected.limit in low else low[0]
        measured, band = row[_COLUMN[unit]], expected.bands()[unit]
        elsewhere = "" if expected.holds_on(gpu) else f" on {expected.gpu}"
        return self.finding(
            f"{row['short_name']} ({expected.kernel_class}) reaches {measured:.0f} % of the {_WORDS[unit]}, where "
            f"{band[0]:g}-{band[1]:g} % is usual{elsewhere}.",
            key=(row["short_name"], launch_shape(row), *low),
            subject=row["short_name"],
            evidence={
                "kernel_class": expected.kernel_class,
                "gpu": gpu,
                "expected_on": expected.gpu,
                "units": [_unit_row(row, expected, name, low) for name in _COLUMN if row[_COLUMN[name]] is not None],
                "intensity_flop_per_byte": row["intensity"],
                "launch": launch_shape(row),
                "ncu_us": row["dur_ns"] / 1000,
                "share_of_time_pct": row["share_pct"],
            },
            advice=[
                "See what its warps wait for (TQL404) and how it accesses memory (TQL406).",
                "Another backend or another launch configuration of the same operator may reach the usual range.",
            ],
        )


def _nothing_known(trace: Trace) -> str:
    kinds = {e.category for e in expectations()}
    counted = ("sm_throughput_pct", "memory_throughput_pct", "dram_bytes", "tensor_flops")
    rows = weighted(trace).filter(pl.col("category").is_in(kinds))
    if not rows.is_empty() and any(rows[name].null_count() == rows.height for name in counted):
        return "the report has no throughput, DRAM or tensor counters to judge by; record them: ncu --set full"
    return "no profiled kernel is of a kind with known usual utilisation, or those are latency-bound"


def _kernels(trace: Trace) -> list[dict[str, Any]]:
    """Profiled kernels that are big enough to be judged."""
    rows = weighted(trace).filter(pl.col("bound").is_not_null() & (pl.col("bound") != "latency"))
    return rows.rows(named=True)


def _below(row: dict[str, Any], expected: Expectation, here: bool, tolerance: float) -> list[Unit]:
    """Units under their range; away from the GPU of the figures only the one that limits the kind."""
    bands = expected.bands()
    judged: list[Unit] = [unit for unit in bands if here or unit == expected.limit]
    return [unit for unit in judged if (value := row[_COLUMN[unit]]) is not None and value < bands[unit][0] - tolerance]


def _unit_row(row: dict[str, Any], expected: Expectation, unit: Unit, low: list[Unit]) -> dict[str, Any]:
    band = expected.bands().get(unit)
    return {
        "unit": _WORDS[unit],
        "measured_pct": row[_COLUMN[unit]],
        "usual_low_pct": band[0] if band else None,
        "usual_high_pct": band[1] if band else None,
        "below": unit in low,
    }
