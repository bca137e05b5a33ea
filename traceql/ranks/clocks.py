"""How two ranks' sequences of collectives, and their clocks, lie to each other: told by the ends of the collectives."""

from __future__ import annotations

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
_CLEARLY = 3
_EXACT_NS = 3_000
"""A shift that the clocks say is taken without a search where its neighbours are so many times less steady, or lie apart
by more than the ends of one group ever do."""
_PROBE, _PROBES, _FITS = 24, 7, 2
"""Collectives of a stretch that is tried at every place, stretches of a capture, and places kept of each."""
_MOST_OF_IT = 0.9
"""Share of the shorter capture that a shift must pair to be taken at once: part of it fits a shift by a step as well."""
_SPREADS = 6
"""A pair may lie further from the common distance than 10 µs where the ends of all scatter: by so many spreads."""
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


@dataclass(frozen=True)
class Pairing:
    """Which collective of one rank is which of another.

    ``partner``: for each row of the other its row of the one, −1 without; ``shift``: the clocks' relation over the pairs.
    """

    partner: NDArray[np.int64]
    shift: Shift


def paired(one: pl.DataFrame, other: pl.DataFrame, *, clocks_known: bool, one_clock: bool = False) -> Pairing | None:
    """The collectives of ``one`` and ``other`` (``end_ns`` and ``kind``, in order) that are the same.

    Captures may begin and end at different collectives and may lack some in between. None where no pairing makes kinds
    agree and ends lie at a steady distance: then they are not the same collectives. On ``one_clock`` (then ``arrival_ns`` is
    needed too) nothing is to be found out but which run at the same time.
    """
    if one_clock:
        return _by_overlap(one, other)
    ends, kinds = ([frame[name].to_numpy() for frame in (one, other)] for name in ("end_ns", "kind"))
    whole = _shift_between(ends, kinds, clocks_known=clocks_known)
    if whole is not None:
        found = _by_place(ends, kinds, whole)
        if _is_even(ends, found) and (found.partner >= 0).sum() >= _MOST_OF_IT * min(len(one), len(other)):
            return found
    tried = [_merged_from(ends, kinds, seed) for seed in _seeds(ends, kinds)]
    if whole is not None and _is_even(ends, found):
        tried.append(found)
    steady = [each for each in tried if each is not None and each.shift.spread_ns <= _SAME_GROUP_NS]
    return min(steady, key=lambda each: (each.shift.spread_ns, -int((each.partner >= 0).sum())), default=None)


def _by_overlap(one: pl.DataFrame, other: pl.DataFrame) -> Pairing | None:
    """The pairing of ranks on one clock: a collective runs on all of them at the same time, and ends on all together.

    None where fewer than half of the shorter capture's pair, or where the ends say that these are two groups that run
    side by side.
    """
    starts, ends = ([frame[name].to_list() for frame in (one, other)] for name in ("arrival_ns", "end_ns"))
    kinds = [frame["kind"].to_list() for frame in (one, other)]
    partner = np.full(len(ends[1]), -1, np.int64)
    i = j = 0
    while i < len(ends[0]) and j < len(ends[1]):
        together = min(ends[0][i], ends[1][j]) - max(starts[0][i], starts[1][j])
        shorter = min(ends[0][i] - starts[0][i], ends[1][j] - starts[1][j])
        if together > 0 and 2 * together >= shorter and kinds[0][i] == kinds[1][j]:
            partner[j] = i
            i, j = i + 1, j + 1
        elif ends[0][i] <= ends[1][j]:
            i += 1
        else:
            j += 1
    rows = np.flatnonzero(partner >= 0)
    if len(rows) < max(1, min(len(ends[0]), len(ends[1])) // 2):
        return None
    away = one["end_ns"].to_numpy()[partner[rows]] - other["end_ns"].to_numpy()[rows]
    return Pairing(partner, NO_SHIFT) if np.median(np.abs(away)) <= _SAME_GROUP_NS else None


def _by_place(ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], shift: Shift) -> Pairing:
    """The pairing of a shift alone: the n-th is the (n − places)-th; kinds that differ are no pair."""
    places = np.arange(len(ends[1])) - shift.places
    inside = (places >= 0) & (places < len(ends[0]))
    same = np.zeros(len(places), np.bool_)
    same[inside] = kinds[0][places[inside]] == kinds[1][inside]
    return Pairing(np.where(same, places, -1).astype(np.int64), shift)


