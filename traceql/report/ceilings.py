"""What a report says of its own roofline: exceeded peaks, and Nsight Compute's counters beside the shapes."""

from __future__ import annotations

import polars as pl

from traceql.report.evidence import column
from traceql.report.model import Table
from traceql.report.names import shown
from traceql.roofline_evidence import counted, counter_reports, exceeded
from traceql.trace import Trace

_SENTENCES = 3
"""Exceeded peaks and disagreements told in words; the tables have all."""
_ROWS = 25

BOUNDS = {
    "compute": "compute-bound",
    "memory": "memory-bound",
    "latency": "latency-bound",
    "under": "under both ceilings",
    "unknown": "peaks unknown",
}
"""Class of a kernel → words."""


def sentences(trace: Trace) -> list[str]:
    """One for each exceeded peak and each disagreement between counters and shapes, the first few of each."""
    over = exceeded(trace)
    lines = [
        f"{shown(row['kernel'])}{_of_op(row['op'])} reaches {row['worst_pct_of_roof']:.0f} % of a peak"
        f"{_times(row['count'])}: {row['assumption']}."
        for row in over[:_SENTENCES]
    ]
    if len(over) > _SENTENCES:
        lines.append(f"{len(over) - _SENTENCES} more kernels exceed a peak; the table `roofline` has their notes.")
    return lines + _about_counters(trace)


def _of_op(op: str | None) -> str:
    return f" ({shown(op)})" if op else ""


def _times(count: int) -> str:
    return f", {count:,} times over 100 %" if count > 1 else ""


def _about_counters(trace: Trace) -> list[str]:
    reports = counter_reports(trace)
    if reports is None:
        return []
    rows = counted(trace)
    if not rows:
        return [f"No kernel of this timeline was profiled in {shown(reports)}: name and launch shape must agree."]
    hold = sum(bool(row["comparable"]) for row in rows)
    differing = [row for row in rows if row["agree"] is False]
    head = (
        f"Counters of {shown(reports)}: {len(rows)} kernels of this timeline were profiled, the durations agree for {hold} "
        f"of them; classes by shapes and by counters differ for {len(differing) or 'none'}."
    )
    told = [
        f"{shown(row['kernel'])} is {BOUNDS[row['bound_by_shapes']]} by its shapes, {BOUNDS[row['bound_by_counters']]} by "
        f"its counters{': ' + row['reason'] if row['reason'] else ''}."
        for row in differing[:_SENTENCES]
    ]
    return [head, *told]


def counter_table(trace: Trace) -> Table | None:
    """Every kernel of the timeline that was profiled too, with both classes; None without counters."""
    rows = counted(trace)
    if not rows:
        return None
    words: dict[str | None, str] = {None: "–"}
    words.update(BOUNDS)
    said = {True: "agree", False: "differ", None: "–"}
    kept = [
        row
        | {
            "by_shapes": words[row["bound_by_shapes"]],
            "by_counters": words[row["bound_by_counters"]],
            "classes": said[row["agree"]] + (f": {row['reason']}" if row["reason"] else ""),
        }
        for row in rows[:_ROWS]
    ]
    keys = [
        "kernel", "launch", "calls", "dur_ns", "ncu_dur_ns", "shape_bytes", "dram_bytes", "by_shapes", "by_counters",
        "classes",
    ]  # fmt: skip
    columns = [column(key, [row[key] for row in kept]) for key in keys]
    cells = tuple(zip(*(values for _, values in columns), strict=True))
    return Table("Kernels with counters", tuple(header for header, _ in columns), cells, len(rows) - len(kept))


def profiled_kernels(trace: Trace) -> pl.DataFrame:
    """Kernels placed under the roofline by their counters, with operations to place them by; one row a kernel name.

    On a timeline those without shapes only: a product with known shapes is drawn by them.
    """
    found = trace.table("roofline").filter((pl.col("source") == "ncu") & pl.col("flops").is_not_null())
    return (
        found.group_by("name", "dtype", maintain_order=True)
        .agg(
            pl.col("intensity", "achieved_tflops", "achieved_tb_per_s", "pct_of_roof").median(),
            pl.col("bound").mode().sort().first(), pl.col("device").first(), calls=pl.len(),
            total_ns=pl.col("dur_ns").sum(), median_ns=pl.col("dur_ns").median().cast(pl.Int64),
        )
        .sort(["total_ns", "name"], descending=[True, False])
    )  # fmt: skip
