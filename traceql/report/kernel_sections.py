"""What ran on the GPU and what did not: gaps by length, layers, kernel categories."""

from __future__ import annotations

from typing import Any

import polars as pl

from traceql.derived.layers import layers
from traceql.derived.opaque_replays import opaque_windows
from traceql.derived.step_costs import step_gap_parts
from traceql.report import causes, units
from traceql.report.evidence import column
from traceql.report.headline import StepCost, median_steps
from traceql.report.model import Bin, Breakdown, Cell, Histogram, Layer, Part, Place, Table
from traceql.report.names import shown
from traceql.trace import Trace

_BIN_EDGES_US = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000)
_MAX_KERNELS = 15


def representative(trace: Trace) -> StepCost | None:
    """The step that stands for the trace; None where it has no steps."""
    medians = median_steps(trace)
    return medians[0] if medians else None


# --- gaps ---------------------------------------------------------------------------------------------------------


def gap_histogram(trace: Trace) -> Histogram | None:
    """Idle time inside the steps by length of the whole gap, split by cause."""
    parts = step_gap_parts(trace)
    if parts.is_empty():
        return None
    edges = [edge * 1000 for edge in _BIN_EDGES_US]
    binned = parts.with_columns(bin=pl.sum_horizontal(*(pl.col("gap_ns") >= edge for edge in edges)).cast(pl.Int64))
    sums: dict[int, dict[str, int]] = {}
    for at, cause, ns in binned.group_by("bin", "cause").agg(pl.col("dur_ns").sum()).rows():
        sums.setdefault(at, {})[cause] = ns
    counts = dict(binned.group_by("bin").agg(pl.col("gap_id").n_unique()).rows())
    totals = {at: sum(by.values()) for at, by in sums.items()}
    fullest, everything = max(totals.values()), sum(totals.values())
    scale = units.scale("ns", [fullest])
    bins = range(min(totals), max(totals) + 1)
    by_cause = binned.group_by("cause").agg(pl.col("dur_ns").sum()).rows()
    return Histogram(
        bins=tuple(
            Bin(
                label=_bin_label(at),
                parts=causes.parts(sums.get(at, {}), fullest),
                total=Cell(units.number(totals.get(at, 0) / scale.factor), f"{totals.get(at, 0):,} ns"),
                gaps=units.count(counts.get(at, 0)),
            )
            for at in bins
        ),
        unit=scale.unit,
        causes=causes.parts(dict(by_cause), everything),
        total=units.ms(everything),
        partial=not opaque_windows(trace).is_empty(),
    )


def _bin_label(index: int) -> str:
    if index == 0:
        return f"< {_BIN_EDGES_US[0]} µs"
    low = _BIN_EDGES_US[index - 1]
    unit, size = ("ms", 1000) if low >= 1000 else ("µs", 1)
    if index == len(_BIN_EDGES_US):
        return f"≥ {low / size:g} {unit}"
    high = _BIN_EDGES_US[index]
    if high == 1000:
        unit, size = "ms", 1000
    return f"{low / size:g}–{high / size:g} {unit}"


# --- layers -------------------------------------------------------------------------------------------------------


def layer_strip(trace: Trace, index: int) -> tuple[tuple[Layer, ...], str]:
    """The layers of the representative step on its first device, and a line about them."""
    step = representative(trace)
    found = layers(trace)
    if step is None or found.is_empty():
        return (), ""
    rows = found.filter(pl.col("step_id") == step.step_id)
    rows = rows.filter(pl.col("device") == rows["device"].min())
    if rows.is_empty():
        return (), ""
    strip = tuple(_layer(row, index) for row in rows.rows(named=True))
    inside, longest = int(rows["dur_ns"].sum()), int(rows["kernels"].max())  # type: ignore[arg-type]
    slowest = rows.row(int(rows["dur_ns"].arg_max() or 0), named=True)
    note = (
        f"{rows.height} repeats of {longest} kernels in step {step.step_id}, {units.ms(inside)} of its "
        f"{units.ms(step.period_ns)}; a layer takes {units.ms(rows['dur_ns'].median())}, the longest ({slowest['layer']}) "  # type: ignore[arg-type]
        f"{units.ms(slowest['dur_ns'])}. What repeats is told from the kernel sequence."
    )
    return strip, note