def _is_even(ends: list[NDArray[np.int64]], found: Pairing) -> bool:
    """Whether no record is missing in between: every pair lies as far apart as the others."""
    rows = np.flatnonzero(found.partner >= 0)
    if not len(rows) or rows[-1] - rows[0] + 1 != len(rows):
        return False
    at = ends[1][rows]
    shift = found.shift
    away = ends[0][found.partner[rows]] - at - shift.offset_ns - shift.drift_ns * (at - shift.at_ns)
    return float(np.abs(away).max()) <= max(_SAME_GROUP_NS, _SPREADS * shift.spread_ns)


def _merged_from(
    ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], seed: tuple[int, int]
) -> Pairing | None:
    """The pairing that continues a pair in both directions; None where it finds too few."""
    partner = np.full(len(ends[1]), -1, np.int64)
    for by in (1, -1):
        _merge(ends, kinds, seed, by, partner)
    rows = np.flatnonzero(partner >= 0)
    if len(rows) < max(_SMALLEST_OVERLAP, min(len(ends[0]), len(ends[1])) // 2):
        return None
    return Pairing(partner, _relation(ends[0][partner[rows]], ends[1][rows], 0))


def _merge(
    ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], seed: tuple[int, int], by: int,
    partner: NDArray[np.int64],
) -> None:  # fmt: skip
    """Walk both ranks from ``seed`` on (``by``: 1 forwards, −1 backwards) and fill ``partner``.

    Two are a pair where their ends lie at the distance of the last pair, as far as clocks drift in between; else the
    nearer one was lost on the other rank.
    """
    one, other = ends[0].tolist(), ends[1].tolist()
    one_kinds, other_kinds = kinds[0].tolist(), kinds[1].tolist()
    i, j = seed
    offset, last = one[i] - other[j], one[i]
    while 0 <= i < len(one) and 0 <= j < len(other):
        away = one[i] - other[j] - offset
        if abs(away) <= _SAME_GROUP_NS + _MOST_DRIFT * abs(one[i] - last):
            if one_kinds[i] == other_kinds[j]:
                partner[j] = i
                offset, last = one[i] - other[j], one[i]
            i, j = i + by, j + by
        elif away * by < 0:
            i += by
        else:
            j += by


def _shift_between(
    ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], *, clocks_known: bool
) -> Shift | None:
    """The steadiest shift of one rank's rows against the other's, the nearest of equally steady ones; None where none
    fits. Steps repeat: a shift by one of them is nearly as steady as the right one, so all are compared. So do layers, and
    in a graph's replay as evenly as the ends of a custom all-reduce scatter: a shift that leaves the wall clocks where they
    are is taken unless another is clearly steadier."""
    clear = _steadiest(ends, kinds, {0, *_near(*ends)}) if clocks_known else []
    if clear and _CLEARLY * clear[0].spread_ns < (clear[1].spread_ns if len(clear) > 1 else _EXACT_NS):
        return clear[0]
    fitting = clear + _steadiest(ends, kinds, {0, len(ends[1]) - len(ends[0])} | _probed(ends, kinds))
    steadiest = min(fitting, key=_steadiness, default=None)
    as_told = min(clear, key=lambda shift: abs(shift.offset_ns), default=None)
    if steadiest is None or as_told is None or abs(as_told.offset_ns) > _SAME_GROUP_NS:
        return steadiest
    return as_told if as_told.spread_ns <= _CLEARLY * steadiest.spread_ns else steadiest


