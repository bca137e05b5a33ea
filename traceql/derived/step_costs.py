"""What each step lost and to what: gaps joined with their steps, and the step that stands for its kind."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from traceql.derived import memoised
from traceql.derived.gaps import gap_parts, gaps
from traceql.derived.steps import steps
from traceql.derived.typical_steps import counting, kinds_of_step, timed_steps, typical_for
from traceql.trace import Trace

HOST_CAUSES = ("host", "launch", "launch latency", "graph launch")
"""Causes by which the host was late with the next GPU work."""


@memoised
def device_gap_parts(trace: Trace) -> pl.DataFrame:
    """Parts of the gaps that belong to a step, on every device it ran on, with ``gap_ns``, ``step_kind``, ``period_ns``."""
    step = steps(trace).select("step_id", "period_ns", step_kind="kind", step_device="device")
    gap = (
        gaps(trace)
        .select("step_id", "device", gap_ns="dur_ns", gap_start_ns="start_ns")
        .join(step, on="step_id", how="left", maintain_order="left")
    )
    parts = gap_parts(trace)
    return rows_where(pl.concat([parts, gap[parts["gap_id"]]], how="horizontal"), pl.col("step_id").is_not_null())


@memoised
def step_gap_parts(trace: Trace) -> pl.DataFrame:
    """Parts of the gaps that belong to a step, on the device that stands for it, with ``gap_ns``, ``step_kind`` and
    ``period_ns``. Idle time of several devices at once is never added up."""
    return rows_where(device_gap_parts(trace), pl.col("device") == pl.col("step_device"))


@memoised
def step_idle(trace: Trace) -> pl.DataFrame:
    """Idle time of every step, on the device that stands for it, by cause and blame: step_id, cause, blame, ns."""
    return step_gap_parts(trace).group_by("step_id", "cause", "blame").agg(ns=pl.col("dur_ns").sum())


def rows_where(frame: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """``frame.filter(condition)``, the frame itself where that is all of it: not every large frame is held twice."""
    kept = frame.select(condition.fill_null(False)).to_series()
    return frame if kept.all() else frame.filter(kept)


@dataclass(frozen=True)
class Median:
    """The step that shows a figure of its kind.

    ``value`` and ``share_pct`` are that step's, ``steps`` is how many there are alike; ``low`` and ``high`` the range of
    the value over them. ``whole_ns`` is what shares refer to: the period, or busy plus idle where that is longer.
    """

    kind: str | None
    step_id: int
    steps: int
    period_ns: int
    whole_ns: int
    value: int
    low: int
    high: int

    @property
    def share_pct(self) -> float:
        return 100 * self.value / self.whole_ns if self.whole_ns > 0 else 0.0

    @property
    def label(self) -> str:
        return f"{self.kind} step" if self.kind else "step"


def median_steps(trace: Trace, per_step: pl.DataFrame, *, given_only: bool = False) -> list[Median]:
    """For each kind of step, most time first: the step that shows ``value``, as ``typical_steps`` chooses it.

    ``per_step`` has step_id and ``value`` (Int64); steps it lacks count as 0, or not at all with ``given_only``.
    """
    given = per_step.select("step_id", "value")
    every = (
        timed_steps(trace)
        .select("step_id", "kind", "batch_size", "period_ns", "whole_ns", "edge")
        .join(given, on="step_id", how="inner" if given_only else "left", maintain_order="left")
        .with_columns(pl.col("value").fill_null(0))
        .with_columns(share=pl.col("value") / pl.col("whole_ns"))
    )
    found = []
    for alike in kinds_of_step(trace):
        of_kind = every.filter(pl.col("kind").eq_missing(pl.lit(alike.kind, pl.String)))
        same_size = pl.col("batch_size").eq_missing(pl.lit(alike.batch_size, pl.Int64))
        main = of_kind.filter(same_size) if alike.one_batch_size else of_kind
        rows = main if main.height else of_kind
        if rows.is_empty():
            continue
        shown = typical_for(counting(rows), alike, "share")
        low, high = (int(getattr(rows["value"], end)()) for end in ("min", "max"))
        found.append(
            Median(
                alike.kind,
                shown["step_id"],
                rows.height,
                shown["period_ns"],
                shown["whole_ns"],
                shown["value"],
                low,
                high,
            )
        )
    return found
