"""What communication costs a step on each rank of a job: transfer apart from waiting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl

from traceql.derived.typical_steps import middle, typical_for
from traceql.ranks.digest import RankDigest
from traceql.ranks.jobs import Job
from traceql.ranks.matching import matches


@lru_cache(maxsize=8)
def collective_costs(job: Job) -> pl.DataFrame:
    """Every collective inside a step of every rank, with ``member`` (place in the job).

    The columns of a digest's collectives, with ``transfer_ns`` the shortest duration among the ranks where the
    collective was matched (``matched``), else the shortest of its kind in the trace; ``waiting_ns`` the rest of its
    duration; ``exposed_transfer_ns`` and ``exposed_waiting_ns``: waiting comes first, so what is hidden is taken off it.
    """
    parts = []
    among_ranks = matches(job).rows.select("member", "collective_id", among_ns="transfer_ns")
    for member, rank in enumerate(job.ranks):
        mine = among_ranks.filter(pl.col("member") == member).drop("member")
        rows = rank.collectives.filter(pl.col("step_id").is_not_null())
        parts.append(
            rows.join(mine, on="collective_id", how="left", maintain_order="left").with_columns(
                member=pl.lit(member, pl.Int64),
                matched=pl.col("among_ns").is_not_null(),
                transfer_ns=pl.coalesce("among_ns", "transfer_ns"),
            )
        )
    exposed_transfer = pl.min_horizontal("exposed_ns", "transfer_ns")
    return (
        pl.concat(parts)
        .drop("among_ns")
        .with_columns(
            waiting_ns=pl.col("dur_ns") - pl.col("transfer_ns"),
            exposed_transfer_ns=exposed_transfer,
            exposed_waiting_ns=pl.col("exposed_ns") - exposed_transfer,
        )
    )


SUMS = ("transfer_ns", "waiting_ns", "exposed_transfer_ns", "exposed_waiting_ns", "hidden_ns", "early_ns")


@lru_cache(maxsize=8)
def step_costs(job: Job) -> pl.DataFrame:
    """The steps of every rank that communicates: member, the columns of a digest's steps, collectives, the sums of
    ``collective_costs`` (SUMS). Steps count as for every median (``typical_steps.counting``), on each rank.
    """
    sums = (
        collective_costs(job)
        .group_by("member", "step_id")
        .agg(collectives=pl.len().cast(pl.Int64), **{name: pl.col(name).sum() for name in SUMS})
    )
    steps = pl.concat(rank.steps.with_columns(member=pl.lit(member, pl.Int64)) for member, rank in enumerate(job.ranks))
    joined = steps.filter(pl.col("period_ns") > 0).join(sums, on=["member", "step_id"], how="inner")
    kept = joined.filter(pl.col("edge") == pl.col("edge").min().over("member", "kind"))
    return kept.sort("member", "step_id")


@dataclass(frozen=True)
class StepCost:
    """The step that stands for one kind of step of a job, on the rank where the median ``share_pct`` is highest.

    ``row`` is its row of ``step_costs``: of the rank's typical step unless that is unusual in its share, then of the median
    one. ``share_pct`` is that step's, ``steps`` how many were compared on that rank; ``ranks`` one row a rank with the medians
    of SUMS, period and share.
    """

    member: int
    kind: str | None
    share_pct: float
    steps: int
    row: dict[str, Any]
    ranks: pl.DataFrame

    @property
    def label(self) -> str:
        return f"{self.kind} step" if self.kind else "step"


def median_costs(job: Job, part: pl.Expr, whole: pl.Expr) -> list[StepCost]:
    """For each kind of step, in order of its total time: the typical step by its part / whole, on the rank with the largest
    median of it (the upper of two middle ones)."""
    shared = step_costs(job).with_columns(share=part / whole).filter(pl.col("share").is_finite())
    found = []
    for (kind,), rows in shared.group_by("kind", maintain_order=True):
        ranks = (
            rows.sort("share", "step_id")
            .group_by("member", maintain_order=True)
            .agg(
                pl.col("share", "step_id").get(pl.len() // 2),
                pl.col(*SUMS, "period_ns", "compute_ns").median(),
                steps=pl.len(),
            )
            .sort(["share", "member"], descending=[True, False])
        )
        top = ranks.row(0, named=True)
        row = _shown(rows.filter(pl.col("member") == top["member"]), job.ranks[top["member"]], kind)
        cost = StepCost(top["member"], kind, 100 * row["share"], top["steps"], row, ranks.sort("member"))
        found.append((int(rows["period_ns"].sum()), cost))
    return [cost for _, cost in sorted(found, key=lambda pair: -pair[0])]


def _shown(rows: pl.DataFrame, rank: RankDigest, kind: str | None) -> dict[str, Any]:
    """The row of the step to show of one rank's."""
    typical = next((alike for alike in rank.typical if alike.kind == kind), None)
    step_id = (middle(rows, "share") if typical is None else typical_for(rows, typical, "share"))["step_id"]
    row: dict[str, Any] = rows.row(by_predicate=pl.col("step_id") == step_id, named=True)
    return row


