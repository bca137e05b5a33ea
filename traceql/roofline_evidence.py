"""What the figures about ceilings say of themselves: whether they are known, peaks exceeded, counters that disagree."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import polars as pl

from traceql.counters import REPORTS
from traceql.derived.gemms import gemms
from traceql.derived.kernel_roofline import over_peak, unknown_gemms
from traceql.derived.ncu_join import launch_shape, ncu_matches
from traceql.derived.roofline import device_match
from traceql.finding import Finding
from traceql.kernel_names import short_name
from traceql.rule import NotApplicableError
from traceql.trace import Trace

_ROWS = 6

_ENOUGH_PCT = 50.0
"""Share of the GEMM time with shapes, under which finding nothing means nothing."""


def gemms_in_steps(trace: Trace, figure: str) -> pl.DataFrame:
    """The matrix products of the steps; NotApplicableError when there is none or ``figure`` (a column) is known of none."""
    known = gemms(trace).filter(pl.col("step_id").is_not_null())
    if known.is_empty():
        raise NotApplicableError("no operator with GEMM shapes inside the steps; align with an eager trace to get them")
    if known[figure].is_null().all():
        match = device_match(trace, known["device"][0])
        raise NotApplicableError(f"the GPU's peaks are unknown: {match.note}")
    return known


def conclusive(trace: Trace, findings: Iterable[Finding]) -> Iterator[Finding]:
    """``findings`` about matrix products; NotApplicableError when there is none and too few products have shapes."""
    found = list(findings)
    if not found and (reason := unknown_gemms(trace, _ENOUGH_PCT)):
        raise NotApplicableError(reason)
    yield from found


def doubts(trace: Trace, kernels: Collection[str]) -> dict[str, Any]:
    """Evidence tables about ``kernels`` (names of any form): ``over_peak`` names the assumption that broke,
    ``counters_disagree`` why the classes differ; absent when empty."""
    names = {short_name(kernel) for kernel in kernels}
    tables = {
        "over_peak": [row for row in exceeded(trace) if row["kernel"] in names],
        "counters_disagree": [
            {
                "kernel": row["kernel"],
                "calls": row["calls"],
                "us_each": row["dur_ns"] / 1000,
                "ncu_us_each": row["ncu_dur_ns"] / 1000,
                "bound_by_shapes": row["bound_by_shapes"],
                "bound_by_counters": row["bound_by_counters"],
                "reason": row["reason"],
            }
            for row in counted(trace)
            if row["agree"] is False and row["kernel"] in names
        ],
    }
    return {name: rows[:_ROWS] for name, rows in tables.items() if rows}


def exceeded(trace: Trace) -> list[dict[str, Any]]:
    """Kernels over a peak, worst first: kernel, op, count, worst_pct_of_roof and the assumption that broke."""
    return [
        {
            "kernel": row["name"],
            "op": row["op"],
            "count": row["count"],
            "worst_pct_of_roof": row["pct_of_roof"],
            "assumption": row["note"],
        }
        for row in over_peak(trace).rows(named=True)
    ]


def counted(trace: Trace) -> list[dict[str, Any]]:
    """The kernels of a timeline that Nsight Compute measured too, most time first, as the reports show them."""
    columns = (
        "calls", "dur_ns", "ncu_dur_ns", "comparable", "shape_bytes", "dram_bytes", "bound_by_shapes",
        "bound_by_counters", "agree", "reason",
    )  # fmt: skip
    return [
        {"kernel": row["name"], "launch": launch_shape(row)} | {name: row[name] for name in columns}
        for row in ncu_matches(trace).rows(named=True)
    ]


def counter_reports(trace: Trace) -> str | None:
    """File names of the reports whose counters a timeline carries; None where it has none."""
    named = trace.loaded["metadata"].filter(pl.col("key") == REPORTS)["value"]
    return named[0] if len(named) else None
