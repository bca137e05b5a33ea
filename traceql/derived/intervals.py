"""Interval arithmetic on frames: unions, idle gaps, membership, nesting.

Rows of large frames are looked up by group and time, in place: neither points nor intervals are sorted for it where they
are in order of start, as most frames are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import interval_kernels as kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_NEVER = -(2**62)
"""Before any time of a trace, ns; stands for null."""


def union_ns(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Length of the union of [start_ns, end_ns) for each ``by``: columns ``by`` and ``union_ns``."""
    rows = _Grouped.of(frame, by, ["start_ns", "end_ns"])
    totals = np.zeros(rows.groups.height, np.int64)
    kernels.unions(
        rows.number, *rows.times(frame), np.empty(len(rows), np.int64), np.empty(len(rows), np.int64), totals
    )
    return rows.groups.with_columns(union_ns=pl.Series(totals))


def idle(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Rows of ``frame`` that start after everything before them in ``by`` has ended, with the gap before them.

    Adds ``gap_start_ns`` (the running maximum of ends) and ``gap_ns`` = start_ns − gap_start_ns > 0.
    """
    rows = _Grouped.of(frame, by, ["start_ns", "end_ns"])
    reach, busy = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    starts, ends = rows.times(frame)
    kernels.unions(rows.number, starts, ends, reach, busy, np.zeros(rows.groups.height, np.int64))
    before = np.roll(reach, 1)
    before[rows.first[:-1][rows.first[:-1] < len(rows)]] = _NEVER  # the first of each group
    return (
        frame.with_columns(gap_start_ns=rows.in_place(before))
        .with_columns(gap_ns=pl.col("start_ns") - pl.col("gap_start_ns"))
        .filter((pl.col("gap_start_ns") > _NEVER) & (pl.col("gap_ns") > 0))
    )


def busy_at(points: pl.DataFrame, times: Sequence[str], frame: pl.DataFrame, by: list[str]) -> list[pl.Series]:
    """Union of ``frame``'s intervals before each of ``times``, for each point, in the order of ``points``, ns.

    The busy time of any window is the difference of its two ends' values.
    """
    rows = _Grouped.of(frame, by, ["start_ns", "end_ns"])
    reach, busy = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    starts, ends = rows.times(frame)
    kernels.unions(rows.number, starts, ends, reach, busy, np.zeros(rows.groups.height, np.int64))
    found = []
    for at in times:
        time = _numbers(points[at])
        place = rows.last(starts, points, time - 1)
        # past the reach the total stands; before it, the part of the last stretch beyond the time is taken off
        passed = busy[place] - np.maximum(reach[place] - time, 0) if len(rows) else np.zeros(len(place), np.int64)
        found.append(pl.Series("busy_ns", np.where(place >= 0, passed, 0)))
    return found


def holding(points: pl.DataFrame, at: str, ranges: pl.DataFrame, value: str, by: list[str]) -> pl.DataFrame:
    """``points`` with ``value`` of the last range that starts at or before ``at`` and has not ended by then.

    ``ranges`` has start_ns, end_ns (exclusive), ``by`` and ``value``; within one ``by`` they must not overlap.
    Row order is kept; points outside every range get null.
    """
    row = Starts(ranges, by).last(points, at)
    ended = pl.col(at) < ranges["end_ns"].gather(row)
    return points.with_columns(pl.when(ended).then(ranges[value].gather(row)).alias(value))


class Starts:
    """Ranges by group and start_ns, to look up which is the last to start before a time."""

    def __init__(self, ranges: pl.DataFrame, by: list[str]) -> None:
        self._rows = _Grouped.of(ranges, by, ["start_ns"])
        self._starts = _in_order(ranges["start_ns"], self._rows.order)

    def last(self, points: pl.DataFrame, at: str) -> pl.Series:
        """For each point the row of the last range of its group that starts at or before ``at``, null for none."""
        found = self._rows.last(self._starts, points, _numbers(points[at]))
        if self._rows.order is not None:
            found = np.append(self._rows.order, -1)[found]
        return rows_or_null(found)


def rows_or_null(found: NDArray[np.int64]) -> pl.Series:
    """Row numbers with −1 as null."""
    rows = pl.Series(found)
    return rows.set(rows < 0, None) if len(found) and found.min() < 0 else rows


def parents(starts: NDArray[np.int64], ends: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the innermost enclosing interval of each, −1 at the top; rows sorted by (group, start, −end).

    An interval belongs to the last one before it in its group that is still open at its start, so one that outlives
    its parent (rounding, an unclosed range) is still that parent's child.
    """
    return nesting(starts, ends, groups)[0]


def nesting(
    starts: NDArray[np.int64], ends: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``parents``, and how many intervals are around each."""
    parent, depth, stack = (np.empty(len(starts), np.int64) for _ in range(3))
    kernels.nesting(starts, ends, groups, stack, parent, depth)
    return parent, depth


def summed(rows: pl.Series, values: pl.Series, count: int) -> NDArray[np.int64]:
    """For each of ``count`` rows the sum of the values that belong to it; ``rows`` may be null, and so may values."""
    sums = np.zeros(count, np.int64)
    kernels.add(rows.fill_null(-1).to_numpy(), values.fill_null(0).to_numpy(), sums)
    return sums


def summed_upwards(values: NDArray[np.int64], order: NDArray[np.int64], parent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's value plus those of all rows below it; in ``order`` a row comes after the one around it."""
    sums = values.copy()
    kernels.add_upwards(order, parent, sums)
    return sums


def nearest(mask: NDArray[np.bool_], parent: NDArray[np.int64], *, itself: bool = False) -> NDArray[np.int64]:
    """Row of each row's nearest ancestor in ``mask`` (or its own, with ``itself``), −1 if none; ``parent`` is −1 at the top."""
    found = np.empty(len(parent), np.int64)
    kernels.nearest(mask, parent, found)
    return np.where(mask, np.arange(len(parent)), found) if itself else found


def innermost(starts: NDArray[np.int64], ends: NDArray[np.int64], groups: NDArray[np.int64]) -> pl.DataFrame:
    """Each group's time, cut where its innermost interval changes: group, start_ns, end_ns, row; in order, no overlap.

    Innermost is the last started interval that is still open; ``row`` is −1 where none is. A group's pieces cover all
    time, from long before its first interval to long after its last.
    """
    room = 2 * (len(starts) + np.count_nonzero(np.diff(groups)) + 1)  # a piece ends where an interval starts or ends
    columns = {name: np.empty(room, np.int64) for name in ("start_ns", "end_ns", "row", "group")}
    pieces = kernels.innermost(starts, ends, groups, np.empty(len(starts), np.int64), *columns.values())
    return pl.DataFrame({name: column[:pieces] for name, column in columns.items()})


def spent(
    pieces: pl.DataFrame,
    first: NDArray[np.int64],
    starts: pl.Series,
    ends: pl.Series,
    kind: NDArray[np.int8],
    kinds: int,
) -> NDArray[np.int64]:
    """Time of each kind in each window, ns: a row a window, a column a kind.

    ``pieces`` (start_ns, end_ns, ``activity``) follow each other; ``first`` is the one in which a window starts, past the
    last where there is none; ``kind`` is that of every activity, −1 for none.
    """
    sums = np.zeros((len(first), kinds), np.int64)
    columns = (pieces[name].to_numpy() for name in ("start_ns", "end_ns", "activity"))
    kernels.spent(first, starts.to_numpy(), ends.to_numpy(), *columns, kind, sums)
    return sums


@dataclass(frozen=True)
class _Grouped:
    """The rows of a frame in order of group and time.

    ``groups``: the distinct values of ``by`` in order of appearance, a null as any other value. ``order``: the row at each
    place of that order, None where it is the frame's own. ``first``: the place at which each group begins, and the end of
    the last. ``number``: the group at each place.
    """

    by: list[str]
    groups: pl.DataFrame
    order: NDArray[np.int64] | None
    first: NDArray[np.int64]
    number: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pl.DataFrame, by: list[str], time: list[str]) -> _Grouped:
        groups = _distinct(frame, by)
        count = max(groups.height, 1)
        number = np.zeros(frame.height, np.int64) if count == 1 else _group_of(frame, groups, by, nulls_equal=True)
        order = _order(number, [_numbers(frame[name]) for name in time])
        number = number if order is None else number[order]
        first = np.searchsorted(number, np.arange(count + 1))
        return cls(by, groups, order, first, number)

    def __len__(self) -> int:
        return len(self.number)

    def times(self, frame: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends of the rows, in order."""
        return _in_order(frame["start_ns"], self.order), _in_order(frame["end_ns"], self.order)

    def in_place(self, values: NDArray[np.int64]) -> pl.Series:
        """``values``, given in order, in the order of the frame."""
        if self.order is None:
            return pl.Series(values)
        placed = np.empty_like(values)
        placed[self.order] = values
        return pl.Series(placed)

    def last(self, starts: NDArray[np.int64], points: pl.DataFrame, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of the last row of each point's group that starts at or before its time, −1 for none."""
        found = np.empty(points.height, np.int64)
        number = _group_of(points, self.groups, self.by, nulls_equal=False)
        kernels.last_started(self.first, starts, number, times, found)
        return found


def _distinct(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """The distinct values of the columns in order of appearance; many frames are of one process and one device."""
    ends = frame.select(by).lazy().select(
        whole=pl.all_horizontal(pl.all().null_count() == 0), one=pl.all_horizontal(pl.all().min() == pl.all().max())
    ) if by else None  # fmt: skip
    if ends is None or not frame.height:
        return frame.select(by).head(1)
    if all(ends.collect().row(0)):
        return frame.select(by).head(1)
    return frame.select(by).unique(maintain_order=True)


def _group_of(frame: pl.DataFrame, groups: pl.DataFrame, by: list[str], *, nulls_equal: bool) -> NDArray[np.int64]:
    """The number of each row's group, −1 for none; nulls are of no group unless ``nulls_equal``."""
    if not by:
        return np.zeros(frame.height, np.int64)
    if not groups.height:
        return np.full(frame.height, -1, np.int64)
    if groups.height == 1 and not nulls_equal:
        if None in groups.select(by).row(0):
            return np.full(frame.height, -1, np.int64)
        only = {name: pl.lit(groups[name][0], frame.schema[name]) for name in by}
        same = frame.select(pl.all_horizontal(pl.col(name) == value for name, value in only.items()).fill_null(False))
        return np.where(same.to_series().to_numpy(), np.int64(0), np.int64(-1))
    if len(by) == 1 and frame.schema[by[0]] == pl.Int64 and not groups[by[0]].null_count():
        return _index(groups[by[0]].to_numpy(), frame[by[0]])
    numbered = groups.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("_group"))
    found = frame.select(by).join(numbered, on=by, how="left", maintain_order="left", nulls_equal=nulls_equal)
    return found["_group"].fill_null(-1).to_numpy()


def _index(values: NDArray[np.int64], wanted: pl.Series) -> NDArray[np.int64]:
    """Where each of ``wanted`` is in ``values``, −1 for nulls and what is not there."""
    order = np.argsort(values)
    numbers = wanted.fill_null(0).to_numpy()
    place = order[np.minimum(np.searchsorted(values, numbers, sorter=order), len(values) - 1)]
    return np.where((values[place] == numbers) & wanted.is_not_null().to_numpy(), place, -1)


def _order(number: NDArray[np.int64], times: list[NDArray[np.int64]]) -> NDArray[np.int64] | None:
    """The rows in order of group and times, rows alike as they stand; None where they are in order."""
    keys = [number, *times]
    later = np.zeros(max(len(number) - 1, 0), np.bool_)
    alike = ~later
    for key in keys:
        later |= alike & (key[1:] > key[:-1])
        alike &= key[1:] == key[:-1]
    return None if (later | alike).all() else np.lexsort(keys[::-1])


def _numbers(times: pl.Series) -> NDArray[np.int64]:
    return times.fill_null(_NEVER).to_numpy()


def _in_order(times: pl.Series, order: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return _numbers(times) if order is None else _numbers(times)[order]
