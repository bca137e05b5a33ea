"""What the figures about ceilings say of themselves: peaks exceeded, and counters that disagree with shapes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import polars as pl

from traceql.counters import REPORTS
from traceql.derived.kernel_roofline import over_peak
from traceql.derived.ncu_join import launch_shape, ncu_matches
from traceql.kernel_names import short_name
from traceql.trace import Trace

_ROWS = 6


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
