"""Collectives of several ranks matched with one another, the ranks' clocks, and who waited for whom.

All ranks of a group run its collectives in one order, so the n-th of one rank is the n-th of the other once it is known
how many a capture missed at its start. They end within a microsecond of each other: that checks the match, says which
ranks belong to an unnamed group, and aligns the clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.ranks.digest import RankDigest
from traceql.ranks.jobs import Job

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNMATCHED_OPS = ("send_recv", "barrier")
"""Operations that not every rank of a group takes part in at the same time, or that carry nothing."""
_SAME_GROUP_NS = 50_000
"""Ends of one collective lie within a few µs on its ranks; those of two groups that run alike drift further apart."""
_AGREEING = 0.98
"""Share of pairs that must have the same operation and size; a lost record puts a few out of step."""
_SAMPLED = 2_000
"""Collectives compared to find how far two ranks are apart; more make it no surer."""
_SMALLEST_OVERLAP = 8

_SCHEMA = pl.Schema(
    {
        "match_id": pl.Int64(), "member": pl.Int64(), "rank": pl.Int64(), "collective_id": pl.Int64(), "op": pl.String(),
        "group": pl.String(), "step_id": pl.Int64(), "step": pl.Int64(), "first_step": pl.Boolean(),
        "arrival_ns": pl.Int64(), "end_ns": pl.Int64(), "dur_ns": pl.Int64(), "transfer_ns": pl.Int64(),
        "waiting_ns": pl.Int64(), "exposed_ns": pl.Int64(), "late_ns": pl.Int64(), "last_rank": pl.Int64(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """How one rank's clock was set: ``offset_ns`` was added to its wall-clock time.

    ``residual_ns`` is the median distance of its ends of collectives from the other ranks' after that.
    """

    rank: int | None
    offset_ns: int
    residual_ns: int


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
        end_skew_ns: the same after alignment: the error that remains.
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
    told = all(rank.origin_unix_ns is not None for rank in job.ranks)
    wall_skew = _end_skew(joined) if told else None
    aligned, clocks = _aligned(joined, _offsets(joined))
    if wall_skew is not None and wall_skew <= _end_skew(aligned):
        # the wall clocks agree as well as ends do: moving them would only add the ends' own scatter
        aligned, clocks = _aligned(joined, _offsets(joined).with_columns(offset=pl.lit(0, pl.Int64)))
    rows = _with_waits(aligned)
    return Matches(
        rows=_described(job, rows),
        clocks=tuple(Clock(job.ranks[member].rank, offset, residual) for member, offset, residual in clocks.rows()),
        wall_skew_ns=wall_skew,
        end_skew_ns=_end_skew(rows),
        unmatched=total - rows.height,
    )


# --- which ranks form a group -----------------------------------------------------------------------------------------


def _cells(job: Job) -> list[tuple[str, list[int]]]:
    """(key, members) that may form groups: by the group's name, else by the smallest process group the files list."""
    named = {name for rank in job.ranks for name, _ in rank.groups}
    cells: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for member, rank in enumerate(job.ranks):
        own = min((ranks for _, ranks in rank.groups), key=len, default=())
        for key in rank.collectives.filter(~pl.col("op").is_in(_UNMATCHED_OPS).fill_null(False))["key"].unique():
            cells.setdefault((key, () if key in named else own), []).append(member)
    return [(key, members) for (key, _), members in sorted(cells.items()) if len(members) > 1]


def _clusters(job: Job, key: str, members: Sequence[int]) -> list[pl.DataFrame]:
    """Matched rows of each set of ranks whose collectives of ``key`` end together."""
    begin = min((job.ranks[m].origin_unix_ns or 0) for m in members)
    left = {member: _sequence(job.ranks[member], key, begin) for member in members}
    found = []
    while len(left) > 1:
        reference, *others = sorted(left, key=lambda m: (-left[m].height, m))
        mine = left.pop(reference)
        numbered = [_numbered(mine, reference, 0, 0)]
        for other in others:
            shift = _shift(mine, left[other], clocks_known=_told(job.ranks[reference], job.ranks[other]))
            if shift is not None:
                numbered.append(_numbered(left.pop(other), other, *shift))
        if len(numbered) > 1:
            found.append(_complete(pl.concat(numbered), key, reference))
    return found


