"""Device idle time: every gap, split by what held up the work that ended it."""

from __future__ import annotations

import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.gap_host import host_parts
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.trace import Trace

_FAR = 2**62
"""Beyond any time of a trace, ns."""


@memoised
def _gaps(trace: Trace) -> pl.DataFrame:
    """One row a gap: place, neighbours, and the launch call of the work that ended it."""
    ops = gpu_ops(trace).filter(pl.col("device").is_not_null())
    reaches = pl.col("end_ns") == pl.col("end_ns").cum_max()
    first_of_launch = pl.col("gpu_op_id").min().over("launch_id") == pl.col("gpu_op_id")
    before = pl.when(reaches).then("gpu_op_id").forward_fill().shift(1).over("device", order_by=["start_ns", "end_ns"])
    with_before = ops.with_columns(before_op_id=before, first_of_launch=first_of_launch)
    found = intervals.idle(with_before, ["device"]).sort("device", "start_ns", maintain_order=True)
    calls = launches(trace).select(
        "launch_id", launch_name="name", launch_start="start_ns",
        launch_end=pl.col("start_ns") + pl.col("dur_ns"), launch_pid="pid", launch_tid="tid",
    )  # fmt: skip
    names = ops.select(before_op_id="gpu_op_id", before="name")
    return (
        found.select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("gap_id"),
            "rank", "device", "before_op_id", "launch_id", "launch_kind", "first_of_launch", "step_id",
            start_ns="gap_start_ns", dur_ns="gap_ns", end_ns="start_ns", after="name", after_op_id="gpu_op_id",
        )
        .join(names, on="before_op_id", how="left", maintain_order="left")
        .join(calls, on="launch_id", how="left", maintain_order="left")
        .pipe(_assigned_to_steps, ops)
    )  # fmt: skip


def _assigned_to_steps(gaps: pl.DataFrame, ops: pl.DataFrame) -> pl.DataFrame:
    """A gap belongs to the step of the work after it; between two steps, to the one that follows.

    Before a device's first step and after its last there is no step: warm-up and what follows is not a step's loss.
    """
    spans = (
        ops.filter(pl.col("step_id").is_not_null())
        .group_by("device", "step_id")
        .agg(first=pl.col("start_ns").min(), last=pl.col("end_ns").max())
        .sort("first")
    )
    if spans.is_empty():
        return gaps
    bounds = spans.group_by("device").agg(first_step=pl.col("first").min())
    following = (
        gaps.select("gap_id", "device", "end_ns")
        .sort("end_ns")
        .join_asof(
            spans.select("device", "first", next_step="step_id"),
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
    found = _gaps(trace)
    visible = _outside_opaque(found, opaque_windows(trace))
    hidden = _opaque_parts(found, opaque_windows(trace))
    whole = _whole_gap_cause()
    parts = [
        hidden,
        visible.with_columns(cause=whole).filter(pl.col("cause").is_not_null()).select(_PART),
        *host_parts(trace, visible.filter(whole.is_null())),
    ]
    order = ["gap_id", "start_ns"]
    return pl.concat(parts).filter(pl.col("end_ns") > pl.col("start_ns")).sort(order).pipe(_merged)


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


# --- replays that left no record --------------------------------------------------------------------------------


@memoised
def opaque_windows(trace: Trace) -> pl.DataFrame:
    """When a replay without device record may have run: device, start_ns, end_ns; disjoint, sorted.

    From its launch call to the end of the next synchronising call on that thread: the work is done by then. With no
    such call, to the end of the trace. The call does not say its device: every device of the process is meant.
    """
    calls = launches(trace)
    unrecorded = calls.filter((pl.col("kind") == "graph") & (pl.col("gpu_ops") == 0))
    if unrecorded.is_empty():
        return pl.DataFrame(schema={"device": pl.Int64, "start_ns": pl.Int64, "end_ns": pl.Int64})
    name = pl.col("name")
    waits = (
        trace.loaded["runtime_calls"]
        .filter(name.str.contains(api.SYNCHRONIZE) | (name.str.contains(api.MEMCPY) & ~name.str.contains("Async")))
        .select("pid", "tid", wait_start="start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"))
        .sort("wait_start")
    )
    devices = gpu_ops(trace).select("pid", "device").drop_nulls().unique()
    return (
        unrecorded.select("pid", "tid", "start_ns")
        .sort("start_ns")
        .join_asof(
            waits,
            left_on="start_ns",
            right_on="wait_start",
            by=["pid", "tid"],
            strategy="forward",
            check_sortedness=False,
        )
        .with_columns(pl.col("end_ns").fill_null(_FAR))
        .join(devices, on="pid")
        .sort("device", "start_ns")
        .with_columns(new=(pl.col("start_ns") > pl.col("end_ns").cum_max().shift(1).over("device")).fill_null(True))
        .with_columns(window=pl.col("new").cum_sum().over("device"))
        .group_by("device", "window", maintain_order=True)
        .agg(pl.col("start_ns").min(), pl.col("end_ns").max())
        .drop("window")
    )


def _overlaps(gaps: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """Each (gap, window) overlap as start_ns, end_ns with gap_id."""
    return (
        gaps.select("gap_id", "device", gap_start="start_ns", gap_end="end_ns")
        .join(windows, on="device")
        .filter((pl.col("start_ns") < pl.col("gap_end")) & (pl.col("end_ns") > pl.col("gap_start")))
        .select(
            "gap_id",
            start_ns=pl.max_horizontal("start_ns", "gap_start"),
            end_ns=pl.min_horizontal("end_ns", "gap_end"),
        )
        .sort("gap_id", "start_ns")
    )


def _opaque_parts(gaps: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    return _overlaps(gaps, windows).with_columns(cause=pl.lit("opaque replay")).select(_PART)


def _outside_opaque(gaps: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """The stretches of each gap outside the windows; a gap without any is one stretch. Keeps ``gap_start``."""
    plain = gaps.with_columns(gap_start="start_ns")
    if windows.is_empty():
        return plain
    hidden = _overlaps(gaps, windows)
    edges = pl.concat(
        [
            gaps.select("gap_id", start_ns="start_ns"),
            hidden.select("gap_id", start_ns="end_ns"),
        ]
    ).sort("gap_id", "start_ns")
    stops = pl.concat([hidden.select("gap_id", end_ns="start_ns"), gaps.select("gap_id", "end_ns")]).sort(
        "gap_id", "end_ns"
    )
    stretches = edges.with_columns(stops.get_column("end_ns")).filter(pl.col("end_ns") > pl.col("start_ns"))
    return stretches.join(plain.drop("start_ns", "end_ns"), on="gap_id", how="left", maintain_order="left")


def _merged(parts: pl.DataFrame) -> pl.DataFrame:
    """Neighbouring parts of one gap with the same cause, detail and blame as one."""
    key = ["gap_id", "cause", "detail", "blame"]
    run = pl.struct(key).rle_id()
    return (
        parts.with_columns(run=run)
        .group_by("run", maintain_order=True)
        .agg(pl.col(key).first(), pl.col("start_ns").min(), end_ns=pl.col("end_ns").max())
        .with_columns(dur_ns=pl.col("end_ns") - pl.col("start_ns"))
        .drop("run")
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
