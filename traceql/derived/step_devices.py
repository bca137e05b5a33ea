"""What each step cost on each device it ran on, and which device stands for the step."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gaps import gaps, not_idle
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.steps import marks
from traceql.trace import Trace

_KEY = ["step_id", "device"]
_TIMES = pl.col("gpu_busy_ns", "gpu_idle_ns", "lead_in_ns")


@memoised
def step_devices(trace: Trace) -> pl.DataFrame:
    """The contract's ``step_devices``: one row a step and device it ran on, in order of both.

    ``gpu_busy_ns`` is how long the device was busy between the step's first start and last end on it, whoever's work it
    was. ``stands_for_step`` is true for the busiest device (the lowest numbered of equals): times of a step are that
    one's, because devices work at the same time and the step lasts as long as the one with most to do. Times are null in
    a step with a replay that left no record.
    """
    ops = gpu_ops(trace).filter(pl.col("step_id").is_not_null() & pl.col("device").is_not_null())
    spans = ops.group_by(_KEY).agg(
        pl.col("rank").first(),
        gpu_start_ns=pl.col("start_ns").min(),
        gpu_end_ns=pl.col("end_ns").max(),
        kernels=(pl.col("kind") == "kernel").sum().cast(pl.Int64),
        gpu_ops=pl.len().cast(pl.Int64),
    )
    everything = gpu_ops(trace).filter(pl.col("device").is_not_null())
    until = intervals.busy_at(spans, ("gpu_start_ns", "gpu_end_ns"), everything, ["device"])
    idle = gaps(trace).group_by(_KEY).agg(gpu_idle_ns=pl.col("dur_ns").sum())
    busiest = pl.struct(-pl.col("gpu_busy_ns"), "device")
    return (
        spans.with_columns(gpu_busy_ns=until[1] - until[0], gpu_dur_ns=pl.col("gpu_end_ns") - pl.col("gpu_start_ns"))
        .join(idle, on=_KEY, how="left")
        .join(_lead_ins(trace, spans), on=_KEY, how="left")
        .with_columns(pl.col("gpu_idle_ns", "lead_in_ns").fill_null(0))
        .with_columns(stands_for_step=busiest.rank("ordinal").over("step_id") == 1)
        .with_columns(pl.when(~pl.col("step_id").is_in(_not_recorded(trace).implode())).then(_TIMES).name.keep())
        .sort(_KEY)
    )


def _not_recorded(trace: Trace) -> pl.Series:
    """Steps with a replay that left no record: what their devices did is not known."""
    from traceql.derived.graphs import graph_launches

    return graph_launches(trace).filter(pl.col("traced").is_null())["step_id"].drop_nulls()


def _lead_ins(trace: Trace, spans: pl.DataFrame) -> pl.DataFrame:
    """step_id, device → ``lead_in_ns``: idle time from the step's start on the host to its first work on the device.

    Only where no gap of the step covers it: in the device's first step. Before later ones there is a gap.
    """
    first = spans.sort("gpu_start_ns", "step_id").unique("device", keep="first", maintain_order=True)
    begun = first.join(marks(trace).select("step_id", "start_ns"), on="step_id").filter(
        pl.col("start_ns") < pl.col("gpu_start_ns")
    )
    until = intervals.busy_at(begun, ("start_ns", "gpu_start_ns"), not_idle(trace), ["device"])
    return begun.select(*_KEY, lead_in_ns=pl.col("gpu_start_ns") - pl.col("start_ns") - (until[1] - until[0]))