def _told(*ranks: RankDigest) -> bool:
    return all(rank.origin_unix_ns is not None for rank in ranks)


def _sequence(rank: RankDigest, key: str, begin_unix_ns: int) -> pl.DataFrame:
    """The rank's collectives of ``key`` in order, times on the wall clock from ``begin_unix_ns``."""
    base = (rank.origin_unix_ns or begin_unix_ns) - begin_unix_ns
    firsts = rank.steps["step_id"].min()
    rows = rank.collectives.filter((pl.col("key") == key) & ~pl.col("op").is_in(_UNMATCHED_OPS).fill_null(False))
    return rows.sort("arrival_ns", "collective_id").select(
        "collective_id", "op", "bytes", "step_id", "dur_ns", "exposed_ns",
        first_step=(pl.col("step_id") == pl.lit(firsts, pl.Int64)).fill_null(True),
        arrival_ns=pl.col("arrival_ns") + base,
        end_ns=pl.col("end_ns") + base,
        kind=pl.struct("op", "bytes").hash(seed=0),
    )  # fmt: skip


def _numbered(rows: pl.DataFrame, member: int, shift: int, offset_ns: int) -> pl.DataFrame:
    """``sequence``: place in the reference rank's order; ``offset_ns``: what brings its ends to the reference's."""
    return rows.with_columns(
        member=pl.lit(member, pl.Int64),
        sequence=pl.int_range(pl.len(), dtype=pl.Int64) - shift,
        offset_ns=pl.lit(offset_ns, pl.Int64),
    )


def _complete(rows: pl.DataFrame, key: str, reference: int) -> pl.DataFrame:
    """Collectives that every rank of the set has, of one kind throughout."""
    members = rows["member"].n_unique()
    step = pl.col("step_id").filter(pl.col("member") == reference).first()
    return (
        rows.filter(
            (pl.len().over("sequence") == members) & (pl.col("kind").n_unique().over("sequence") == 1)
        )
        .with_columns(
            group=pl.lit(key), reference=pl.lit(reference, pl.Int64), step=step.over("sequence"),
            first_step=pl.col("first_step").any().over("sequence"),
        )
        .drop("kind", "bytes")
    )  # fmt: skip


# --- how far two ranks' sequences are apart ---------------------------------------------------------------------------


def _shift(one: pl.DataFrame, other: pl.DataFrame, *, clocks_known: bool) -> tuple[int, int] | None:
    """(k, offset): the i-th of ``one`` is the (i + k)-th of ``other``, and ``offset`` ns bring other's ends to one's.

    None where no k makes operations agree and ends lie at a constant distance: then they are not the same collectives.
    """
    ends = [frame["end_ns"].to_numpy() for frame in (one, other)]
    kinds = [frame["kind"].to_numpy() for frame in (one, other)]
    near = _near(ends[0], ends[1]) if clocks_known else {0, len(ends[1]) - len(ends[0])}
    # two captures of equal length hold the same collectives, or those of different groups
    reach = min(max(len(ends[0]), len(ends[1])), _SAMPLED) if len(ends[0]) != len(ends[1]) else 0
    for shifts in (sorted(near), range(-reach, reach + 1)):
        tried = [(*spread, k) for k in shifts if (spread := _spread(ends, kinds, k))]
        fitting = [(deviation, abs(k), k, distance) for deviation, distance, k in tried if deviation <= _SAME_GROUP_NS]
        if fitting:
            _, _, k, distance = min(fitting)
            return k, distance
    return None


def _near(one: NDArray[np.int64], other: NDArray[np.int64]) -> set[int]:
    """Shifts to try first: none, all of the difference at the start, and what the clocks say."""
    nearest = np.searchsorted(other, one) - np.arange(len(one))
    values, counts = np.unique(nearest, return_counts=True)
    middle = int(values[counts.argmax()])
    return {0, len(other) - len(one), *range(middle - 3, middle + 4)}


