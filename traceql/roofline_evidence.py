"""What every finding about ceilings says of its own figures: peaks exceeded, and counters that disagree with shapes."""

from __future__ import annotations

from typing import Any

import polars as pl

from traceql.derived.kernel_roofline import over_peak
from traceql.derived.ncu_join import ncu_matches
from traceql.trace import Trace

_ROWS = 6


def doubts(trace: Trace) -> dict[str, Any]:
    """Evidence tables: ``over_peak`` names the assumption that broke, ``counters_disagree`` why; absent when empty."""
    exceeded = over_peak(trace).head(_ROWS)
    differing = ncu_matches(trace).filter(~pl.col("agree")).head(_ROWS)
    tables = {
        "over_peak": [
            {
                "kernel": row["name"],
                "op": row["op"],
                "count": row["count"],
                "worst_pct_of_roof": row["pct_of_roof"],
                "assumption": row["note"],
            }
            for row in exceeded.rows(named=True)
        ],
        "counters_disagree": [
            {
                "kernel": row["name"],
                "calls": row["calls"],
                "us_each": row["dur_ns"] / 1000,
                "ncu_us_each": row["ncu_dur_ns"] / 1000,
                "bound_by_shapes": row["bound_by_shapes"],
                "bound_by_counters": row["bound_by_counters"],
                "reason": row["reason"],
            }
            for row in differing.rows(named=True)
        ],
    }
    return {name: rows for name, rows in tables.items() if rows}
