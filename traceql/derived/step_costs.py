"""What each step lost and to what: gaps joined with their steps, and the step that stands for its kind."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from traceql.derived import memoised
from traceql.derived.gaps import gap_parts, gaps
from traceql.derived.steps import steps
from traceql.trace import Trace

HOST_CAUSES = ("host", "launch", "launch latency", "graph launch")
"""Causes by which the host was late with the next GPU work."""


@memoised
def step_gap_parts(trace: Trace) -> pl.DataFrame:
    """Parts of the gaps that belong to a step, with ``gap_ns``, ``step_kind`` and ``period_ns``.

    ``gap_ns`` is the gap less its opaque part: time in which a replay without record may have run is not idle.
    """
    gap = gaps(trace).select("gap_id", "step_id", "device", "before", "after", "dur_ns", gap_start_ns="start_ns")
    step = steps(trace).select("step_id", "period_ns", step_kind="kind")
    opaque = pl.col("dur_ns").filter(pl.col("cause") == "opaque replay").sum()
    hidden = gap_parts(trace).group_by("gap_id").agg(opaque_ns=opaque)
    counted = gap.join(hidden, on="gap_id", how="left").with_columns(
        gap_ns=pl.col("dur_ns") - pl.col("opaque_ns").fill_null(0)
    )
    in_steps = counted.drop("dur_ns", "opaque_ns").filter(pl.col("step_id").is_not_null())
    return gap_parts(trace).join(in_steps, on="gap_id").join(step, on="step_id")


@dataclass(frozen=True)
class Median:
    """The step whose value is the median among the steps of its kind.

    ``value`` and ``share_pct`` are that step's; ``low`` and ``high`` the range of the value over the kind's steps.
    """

    kind: str | None
    step_id: int
    steps: int
    period_ns: int
    value: int
    low: int
    high: int

    @property
    def share_pct(self) -> float:
        return 100 * self.value / self.period_ns if self.period_ns > 0 else 0.0

    @property
    def label(self) -> str:
        return f"{self.kind} step" if self.kind else "step"


def median_steps(trace: Trace, per_step: pl.DataFrame, *, given_only: bool = False) -> list[Median]:
    """For each kind of step: its median step by ``value`` / period, in order of the kind's total time.

    ``per_step`` has step_id and ``value`` (Int64), and ``share_of_ns`` where another period than the step's own is
    meant; steps it lacks count as 0, or not at all with ``given_only``. The median is a real step (the upper of the two
    middle ones), so every figure shown for it can be looked up on the timeline.
    """
    of = pl.col("share_of_ns") if "share_of_ns" in per_step.columns else pl.lit(None, pl.Int64)
    given = per_step.select("step_id", "value", share_of_ns=of)
    joined = (
        steps(trace)
        .select("step_id", "kind", "period_ns")
        .join(given, on="step_id", how="inner" if given_only else "left")
        .with_columns(pl.col("value").fill_null(0), period_ns=pl.coalesce("share_of_ns", "period_ns"))
        .filter(pl.col("period_ns") > 0)
        .with_columns(share=pl.col("value") / pl.col("period_ns"))
        .sort("share", "step_id")
    )
    by_kind = (
        joined.group_by("kind")
        .agg(
            pl.col("step_id", "period_ns", "value").get(pl.len() // 2),
            steps=pl.len(),
            low=pl.col("value").min(),
            high=pl.col("value").max(),
            total=pl.col("period_ns").sum(),
        )
        .sort(pl.col("total") * -1, "kind")
    )
    return [Median(**row) for row in by_kind.drop("total").rows(named=True)]
