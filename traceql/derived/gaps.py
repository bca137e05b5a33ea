"""Device idle time: every gap, split by what held up the work that ended it."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gap_host import host_parts, runs
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.derived.opaque_replays import NAME, opaque_windows
from traceql.trace import Trace


@memoised
def _gaps(trace: Trace) -> pl.DataFrame:
    """One row a gap: place, neighbours, and the launch call of the work that ended it."""
    work = not_idle(trace)
    reaches = pl.col("end_ns") == pl.col("end_ns").cum_max()
    first_of_launch = pl.col("gpu_op_id").min().over("launch_id") == pl.col("gpu_op_id")
    neighbour = pl.when(reaches).then(pl.struct(before_op_id="gpu_op_id", before="name"))
    before = neighbour.forward_fill().shift(1).over("device", order_by=["start_ns", "end_ns"])
    with_before = work.with_columns(before.alias("neighbour"), first_of_launch=first_of_launch)
    found = intervals.idle(with_before, ["device"]).sort("device", "start_ns", maintain_order=True)
    calls = launches(trace).select(
        "launch_id", launch_name="name", launch_start="start_ns",
        launch_end=pl.col("start_ns") + pl.col("dur_ns"), launch_pid="pid", launch_tid="tid",
    )  # fmt: skip
    return (
        found.select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("gap_id"),
            "rank", "device", "launch_id", "launch_kind", "first_of_launch", "step_id",
            pl.col("neighbour").struct.unnest(),
            start_ns="gap_start_ns", dur_ns="gap_ns", end_ns="start_ns", after="name", after_op_id="gpu_op_id",
        )
        .join(calls, on="launch_id", how="left", maintain_order="left")
        .pipe(_assigned_to_steps, work)
    )  # fmt: skip


def not_idle(trace: Trace) -> pl.DataFrame:
    """All between which a device is idle: its GPU work, and windows in which a replay without record may have run.

    A window is cut to the end of the recorded work: nothing shows that the device was idle after that.
    """
    columns = [
        "gpu_op_id", "rank", "device", "name", "launch_id", "launch_kind", "step_id", "start_ns", "end_ns",
    ]  # fmt: skip
    ops = gpu_ops(trace).filter(pl.col("device").is_not_null()).select(columns)
    windows = opaque_windows(trace)
    if windows.is_empty():
        return ops
    recorded = ops.group_by("device").agg(first=pl.col("start_ns").min(), last=pl.col("end_ns").max())
    hidden = (
        windows.join(recorded, on="device")
        .with_columns(pl.max_horizontal("start_ns", "first"), pl.min_horizontal("end_ns", "last"))
        .filter(pl.col("end_ns") > pl.col("start_ns"))
        .with_columns(name=pl.lit(NAME), launch_kind=pl.lit("graph"))
    )
    return pl.concat([ops, hidden.drop("first", "last")], how="diagonal_relaxed").sort(
        "start_ns", "end_ns", maintain_order=True
    )


def _assigned_to_steps(gaps: pl.DataFrame, ops: pl.DataFrame) -> pl.DataFrame:
    """A gap belongs to the step of the work after it; where that has none, to the step of the next work that has one.

    Before a device's first step and after its last there is no step: warm-up and what follows is not a step's loss.
    """
    work = (
        ops.filter(pl.col("step_id").is_not_null())
        .select("device", first="start_ns", next_step="step_id")
        .sort("first")
    )
    if work.is_empty():
        return gaps
    bounds = work.group_by("device").agg(first_step=pl.col("first").min())
    following = (
        gaps.select("gap_id", "device", "end_ns")
        .sort("end_ns")
        .join_asof(
            work,
            left_on="end_ns", right_on="first", by="device", strategy="forward", check_sortedness=False,
        )
        .join(bounds, on="device", how="left")
        .select("gap_id", "next_step", "first_step")
    )  # fmt: skip
    between = pl.col("start_ns") >= pl.col("first_step")
    return (
        gaps.join(following, on="gap_id", how="left", maintain_order="left")
        .with_columns(step_id=pl.when(between).then(pl.coalesce("step_id", "next_step")))
        .drop("next_step", "first_step")
    )


@memoised
def gap_parts(trace: Trace) -> pl.DataFrame:
    """The contract's ``gap_parts``: each gap cut by cause, in order of time; parts of a gap add up to it exactly."""
    found = _gaps(trace).with_columns(gap_start="start_ns")
    whole = _whole_gap_cause()
    parts = [
        found.with_columns(cause=whole).filter(pl.col("cause").is_not_null()).select(_PART),
        *host_parts(trace, found.filter(whole.is_null())),
    ]
    lasting = pl.concat(part.filter(pl.col("end_ns") > pl.col("start_ns")) for part in parts)
    in_order = lasting.sort("gap_id", maintain_order=True)  # each of them is, and the launch latency comes last
    merged = runs(in_order, ["gap_id", "cause", "detail", "blame"])
    return merged.with_columns(dur_ns=pl.col("end_ns") - pl.col("start_ns"))


_PART = [
    pl.col("gap_id"), pl.col("cause"), pl.lit(None, pl.String).alias("detail"), pl.col("start_ns"), pl.col("end_ns"),
    pl.lit(None, pl.String).alias("blame"),
]  # fmt: skip


def _whole_gap_cause() -> pl.Expr:
    """The causes that take a whole gap; null for the gaps that the host's doings split."""
    return (
        pl.when(pl.col("launch_start").is_null())
        .then(pl.lit("unknown"))
        .when((pl.col("launch_kind") == "graph") & ~pl.col("first_of_launch"))
        .then(pl.lit("in-graph"))
        .when(pl.col("launch_end") <= pl.col("gap_start"))
        .then(pl.lit("device latency"))
    )


@memoised
def gaps(trace: Trace) -> pl.DataFrame:
    """The contract's ``gaps``, with the dominant cause and its blame."""
    by_cause = (
        gap_parts(trace)
        .group_by("gap_id", "cause", maintain_order=True)
        .agg(total=pl.col("dur_ns").sum(), blame=pl.col("blame").drop_nulls().first())
        .sort("gap_id", pl.col("total") * -1, maintain_order=True)
        .unique("gap_id", keep="first", maintain_order=True)
    )
    return _gaps(trace).join(
        by_cause.select("gap_id", "cause", "blame"), on="gap_id", how="left", maintain_order="left"
    )