def _spread(
    ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], k: int
) -> tuple[float, int] | None:
    """(median deviation of the distances of ends, median distance) for one shift; None where it does not fit."""
    begin, stop = max(0, -k), min(len(ends[0]), len(ends[1]) - k)
    shorter = min(len(ends[0]), len(ends[1]))
    if stop - begin < min(shorter, max(_SMALLEST_OVERLAP, shorter // 2)):
        return None
    rows = np.unique(np.linspace(begin, stop - 1, min(_SAMPLED, stop - begin)).astype(np.int64))
    if (kinds[0][rows] == kinds[1][rows + k]).mean() < _AGREEING:
        return None
    distance = ends[0][rows] - ends[1][rows + k]
    median = int(np.median(distance))
    return float(np.median(np.abs(distance - median))), median


# --- clocks and waits -------------------------------------------------------------------------------------------------

_EACH = ["group", "reference", "sequence"]


def _offsets(rows: pl.DataFrame) -> pl.DataFrame:
    """member → ``offset``, ns to add to its times: the median distance of its ends from the middle of all ends, in the
    group it shares most collectives in."""
    shifted = pl.col("end_ns") + pl.col("offset_ns")
    away = rows.with_columns(away=shifted.median().over(_EACH) - shifted)
    by_group = (
        away.group_by("group", "reference", "member")
        .agg(pl.len(), offset=(pl.col("away").median() + pl.col("offset_ns").first()).round().cast(pl.Int64))
        .sort("len", "group", "reference", descending=[True, False, False])
    )
    return by_group.unique("member", keep="first", maintain_order=True).select("member", "offset")


def _aligned(rows: pl.DataFrame, offsets: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with times on the ranks' common clock, and (member, offset, residual)."""
    aligned = rows.join(offsets, on="member", how="left", maintain_order="left").with_columns(
        pl.col("arrival_ns", "end_ns") + pl.col("offset")
    )
    residual = (pl.col("end_ns") - pl.col("end_ns").median().over(_EACH)).abs()
    residuals = aligned.select("member", residual=residual).group_by("member").agg(
        pl.col("residual").median().round().cast(pl.Int64)
    )  # fmt: skip
    return aligned, offsets.join(residuals, on="member").sort("member")


def _end_skew(rows: pl.DataFrame) -> int:
    """Median (the upper of two middle ones) over the collectives of last minus first end."""
    skews = rows.group_by(_EACH).agg(skew=pl.col("end_ns").max() - pl.col("end_ns").min())["skew"].sort()
    return int(skews[len(skews) // 2])


def _with_waits(rows: pl.DataFrame) -> pl.DataFrame:
    """Transfer, waiting and lateness of each collective on each rank.

    The reference for lateness is the lower median arrival: of two ranks the first, of many the middle one, so that one
    early rank makes nobody late.
    """
    arrival = pl.col("arrival_ns")
    usual = arrival.sort().get((pl.len() - 1) // 2).over(_EACH)
    return rows.with_columns(
        transfer_ns=pl.col("dur_ns").min().over(_EACH),
        late_ns=pl.max_horizontal(arrival - usual, pl.lit(0, pl.Int64)),
        last_member=pl.col("member").sort_by("arrival_ns").last().over(_EACH),
    ).with_columns(waiting_ns=pl.col("dur_ns") - pl.col("transfer_ns"))


def _described(job: Job, rows: pl.DataFrame) -> pl.DataFrame:
    """Ranks in place of members, and collectives numbered in order of time."""
    ranks = pl.Series([rank.rank for rank in job.ranks], dtype=pl.Int64)
    first = pl.col("end_ns").min().over(_EACH)
    ordered = rows.with_columns(
        match_id=pl.struct(first, *_EACH).rank("dense").cast(pl.Int64) - 1,
        rank=ranks.gather(rows["member"]),
        last_rank=ranks.gather(rows["last_member"]),
    )
    return ordered.sort("match_id", "member").select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items())
