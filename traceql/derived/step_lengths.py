"""How long each step took, beside the steps it should be compared with, and what made the difference."""

from __future__ import annotations

from typing import Any

import polars as pl

from traceql.derived import memoised
from traceql.derived.gaps import gaps
from traceql.derived.step_costs import step_gap_parts, step_idle
from traceql.derived.steps import steps
from traceql.trace import Trace

_ENOUGH = 3
"""Steps a median needs to mean anything."""
_MORE_TOKENS = 1.5
"""A prefill with more tokens than this many times the median takes longer for a good reason."""


@memoised
def step_lengths(trace: Trace) -> pl.DataFrame:
    """One row a step with a length: step_id, name, kind, batch_size, start_ns, end_ns, length_ns, baseline_ns, alike.

    A step lasts from the end of the GPU work of the step before to the end of its own, so that the idle time before it
    is its own; the first step has no such length. Where a step has no recorded GPU work, all last from host start to
    host start. ``baseline_ns`` is the median length of the ``alike`` steps of its kind and batch size (of unknown kind:
    with as many GPU rows); where those are fewer than three, of its kind, for steps that do not compute many more
    tokens than those; null when there is none.
    """
    frame = steps(trace).with_columns(gpu_end_ns=pl.col("gpu_start_ns") + pl.col("gpu_dur_ns"))
    if frame.is_empty() or frame.select(pl.any_horizontal(pl.col("gpu_end_ns", "gpu_busy_ns").is_null().any())).item():
        lasting = frame.with_columns(end_ns=pl.col("start_ns") + pl.col("period_ns"))
    else:
        before = pl.col("gpu_end_ns").cum_max().shift(1).over("pid", "tid", order_by="start_ns")
        lasting = frame.with_columns(start_ns=before, end_ns="gpu_end_ns")
    measured = lasting.with_columns(length_ns=pl.col("end_ns") - pl.col("start_ns")).filter(pl.col("length_ns") > 0)
    like = pl.when(pl.col("kind").is_null()).then("gpu_ops")
    length, group = pl.col("length_ns"), ["kind", "batch_size", like]
    in_group, in_kind = pl.len().over(group), pl.len().over("kind")
    usual_tokens = pl.col("tokens") <= _MORE_TOKENS * pl.col("tokens").median().over("kind")
    return measured.with_columns(
        baseline_ns=pl.when(in_group >= _ENOUGH)
        .then(length.median().over(group))
        .when((in_kind >= _ENOUGH) & usual_tokens & pl.col("kind").is_not_null())
        .then(length.median().over("kind")),
        alike=pl.when(in_group >= _ENOUGH).then(in_group).otherwise(in_kind),
    ).select("step_id", "name", "kind", "batch_size", "start_ns", "end_ns", "length_ns", "baseline_ns", "alike")


def extra_time(trace: Trace, step: dict[str, Any]) -> pl.DataFrame:
    """What a step (a row of ``step_lengths``) spent more than the steps of its kind did in the median.

    what (GPU busy, or idle by cause), blame, after (the work that waited longest), ns, extra_ns; largest first.
    """
    every = step_lengths(trace).filter(pl.col("kind").eq_missing(pl.lit(step["kind"], pl.String)))
    idle = step_idle(trace).select("step_id", _WHAT, "blame", "ns")
    spent = pl.concat([_busy(every, idle), idle.join(every.select("step_id"), on="step_id", how="semi")])
    kinds = spent.filter(pl.col("step_id") == step["step_id"]).select("what", "blame")
    grid = every.select("step_id").join(kinds, how="cross").join(
        spent, on=["step_id", "what", "blame"], how="left", nulls_equal=True
    ).with_columns(pl.col("ns").fill_null(0))  # fmt: skip
    usual = grid.group_by("what", "blame").agg(usual_ns=pl.col("ns").median())
    return (
        grid.filter(pl.col("step_id") == step["step_id"])
        .join(usual, on=["what", "blame"], nulls_equal=True)
        .join(_longest_before(trace, step["step_id"]), on=["what", "blame"], how="left", nulls_equal=True)
        .with_columns(extra_ns=(pl.col("ns") - pl.col("usual_ns")).round().cast(pl.Int64))
        .filter(pl.col("ns") > 0)
        .sort(pl.col("extra_ns") * -1, "what", "blame")
        .select("what", "blame", "after", "ns", "extra_ns")
    )


_WHAT = (pl.lit("GPU idle: ") + pl.col("cause")).alias("what")


def _busy(every: pl.DataFrame, idle: pl.DataFrame) -> pl.DataFrame:
    """The rest of a step's length: the GPU worked."""
    total = idle.group_by("step_id").agg(idle=pl.col("ns").sum())
    return every.join(total, on="step_id", how="left").select(
        "step_id", what=pl.lit("GPU busy"), blame=pl.lit(None, pl.String),
        ns=pl.col("length_ns") - pl.col("idle").fill_null(0),
    )  # fmt: skip


def _longest_before(trace: Trace, step_id: int) -> pl.DataFrame:
    """what, blame → ``after``: the work before which the step was idle longest."""
    parts = step_gap_parts(trace).lazy().filter(pl.col("step_id") == step_id)
    longest = parts.group_by("cause", "blame").agg(pl.col("gap_id").sort_by("dur_ns").last()).collect()
    return longest.select(_WHAT, "blame", after=gaps(trace)["after"].gather(longest["gap_id"]))