def by_collective(job: Job, cost: StepCost) -> pl.DataFrame:
    """The collectives of one step by operation, kernel and size: op, what, bytes, calls, sums, and
    ``bus_gb_per_s`` (over the transfer, waiting not counted); most exposed transfer first."""
    rows = collective_costs(job).filter((pl.col("member") == cost.member) & (pl.col("step_id") == cost.row["step_id"]))
    return (
        rows.group_by("op", "what", "bytes", "key")
        .agg(
            calls=pl.len().cast(pl.Int64),
            bus=(pl.col("bytes") * pl.col("bus_factor")).sum(),
            bus_known=pl.col("bus_factor").is_not_null().all() & pl.col("bytes").is_not_null().all(),
            **{name: pl.col(name).sum() for name in SUMS},
        )
        .with_columns(
            bus_gb_per_s=pl.when(pl.col("bus_known") & (pl.col("transfer_ns") > 0)).then(
                pl.col("bus") / pl.col("transfer_ns")
            )
        )
        .sort(pl.col("exposed_transfer_ns") * -1, "op", "bytes", "key")
    )


def all_reduces(table: pl.DataFrame) -> pl.DataFrame:
    """The all-reduces of a ``by_collective``; all its collectives where it has none."""
    found = table.filter(pl.col("op") == "all_reduce")
    return table if found.is_empty() else found


def mostly_nccl(table: pl.DataFrame) -> bool:
    """Whether NCCL (or RCCL, or a library unknown) takes most of the transfer of ``all_reduces``; the rest are kernels made
    for small messages."""
    rows = all_reduces(table)
    by_nccl = pl.col("what").str.contains("^(nccl|rccl)").fill_null(True)
    nccl_ns, all_ns = rows.select(pl.col("transfer_ns").filter(by_nccl).sum(), all_ns=pl.col("transfer_ns").sum()).row(
        0
    )
    return bool(2 * nccl_ns >= all_ns)


def per_layer(job: Job, cost: StepCost) -> dict[str, float | int]:
    """Median communication of a layer beside the layer's wall time, empty where no layers were found."""
    rows = collective_costs(job).filter(
        (pl.col("member") == cost.member) & (pl.col("step_id") == cost.row["step_id"]) & pl.col("layer").is_not_null()
    )
    if rows.is_empty():
        return {}
    layers = rows.group_by("layer").agg(
        pl.col("layer_dur_ns").first(),
        pl.len().alias("calls"),
        pl.col("transfer_ns", "exposed_transfer_ns", "exposed_waiting_ns").sum(),
    )
    medians = layers.select(pl.col(pl.Int64).median() / 1000, pl.col("calls").median().alias("count")).row(
        0, named=True
    )
    return {
        "layers": layers.height,
        "collectives_per_layer": round(medians["count"]),
        "transfer_us_per_layer": medians["transfer_ns"],
        "exposed_us_per_layer": medians["exposed_transfer_ns"],
        "waiting_us_per_layer": medians["exposed_waiting_ns"],
        "layer_wall_us": medians["layer_dur_ns"],
    }


def alignment(job: Job) -> dict[str, object]:
    """How well the ranks' clocks agree and which ranks are not there, for the evidence; empty for a whole job of one."""
    told: dict[str, object] = {}
    found = matches(job)
    if found.end_skew_ns is not None:
        apart = found.end_skew_ns / 1000
        told = {"clock_error_us": apart}
        if job.one_clock:
            told = {"clocks": "one, of one file", "clock_error_us": 0.0, "ends_apart_us": apart}
        told["unmatched_collectives"] = found.unmatched
    if job.missing:
        told["ranks_without_a_trace"] = job.missing
    if job.copies:
        told["captures_given_twice"] = ", ".join(job.copies)
    return told