def _steadiest(ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], places: set[int]) -> list[Shift]:
    """Those of the shifts that fit, the steadiest first."""
    tried = (_shift(ends, kinds, k) for k in sorted(places))
    return sorted((s for s in tried if s is not None and s.spread_ns <= _SAME_GROUP_NS), key=_steadiness)


def _steadiness(shift: Shift) -> tuple[float, int]:
    return shift.spread_ns, abs(shift.places)


def _probed(ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]]) -> set[int]:
    """The shifts that short stretches of the other's rows fit best."""
    return {row - place for place, row in _seeds(ends, kinds)}


def _seeds(ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]]) -> list[tuple[int, int]]:
    """(row of the one, row of the other) of one pair in each of the places that short stretches of the other fit best."""
    length = min(len(ends[0]), len(ends[1]), _PROBE)
    if length < _SMALLEST_OVERLAP:
        return []
    found = []
    at_one, kinds_one = (np.lib.stride_tricks.sliding_window_view(each[0], length) for each in (ends, kinds))
    for start in np.unique(np.linspace(0, len(ends[1]) - length, _PROBES).astype(np.int64)).tolist():
        stretch = slice(start, start + length)
        away = at_one - ends[1][stretch]
        apart = np.abs(away - np.median(away, axis=1, keepdims=True))
        scatter = np.median(apart, axis=1)  # of a stretch that lacks one record more than half still fits
        scatter[(kinds_one == kinds[1][stretch]).mean(axis=1) < _AGREEING] = np.inf
        best = np.argsort(scatter, kind="stable")[:_FITS]
        for place in best[np.isfinite(scatter[best])].tolist():
            row = int(apart[place].argmin())
            found.append((place + row, start + row))
    return found


def _near(one: NDArray[np.int64], other: NDArray[np.int64]) -> set[int]:
    """The shifts that the clocks say."""
    nearest = np.searchsorted(other, one) - np.arange(len(one))
    values, counts = np.unique(nearest, return_counts=True)
    middle = int(values[counts.argmax()])
    return set(range(middle - 3, middle + 4))


def _shift(ends: list[NDArray[np.int64]], kinds: list[NDArray[np.uint64]], places: int) -> Shift | None:
    """The clocks' relation for one shift; None where too few collectives or too few kinds agree."""
    begin, stop = max(0, -places), min(len(ends[0]), len(ends[1]) - places)
    shorter = min(len(ends[0]), len(ends[1]))
    if stop - begin < min(shorter, max(_SMALLEST_OVERLAP, shorter // 2)):
        return None
    rows = np.unique(np.linspace(begin, stop - 1, min(_SAMPLED, stop - begin)).astype(np.int64))
    if (kinds[0][rows] == kinds[1][rows + places]).mean() < _AGREEING:
        return None
    return _relation(ends[0][rows], ends[1][rows + places], places)


def _relation(one: NDArray[np.int64], other: NDArray[np.int64], places: int) -> Shift:
    """The clocks' relation over the ends of pairs."""
    distance = one - other
    drift = _drift(other, distance)
    middle = int(np.median(other))
    steady = distance - drift * (other - middle)
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


def aligned(rows: pl.DataFrame, *, wall_clocks: bool, one_clock: bool = False) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with ``arrival_ns`` and ``end_ns`` on the ranks' common clock, and (member, offset_ns, residual_ns).

    ``correction_ns`` (to the group's first rank) is applied, then the median distance of a rank's ends from the middle
    of all ends. Where ``wall_clocks`` are told and agree as well as that, they are left as they are: moving them would
    only add the ends' own scatter. ``one_clock`` has nothing to be moved.
    """
    corrected = pl.col("end_ns") + pl.col("correction_ns")
    away = corrected.median().over(EACH) - corrected
    centred = rows.with_columns(away=away).with_columns(
        moved=pl.col("correction_ns")
        + pl.col("away").median().over("group", "reference", "member").round().cast(pl.Int64)
    )
    moved = _moved(centred)
    if one_clock or (wall_clocks and end_skew_ns(rows) <= end_skew_ns(moved)):
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