def _layer(row: dict[str, Any], index: int) -> Layer:
    busy = f"{100 * row['gpu_busy_ns'] / row['dur_ns']:.0f} % busy" if row["dur_ns"] else ""
    text = f"layer {row['layer']}: {units.ms(row['dur_ns'])}, GPU busy {units.ms(row['gpu_busy_ns'])}, {busy}"
    place = Place(index, row["start_ns"], row["start_ns"] + row["dur_ns"])
    return Layer(str(row["layer"]), row["dur_ns"], row["gpu_busy_ns"], text, place)


# --- kernels ------------------------------------------------------------------------------------------------------


def categories(trace: Trace) -> Breakdown | None:
    """Kernel time by category in the representative step (in the whole trace where there are no steps)."""
    sums = (
        _kernels(trace)
        .group_by(pl.col("category").fill_null("other"))
        .agg(pl.col("dur_ns").sum(), pl.len())
        .sort(["dur_ns", "category"], descending=[True, False])
    )
    if sums.is_empty():
        return None
    total = max(int(sums["dur_ns"].sum()), 1)
    scale = units.scale("ns", sums["dur_ns"].to_list())
    parts = tuple(
        Part(units.spelled(category.split("_")), f"k-{category.replace('_', '-')}", ns, 100 * ns / total, units.number(ns / scale.factor),
             f"{ns:,} ns in {calls:,} kernels")
        for category, ns, calls in sums.rows()
    )  # fmt: skip
    return Breakdown(scale.unit, parts)


def kernel_table(trace: Trace) -> Table | None:
    """The kernels that take most time in the same scope."""
    kernels = _kernels(trace)
    if kernels.is_empty():
        return None
    total = int(kernels["dur_ns"].sum())
    summed = (
        kernels.group_by("short_name")
        .agg(
            pl.col("category").first(), calls=pl.len(), total_ns=pl.col("dur_ns").sum(),
            median_ns=pl.col("dur_ns").median().cast(pl.Int64), longest_ns=pl.col("dur_ns").max(),
        )
        .with_columns(share_pct=100 * pl.col("total_ns") / max(total, 1))
        .sort(["total_ns", "short_name"], descending=[True, False])
    )  # fmt: skip
    kept = summed.head(_MAX_KERNELS).rename({"short_name": "kernel"})
    keys = ["kernel", "category", "calls", "total_ns", "share_pct", "median_ns", "longest_ns"]
    return frame_table("Kernels", kept, keys, summed.height - kept.height)


def _kernels(trace: Trace) -> pl.DataFrame:
    """Kernels of the representative step; all of them where there is none, or where it holds none."""
    kernels = trace.table("kernels")
    step = representative(trace)
    inside = kernels.clear() if step is None else kernels.filter(pl.col("step_id") == step.step_id)
    return inside if inside.height else kernels


def kernels_scope(trace: Trace) -> str:
    """Which kernels the two tables are about."""
    step = representative(trace)
    if step is not None and trace.table("kernels").filter(pl.col("step_id") == step.step_id).height:
        return f"Kernels of step {step.step_id}, {shown(step.label)}; times are sums, streams may overlap."
    if trace.capabilities.graph_replays in ("opaque", "graph", "mixed"):
        return "All kernels with a row of their own; those inside the replays were not recorded."
    return "All kernels in the trace."


def frame_table(title: str, frame: pl.DataFrame, keys: list[str], dropped: int = 0) -> Table:
    """A frame as a table; the column names are keys with units."""
    columns = [column(key, frame[key].to_list()) for key in keys]
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Table(title, tuple(header for header, _ in columns), rows, dropped)
