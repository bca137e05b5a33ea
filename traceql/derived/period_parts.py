"""A step's period cut into what its device did: every nanosecond in exactly one part, so that parts add up to it."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gaps import gap_parts, gaps
from traceql.derived.gpu_ops import gpu_ops, kernels
from traceql.derived.opaque_replays import opaque_windows
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
    ``count`` is operations, and gaps of which such a part starts in the period. The device is the one that stands for the
    step.
    """
    return _parts(trace, step_id, ["what", "role", "name"])


@memoised
def period_roles(trace: Trace, step_id: int) -> pl.DataFrame:
    """``period_parts`` by role alone: what, role, count, ns. A gap with several to blame counts once."""
    return _parts(trace, step_id, ["what", "role"])


def _parts(trace: Trace, step_id: int, keys: list[str]) -> pl.DataFrame:
    schema = {name: dtype for name, dtype in SCHEMA.items() if name in (*keys, "count", "ns")}
    step = steps(trace).filter(pl.col("step_id") == step_id).row(0, named=True)
    begin, period = step["start_ns"], step["period_ns"]
    device = main_device(trace, step_id)
    if device is None or not period:
        return pl.DataFrame(schema=schema)
    work = _summed(_work_rows(trace, device, begin, begin + period), keys, "gpu_op_id")
    idle = _summed(_idle_rows(trace, device, begin, begin + period), keys, "gap_id")
    hidden = _summed(_hidden_rows(trace, device, begin, begin + period), keys, "launch_id")
    rest = period - sum(int(part["ns"].sum()) for part in (work, idle, hidden))
    row = {"what": "idle", "role": OUTSIDE, "name": None, "count": 1, "ns": rest}
    outside = pl.DataFrame([{name: row[name] for name in schema}] if rest else [], schema=schema)
    return pl.concat([work, idle, hidden, outside])


def longest_instance(trace: Trace, step_id: int, what: str, role: str, name: str | None) -> tuple[int, int] | None:
    """Start and end in ns of the longest operation or gap that a part of ``period_parts`` is made of."""
    step = steps(trace).filter(pl.col("step_id") == step_id).row(0, named=True)
    device = main_device(trace, step_id)
    if device is None or not step["period_ns"]:
        return None
    cut = _work_rows if what == "gpu" else _idle_rows
    rows = cut(trace, device, step["start_ns"], step["start_ns"] + step["period_ns"])
    own = rows.filter((pl.col("what") == what) & (pl.col("role") == role) & pl.col("name").eq_missing(pl.lit(name)))
    if own.is_empty():
        return None
    longest = own.sort(pl.col("ns") * -1, "start_ns").row(0, named=True)
    return longest["start_ns"], longest["end_ns"]


def main_device(trace: Trace, step_id: int) -> int | None:
    """The device that stands for the step; None when it has no GPU work."""
    device: int | None = steps(trace).filter(pl.col("step_id") == step_id)["device"][0]
    return device


def _within(rows: pl.DataFrame, begin: int, end: int) -> pl.DataFrame:
    """Rows that reach into [begin, end), cut to it, with ``starts``: whether they start there."""
    return rows.filter((pl.col("end_ns") > begin) & (pl.col("start_ns") < end)).with_columns(
        starts=pl.col("start_ns") >= begin,
        start_ns=pl.col("start_ns").clip(lower_bound=begin),
        end_ns=pl.col("end_ns").clip(upper_bound=end),
    )


def _work_rows(trace: Trace, device: int, begin: int, end: int) -> pl.DataFrame:
    """Operations of the period, cut to it: what, role, name, starts, start_ns, end_ns, ns (of its own)."""
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
    )


def _idle_rows(trace: Trace, device: int, begin: int, end: int) -> pl.DataFrame:
    place = gaps(trace).select("gap_id", "device")
    parts = gap_parts(trace).join(place, on="gap_id", how="left", maintain_order="left")
    return (
        _within(parts.filter(pl.col("device") == device), begin, end)
        .with_columns(
            what=pl.lit("idle"), role="cause", name="blame", ns=pl.col("end_ns") - pl.col("start_ns")
        )
    )  # fmt: skip


def _hidden_rows(trace: Trace, device: int, begin: int, end: int) -> pl.DataFrame:
    """What of the windows of replays without record is not seen to be busy."""
    windows = _within(opaque_windows(trace).filter(pl.col("device") == device), begin, end)
    ops = gpu_ops(trace).filter(pl.col("device") == device)
    busy = intervals.busy_at(windows, ("start_ns", "end_ns"), ops, ["device"])
    seen = busy[1] - busy[0]
    return windows.with_columns(
        what=pl.lit("unrecorded"),
        role=pl.lit("opaque replay"),
        name=pl.lit(None, pl.String),
        ns=pl.col("end_ns") - pl.col("start_ns") - seen,
    ).filter(pl.col("ns") > 0)


def _summed(rows: pl.DataFrame, keys: list[str], instance: str) -> pl.DataFrame:
    """Time by ``keys``, and how many of the things that ``instance`` numbers start there."""
    started = pl.col(instance).filter("starts").n_unique()
    return (
        rows.group_by(keys)
        .agg(count=started.cast(pl.Int64), ns=pl.col("ns").sum().cast(pl.Int64))
        .sort(pl.col("ns") * -1, *keys[1:])
        .select(*keys, "count", "ns")
    )
