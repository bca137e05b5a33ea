"""Which digests are the ranks of one job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from traceql.ranks.digest import RankDigest

_RANK_IN_NAME = re.compile(r"(rank|tp)[-_]?\d+", re.IGNORECASE)

_CLOCKS_APART_NS = 1_000_000_000
"""How far the wall clocks of two hosts may disagree."""


@dataclass(frozen=True)
class Job:
    """Ranks that ran together, in order of rank; a trace that has no peers is a job of one.

    ``copies``: traces that hold the same capture as one of them, left out.
    """

    ranks: tuple[RankDigest, ...]
    copies: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        return len(self.ranks) > 1

    @property
    def missing(self) -> int:
        """Ranks of the job without a trace, as far as the files tell how many there are."""
        sizes = [rank.world_size for rank in self.ranks if rank.world_size is not None]
        return max(0, max(sizes, default=0) - len(self.ranks))

    @property
    def one_clock(self) -> bool:
        """Whether all ranks were recorded into one file."""
        return on_one_clock(self.ranks)

    @property
    def label(self) -> str:
        return f"{len(self.ranks)} ranks" if self.several else self.ranks[0].label


def on_one_clock(ranks: Sequence[RankDigest]) -> bool:
    """Whether the times of all these are on the clock of one file."""
    clocks = {rank.clock for rank in ranks}
    return len(clocks) == 1 and None not in clocks


def jobs(digests: Sequence[RankDigest]) -> list[Job]:
    """Digests that communicate, put together by rank, world size and time.

    Two belong to one job when their ranks differ and one file holds them, or their world sizes are the same and their
    captures overlap in time by the wall clock; where a file does not tell the time, when their names differ in the rank
    alone. A capture that was given twice counts once.
    """
    found: list[dict[int | None, RankDigest]] = []
    copies: dict[int, list[str]] = {}
    for digest in sorted(digests, key=lambda d: (d.origin_unix_ns or 0, d.rank or 0, d.index)):
        if digest.collectives.is_empty():
            continue
        twin = next((i for i, j in enumerate(found) if digest.rank in j and _same(digest, j[digest.rank])), None)
        if twin is not None:
            copies.setdefault(twin, []).append(digest.name)
            continue
        home = next((j for j in found if digest.rank not in j and _together(digest, next(iter(j.values())))), None)
        if home is None:
            found.append({digest.rank: digest})
        else:
            home[digest.rank] = digest
    ordered = [
        Job(tuple(job[rank] for rank in sorted(job, key=lambda rank: rank or 0)), tuple(sorted(copies.get(place, ()))))
        for place, job in enumerate(found)
    ]
    return sorted(ordered, key=lambda job: job.ranks[0].index)


def _same(one: RankDigest, other: RankDigest) -> bool:
    """Whether two digests are of one capture: recorded at the same ns, with the same collectives."""
    if one.origin_unix_ns is None or (one.origin_unix_ns, one.span_ns) != (other.origin_unix_ns, other.span_ns):
        return False
    return one.index != other.index and one.collectives.equals(other.collectives)


def _together(one: RankDigest, other: RankDigest) -> bool:
    if one.rank is None or other.rank is None:
        return False
    if on_one_clock((one, other)):
        return True
    if None not in (one.world_size, other.world_size) and one.world_size != other.world_size:
        return False
    if one.origin_unix_ns is None or other.origin_unix_ns is None:
        return _nameless(one) == _nameless(other)
    begin = max(one.origin_unix_ns, other.origin_unix_ns)
    end = min(one.origin_unix_ns + one.span_ns, other.origin_unix_ns + other.span_ns)
    return begin < end + _CLOCKS_APART_NS


def _nameless(digest: RankDigest) -> str:
    return _RANK_IN_NAME.sub("#", digest.name)
