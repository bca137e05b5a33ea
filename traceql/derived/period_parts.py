"""A step's period cut into what its device did: every nanosecond in exactly one part, so that parts add up to it."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.gaps import gap_parts, gaps
from traceql.derived.gpu_ops import gpu_ops, kernels
from traceql.derived.roles import kernel_roles
from traceql.derived.steps import steps
from traceql.trace import Trace

SCHEMA = {"what": pl.String, "role": pl.String, "name": pl.String, "count": pl.Int64, "ns": pl.Int64}

OUTSIDE = "outside the recording"
"""Cause of idle time before the device's first operation and after its last: no gap ends or begins there."""


@memoised
def period_parts(trace: Trace, step_id: int) -> pl.DataFrame:
    """what, role, name, count, ns: the device's time from the step's start to the next one's, by role and name.

    ``what`` is *gpu* (role: the kernel's place in the block or its category, memcpy, memset or graph replay), *idle*
    (role: the cause, name: what is to blame) or *unrecorded* (a replay that left no device record may have run). Where operations overlap, the time is the one's that started first.
    ``count`` is operations or gaps that start in the period. The device is the one with most of the step's work.
    """
    step = steps(trace).filter(pl.col("step_id") == step_id).row(0, named=True)
    begin, period = step["start_ns"], step["period_ns"]
    device = main_device(trace, step_id)
    if device is None or not period:
        return pl.DataFrame(schema=SCHEMA)
    work = _work(trace, device, begin, begin + period)
    idle = _idle(trace, device, begin, begin + period)
    rest = period - int(work["ns"].sum()) - int(idle["ns"].sum())
    outside = pl.DataFrame([("idle", OUTSIDE, None, 1, rest)] if rest else [], schema=SCHEMA, orient="row")
    return pl.concat([work, idle, outside])


def main_device(trace: Trace, step_id: int) -> int | None:
    """The device with most of the step's work; None when it has none."""
    totals = (
        gpu_ops(trace)
        .filter((pl.col("step_id") == step_id) & pl.col("device").is_not_null())
        .group_by("device")
        .agg(pl.col("dur_ns").sum())
        .sort("dur_ns", "device")
    )
    return None if totals.is_empty() else int(totals["device"][-1])


def _within(rows: pl.DataFrame, begin: int, end: int) -> pl.DataFrame:
    """Rows that reach into [begin, end), cut to it, with ``starts``: whether they start there."""
    return rows.filter((pl.col("end_ns") > begin) & (pl.col("start_ns") < end)).with_columns(
        starts=pl.col("start_ns") >= begin,
        start_ns=pl.col("start_ns").clip(lower_bound=begin),
        end_ns=pl.col("end_ns").clip(upper_bound=end),
    )


def _work(trace: Trace, device: int, begin: int, end: int) -> pl.DataFrame:
    known = (
        kernels(trace)
        .select("kernel_id", "category")
        .join(kernel_roles(trace).select("kernel_id", "role"), on="kernel_id", how="left", maintain_order="left")
        .select(source_id="kernel_id", kernel_role=pl.coalesce("role", "category", pl.lit("other")))
    )
    reach = pl.col("end_ns").cum_max().shift(1).fill_null(begin)
    is_kernel = pl.col("kind") == "kernel"
    return (
        _within(gpu_ops(trace).filter(pl.col("device") == device), begin, end)
        .sort("start_ns", "end_ns", "gpu_op_id")
        .with_columns(ns=(pl.col("end_ns") - pl.max_horizontal("start_ns", reach)).clip(lower_bound=0))
        .join(known, on="source_id", how="left", maintain_order="left")
        .with_columns(
            what=pl.lit("gpu"),
            role=pl.when(is_kernel)
            .then("kernel_role")
            .when(pl.col("kind") == "graph")
            .then(pl.lit("graph replay"))
            .otherwise("kind"),
        )
        .pipe(_summed)
    )


def _idle(trace: Trace, device: int, begin: int, end: int) -> pl.DataFrame:
    place = gaps(trace).select("gap_id", "device")
    parts = gap_parts(trace).join(place, on="gap_id", how="left", maintain_order="left")
    return (
        _within(parts.filter(pl.col("device") == device), begin, end)
        .with_columns(
            what=pl.when(pl.col("cause") == "opaque replay").then(pl.lit("unrecorded")).otherwise(pl.lit("idle")),
            role="cause",
            name="blame",
            ns=pl.col("end_ns") - pl.col("start_ns"),
        )
        .pipe(_summed)
    )


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.group_by("what", "role", "name")
        .agg(count=pl.col("starts").sum().cast(pl.Int64), ns=pl.col("ns").sum().cast(pl.Int64))
        .sort(pl.col("ns") * -1, "role", "name")
        .select(list(SCHEMA))
    )
