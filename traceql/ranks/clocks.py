"""How two ranks' sequences of collectives, and their clocks, lie to each other: told by the ends of the collectives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAME_GROUP_NS = 10_000
"""Ends of one collective lie within a few µs on its ranks; those of two groups that run alike drift further apart."""
_AGREEING = 0.98
"""Share of pairs that must have the same operation and size; a lost record puts a few out of step."""
_SAMPLED = 2_000
"""Collectives compared to find how far two ranks are apart; more make it no surer."""
_SMALLEST_OVERLAP = 8
_DRIFT_FROM_NS = 1_000
"""Clocks that run apart by less over the whole capture are taken to run alike."""
_MOST_DRIFT = 500e-6
"""Clocks of computers differ by tens of parts in a million; what runs apart faster is not one group."""


@dataclass(frozen=True)
class Clock:
    """How one rank's clock was set: ``offset_ns`` was added to its wall-clock time, in the middle of the capture.

    ``residual_ns`` is the median distance of its ends of collectives from the middle of all ranks' after that.
    """

    rank: int | None
    offset_ns: int
    residual_ns: int


@dataclass(frozen=True)
class Shift:
    """The i-th collective of one rank is the (i + ``places``)-th of the other.

    ``offset_ns`` brings the other's ends to the one's at ``at_ns``, and ``drift_ns`` more for every ns after that.
    ``spread_ns`` is the median deviation that remains.
    """

    places: int
    offset_ns: int
    drift_ns: float
    at_ns: int
    spread_ns: float

    def correction_ns(self) -> pl.Expr:
        """What to add to the times of a row of the other rank (``end_ns``)."""
        drifted = (pl.col("end_ns") - self.at_ns) * self.drift_ns
        return drifted.round().cast(pl.Int64) + self.offset_ns


NO_SHIFT = Shift(0, 0, 0.0, 0, 0.0)


def shift_between(one: pl.DataFrame, other: pl.DataFrame, *, clocks_known: bool) -> Shift | None:
    """How ``other`` (``end_ns`` and ``kind`` in order) lies to ``one``.

    None where no shift makes kinds agree and ends lie at a steady distance: then they are not the same collectives.
    """
    ends = [frame["end_ns"].to_numpy() for frame in (one, other)]
    kinds = [frame["kind"].to_numpy() for frame in (one, other)]
    near = _near(ends[0], ends[1]) if clocks_known else {0, len(ends[1]) - len(ends[0])}
    # two captures of equal length hold the same collectives, or those of different groups
    reach = min(max(len(ends[0]), len(ends[1])), _SAMPLED) if len(ends[0]) != len(ends[1]) else 0
    return _best(ends, kinds, sorted(near)) or _best(ends, kinds, range(-reach, reach + 1))


def _best(ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], places: Iterable[int]) -> Shift | None:
    """The steadiest of the shifts that fit, the nearest of equally steady ones."""
    tried = (_shift(ends, kinds, k) for k in places)
    fitting = [shift for shift in tried if shift is not None and shift.spread_ns <= _SAME_GROUP_NS]
    return min(fitting, key=lambda shift: (shift.spread_ns, abs(shift.places)), default=None)


def _near(one: NDArray[np.int64], other: NDArray[np.int64]) -> set[int]:
    """Shifts to try first: none, all of the difference at the start, and what the clocks say."""
    nearest = np.searchsorted(other, one) - np.arange(len(one))
    values, counts = np.unique(nearest, return_counts=True)
    middle = int(values[counts.argmax()])
    return {0, len(other) - len(one), *range(middle - 3, middle + 4)}


def _shift(ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], places: int) -> Shift | None:
    """The clocks' relation for one shift; None where too few collectives or too few kinds agree."""
    begin, stop = max(0, -places), min(len(ends[0]), len(ends[1]) - places)
    shorter = min(len(ends[0]), len(ends[1]))
    if stop - begin < min(shorter, max(_SMALLEST_OVERLAP, shorter // 2)):
        return None
    rows = np.unique(np.linspace(begin, stop - 1, min(_SAMPLED, stop - begin)).astype(np.int64))
    if (kinds[0][rows] == kinds[1][rows + places]).mean() < _AGREEING:
        return None
    at = ends[1][rows + places]
    distance = ends[0][rows] - at
    drift = _drift(at, distance)
    middle = int(np.median(at))
    steady = distance - drift * (at - middle)
    offset = float(np.median(steady))
    return Shift(places, round(offset), drift, middle, float(np.median(np.abs(steady - offset))))


def _drift(at: NDArray[np.int64], distance: NDArray[np.int64]) -> float:
    """ns of distance gained a ns, from the medians of the first and the last third; 0 for clocks that run alike."""
    third = len(at) // 3
    if third < _SMALLEST_OVERLAP:
        return 0.0
    apart = float(np.median(distance[-third:]) - np.median(distance[:third]))
    span = float(np.median(at[-third:]) - np.median(at[:third]))
    drift = apart / span if span > 0 and abs(apart) > _DRIFT_FROM_NS else 0.0
    return drift if abs(drift) <= _MOST_DRIFT else 0.0


EACH = ["group", "reference", "sequence"]
"""Columns that tell one collective of a group of ranks."""


def aligned(rows: pl.DataFrame, *, wall_clocks: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with ``arrival_ns`` and ``end_ns`` on the ranks' common clock, and (member, offset_ns, residual_ns).

    ``correction_ns`` (to the group's first rank) is applied, then the median distance of a rank's ends from the middle
    of all ends. Where ``wall_clocks`` are told and agree as well as that, they are left as they are: moving them would
    only add the ends' own scatter.
    """
    corrected = pl.col("end_ns") + pl.col("correction_ns")
    away = corrected.median().over(EACH) - corrected
    centred = rows.with_columns(away=away).with_columns(
        moved=pl.col("correction_ns")
        + pl.col("away").median().over("group", "reference", "member").round().cast(pl.Int64)
    )
    moved = _moved(centred)
    if wall_clocks and end_skew_ns(rows) <= end_skew_ns(moved):
        moved = _moved(rows.with_columns(moved=pl.lit(0, pl.Int64)))
    residual = (pl.col("end_ns") - pl.col("end_ns").median().over(EACH)).abs()
    clocks = (
        moved.with_columns(residual=residual)
        .group_by("member", "group", "reference")
        .agg(pl.len(), offset_ns=pl.col("moved").median(), residual_ns=pl.col("residual").median())
        .sort("member", pl.col("len") * -1.0, "group")
        .unique("member", keep="first", maintain_order=True)
        .select("member", pl.col("offset_ns", "residual_ns").round().cast(pl.Int64))
    )
    return moved, clocks


def _moved(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("arrival_ns", "end_ns") + pl.col("moved"))


def end_skew_ns(rows: pl.DataFrame) -> int:
    """Median (the upper of two middle ones) over the collectives of last minus first end."""
    skews = rows.group_by(EACH).agg(skew=pl.col("end_ns").max() - pl.col("end_ns").min())["skew"].sort()
    return int(skews[len(skews) // 2])
