"""Collectives of several ranks matched with one another, and who waited for whom.

All ranks of a group run its collectives in one order, so the n-th of one rank is the n-th of the other once it is known
how many a capture missed at its start. They end within a microsecond of each other: that checks the match, says which
ranks belong to an unnamed group, and aligns the clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from traceql.ranks.clocks import EACH, NO_SHIFT, Clock, Pairing, aligned, end_skew_ns, paired
from traceql.ranks.digest import RankDigest
from traceql.ranks.jobs import Job, on_one_clock

_UNMATCHED_OPS = ("send_recv", "barrier")
"""Operations that not every rank of a group takes part in at the same time, or that carry nothing."""

_SCHEMA = pl.Schema(
    {
        "match_id": pl.Int64(), "member": pl.Int64(), "rank": pl.Int64(), "collective_id": pl.Int64(), "op": pl.String(),
        "group": pl.String(), "step_id": pl.Int64(), "step": pl.Int64(), "first_step": pl.Boolean(),
        "arrival_ns": pl.Int64(), "end_ns": pl.Int64(), "dur_ns": pl.Int64(), "transfer_ns": pl.Int64(),
        "waiting_ns": pl.Int64(), "exposed_ns": pl.Int64(), "late_ns": pl.Int64(), "last_rank": pl.Int64(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Matches:
    """The collectives of a job that were matched.

    Attributes:
        rows: one a collective and rank, the columns of ``collective_matches`` with ``member`` (place in the job),
            ``step`` (step_id of the group's first rank), ``first_step`` (in the first step of a capture, or in none),
            ``end_ns`` and ``exposed_ns``.
        clocks: by rank, those that were matched.
        wall_skew_ns: median over the collectives of last minus first end, by the wall clocks alone; None where a file
            does not tell them.
        end_skew_ns: the same after alignment: the error that remains, or of ranks on one clock, where nothing was aligned,
            how far their ends lie apart; None where nothing was matched.
        unmatched: collectives that have no counterpart.
    """

    rows: pl.DataFrame
    clocks: tuple[Clock, ...] = ()
    wall_skew_ns: int | None = None
    end_skew_ns: int | None = None
    unmatched: int = 0


@lru_cache(maxsize=8)
def matches(job: Job) -> Matches:
    """Match the collectives of a job's ranks; no rows for a job of one."""
    parts = [cluster for key, members in _cells(job) for cluster in _clusters(job, key, members)]
    total = sum(rank.collectives.height for rank in job.ranks)
    if not parts:
        return Matches(pl.DataFrame(schema=_SCHEMA), unmatched=total)
    joined = pl.concat(parts)
    told = _told(*job.ranks)
    moved, clocks = aligned(joined, wall_clocks=told, one_clock=job.one_clock)
    return Matches(
        rows=_described(job, _with_waits(moved)),
        clocks=tuple(Clock(job.ranks[member].rank, offset, residual) for member, offset, residual in clocks.rows()),
        wall_skew_ns=end_skew_ns(joined) if told else None,
        end_skew_ns=end_skew_ns(moved),
        unmatched=total - joined.height,
    )


def _cells(job: Job) -> list[tuple[str, list[int]]]:
    """(key, members) that may form groups: by the group's name, else by the smallest process group the files list."""
    named = {name for rank in job.ranks for name, _ in rank.groups}
    cells: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for member, rank in enumerate(job.ranks):
        own = min((ranks for _, ranks in rank.groups), key=len, default=())
        for key in rank.collectives.filter(_matchable())["key"].unique():
            cells.setdefault((key, () if key in named else own), []).append(member)
    return [(key, members) for (key, _), members in sorted(cells.items()) if len(members) > 1]


def _matchable() -> pl.Expr:
    return ~pl.col("op").is_in(_UNMATCHED_OPS).fill_null(False)


def _clusters(job: Job, key: str, members: Sequence[int]) -> list[pl.DataFrame]:
    """Matched rows of each set of ranks whose collectives of ``key`` end together."""
    begin = min((job.ranks[m].origin_unix_ns or 0) for m in members)
    left = {member: _sequence(job.ranks[member], key, begin) for member in members}
    found = []
    while len(left) > 1:
        reference, *others = sorted(left, key=lambda m: (-left[m].height, m))
        mine = left.pop(reference)
        numbered = [_numbered(mine, reference, Pairing(np.arange(mine.height), NO_SHIFT))]
        for other in others:
            both = (job.ranks[reference], job.ranks[other])
            pairing = paired(mine, left[other], clocks_known=_told(*both), one_clock=on_one_clock(both))
            if pairing is not None:
                numbered.append(_numbered(left.pop(other), other, pairing))
        if len(numbered) > 1:
            found.append(_complete(pl.concat(numbered), key, reference))
    return found


def _told(*ranks: RankDigest) -> bool:
    """Whether the files say how the ranks' times lie to each other."""
    return on_one_clock(ranks) or all(rank.origin_unix_ns is not None for rank in ranks)


def _sequence(rank: RankDigest, key: str, begin_unix_ns: int) -> pl.DataFrame:
    """The rank's collectives of ``key`` in order, times on the wall clock from ``begin_unix_ns``."""
    base = (rank.origin_unix_ns or begin_unix_ns) - begin_unix_ns
    first = pl.lit(rank.steps["step_id"].min(), pl.Int64)
    rows = rank.collectives.filter((pl.col("key") == key) & _matchable())
    return rows.sort("arrival_ns", "collective_id").select(
        "collective_id", "op", "step_id", "dur_ns", "exposed_ns",
        first_step=(pl.col("step_id") == first).fill_null(True),
        arrival_ns=pl.col("arrival_ns") + base,
        end_ns=pl.col("end_ns") + base,
        kind=pl.struct("op", "bytes").hash(seed=0),
    )  # fmt: skip


def _numbered(rows: pl.DataFrame, member: int, pairing: Pairing) -> pl.DataFrame:
    """``sequence``: place in the reference rank's order; ``correction_ns``: what brings its ends to the reference's."""
    return rows.with_columns(
        member=pl.lit(member, pl.Int64),
        sequence=pl.Series(pairing.partner, dtype=pl.Int64),
        correction_ns=pairing.shift.correction_ns(),
    ).filter(pl.col("sequence") >= 0)


def _complete(rows: pl.DataFrame, key: str, reference: int) -> pl.DataFrame:
    """Collectives that every rank of the set has, of one kind throughout."""
    members = rows["member"].n_unique()
    whole = (pl.len().over("sequence") == members) & (pl.col("kind").n_unique().over("sequence") == 1)
    step = pl.col("step_id").filter(pl.col("member") == reference).first()
    return (
        rows.filter(whole)
        .with_columns(
            group=pl.lit(key),
            reference=pl.lit(reference, pl.Int64),
            step=step.over("sequence"),
            first_step=pl.col("first_step").any().over("sequence"),
        )
        .drop("kind")
    )


def _with_waits(rows: pl.DataFrame) -> pl.DataFrame:
    """Transfer, waiting and lateness of each collective on each rank.

    The reference for lateness is the lower median arrival: of two ranks the first, of many the middle one, so that one
    early rank makes nobody late.
    """
    arrival = pl.col("arrival_ns")
    usual = arrival.sort().get((pl.len() - 1) // 2).over(EACH)
    return rows.with_columns(
        transfer_ns=pl.col("dur_ns").min().over(EACH),
        late_ns=pl.max_horizontal(arrival - usual, pl.lit(0, pl.Int64)),
        last_member=pl.col("member").sort_by("arrival_ns").last().over(EACH),
    ).with_columns(waiting_ns=pl.col("dur_ns") - pl.col("transfer_ns"))


def _described(job: Job, rows: pl.DataFrame) -> pl.DataFrame:
    """Ranks in place of members, and collectives numbered in order of time."""
    ranks = pl.Series([rank.rank for rank in job.ranks], dtype=pl.Int64)
    ordered = rows.with_columns(
        match_id=pl.struct(pl.col("end_ns").min().over(EACH), *EACH).rank("dense").cast(pl.Int64) - 1,
        rank=ranks.gather(rows["member"]),
        last_rank=ranks.gather(rows["last_member"]),
    )
    return ordered.sort("match_id", "member").select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items())
