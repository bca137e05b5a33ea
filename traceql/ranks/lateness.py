"""Which rank the others wait for, and what it did meanwhile."""

from __future__ import annotations

import polars as pl

from traceql.ranks.jobs import Job
from traceql.ranks.matching import matches


def late_steps(job: Job) -> pl.DataFrame:
    """One row a rank and step of the job: member, rank, step (of the group's first rank), step_id (its own), kind,
    period_ns, late_ns (its lateness at the collectives of the step, added up), waiting_ns, caused_ns (the longest wait of
    another rank, added up over the collectives that it was last at), last (those collectives), collectives.

    After every collective the ranks are together again, so lateness at each adds up to what a step lost. Steps in which
    a rank's capture began are left out: they hold the skew with which the ranks started to record.
    """
    rows = matches(job).rows.filter(~pl.col("first_step") & pl.col("step").is_not_null())
    each = ["match_id"]
    longest_wait = pl.col("waiting_ns").max().over(each)
    is_last = pl.col("rank") == pl.col("last_rank")
    steps = pl.concat(
        [
            rank.steps.select("step_id", "kind", "batch_size", "period_ns", "compute_ns").with_columns(
                member=pl.lit(member, pl.Int64)
            )
            for member, rank in enumerate(job.ranks)
        ]
    )
    return (
        rows.with_columns(longest_wait=longest_wait, is_last=is_last)
        .group_by("member", "rank", "step")
        .agg(
            pl.col("step_id").first(),
            pl.col("late_ns", "waiting_ns").sum(),
            caused_ns=pl.col("longest_wait").filter(pl.col("is_last")).sum(),
            last=pl.col("is_last").sum().cast(pl.Int64),
            collectives=pl.len().cast(pl.Int64),
        )
        .join(steps, on=["member", "step_id"], how="left")
        .sort("step", "member")
    )


def by_rank(steps: pl.DataFrame) -> pl.DataFrame:
    """Medians over the steps of one kind: member, rank, late_ns, waiting_ns, period_ns, steps, last and worst step."""
    return (
        steps.sort("late_ns", "step")
        .group_by("member", "rank", maintain_order=True)
        .agg(
            pl.col("late_ns", "waiting_ns", "caused_ns", "period_ns").median(),
            pl.col("last", "collectives").sum(),
            steps=pl.len().cast(pl.Int64),
            typical_step_id=pl.col("step_id").get(pl.len() // 2),
        )
        .sort(pl.col("late_ns") * -1, "member")
    )


def waits_between(job: Job, kind: str | None) -> pl.DataFrame:
    """Who waits for whom: rank, last_rank, ns a step; largest first."""
    steps = late_steps(job).filter(pl.col("kind").eq_missing(pl.lit(kind, pl.String)))
    rows = matches(job).rows.join(steps.select("member", "step"), on=["member", "step"], how="semi")
    count = max(steps["step"].n_unique(), 1)
    return (
        rows.filter(pl.col("rank") != pl.col("last_rank"))
        .group_by("rank", "last_rank")
        .agg(ns=pl.col("waiting_ns").sum() / count)
        .filter(pl.col("ns") > 0)
        .sort(pl.col("ns") * -1, "rank", "last_rank")
    )


def instead(job: Job, member: int, steps: pl.DataFrame) -> pl.DataFrame:
    """What a rank spent more a step than the median of the others: what (computing, or GPU idle by cause), blame, ns,
    extra_ns; largest first. Communication is left out: waiting is the others' part."""
    spent = pl.concat([_computing(steps), _idling(job, steps)])
    kinds = spent.select("what").unique()
    grid = steps.select("member", "step_id").join(kinds, how="cross")
    filled = grid.join(spent, on=["member", "step_id", "what"], how="left").with_columns(pl.col("ns").fill_null(0))
    medians = filled.group_by("member", "what").agg(
        pl.col("ns").median(), blame=pl.col("blame").sort_by("ns").drop_nulls().last()
    )
    others = medians.filter(pl.col("member") != member).group_by("what").agg(usual_ns=pl.col("ns").median())
    return (
        medians.filter(pl.col("member") == member)
        .join(others, on="what", how="left")
        .with_columns(extra_ns=pl.col("ns") - pl.col("usual_ns").fill_null(0))
        .sort(pl.col("extra_ns") * -1, "what")
        .select("what", "blame", "ns", "extra_ns")
    )


def _computing(steps: pl.DataFrame) -> pl.DataFrame:
    return steps.select(
        "member",
        "step_id",
        what=pl.lit("computing"),
        blame=pl.lit(None, pl.String),
        ns=pl.col("compute_ns").fill_null(0),
    )


def _idling(job: Job, steps: pl.DataFrame) -> pl.DataFrame:
    idle = pl.concat([rank.idle.with_columns(member=pl.lit(m, pl.Int64)) for m, rank in enumerate(job.ranks)])
    held = idle.join(steps.select("member", "step_id"), on=["member", "step_id"], how="semi")
    return held.select("member", "step_id", what=pl.lit("GPU idle: ") + pl.col("cause"), blame="blame", ns="ns")
