"""Compiled loops over intervals: what needs a stack, a running state, or a search from where the last one ended."""

from __future__ import annotations

from typing import Any

from traceql.compiled import Flags, Ints, Small, Table, compiled


@compiled(Ints, Ints, Ints, Ints, Ints, Ints)
def nesting(starts: Any, ends: Any, groups: Any, stack: Any, parent: Any, depth: Any) -> None:
    """Fill ``parent`` and ``depth``: see intervals.nesting. ``stack`` is room for as many rows."""
    height = 0
    for row in range(len(starts)):
        if row and groups[row] != groups[row - 1]:
            height = 0
        while height and ends[stack[height - 1]] <= starts[row]:
            height -= 1
        parent[row] = stack[height - 1] if height else -1
        depth[row] = height
        stack[height] = row
        height += 1


@compiled(Ints, Ints, Ints)
def add(rows: Any, values: Any, sums: Any) -> None:
    """Add each value to its row's sum; row −1 has none."""
    for at in range(len(rows)):
        if rows[at] >= 0:
            sums[rows[at]] += values[at]


@compiled(Ints, Ints, Ints)
def add_upwards(order: Any, parent: Any, sums: Any) -> None:
    """Add each row's sum to that of the row around it; in ``order`` the outer row comes first."""
    for place in range(len(order) - 1, -1, -1):
        row = order[place]
        if parent[row] >= 0:
            sums[parent[row]] += sums[row]


@compiled(Flags, Ints, Ints)
def nearest(mask: Any, parent: Any, found: Any) -> None:
    """Fill ``found`` with the row of each row's nearest ancestor in ``mask``, −1 for none."""
    for row in range(len(parent)):
        above = parent[row]
        while above >= 0 and not mask[above]:
            above = found[above] if above < row else parent[above]
        found[row] = above


FAR = 2**62
"""Beyond any time of a trace, ns."""


@compiled(Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints)
def innermost(starts: Any, ends: Any, groups: Any, stack: Any, start: Any, end: Any, inner: Any, group: Any) -> int:
    """Fill start, end, inner (row) and group of each piece, and return how many there are: see intervals.innermost.

    ``stack`` is room for as many rows, the rest for twice as many and two more for each group.
    """
    count = len(starts)
    pieces = 0
    height = 0
    now = -FAR
    for row in range(count + 1):
        same = 0 < row < count and groups[row] == groups[row - 1]
        until = starts[row] if same else FAR
        while row and now < until:  # what the group did from now until this row starts
            while height and ends[stack[height - 1]] <= now:
                height -= 1
            top = stack[height - 1] if height else -1
            stop = min(ends[top], until) if height else until
            start[pieces], end[pieces], inner[pieces], group[pieces] = now, stop, top, groups[row - 1]
            pieces += 1
            now = stop
        if row < count:
            if not same:  # a new group: nothing before its first interval
                height = 0
                start[pieces], end[pieces], inner[pieces], group[pieces] = -FAR, starts[row], -1, groups[row]
                pieces += 1
            now = starts[row]
            stack[height] = row
            height += 1
    return pieces


@compiled(Ints, Ints, Ints, Ints, Ints, Ints)
def unions(groups: Any, starts: Any, ends: Any, reach: Any, busy: Any, totals: Any) -> None:
    """Fill for rows in order of (group, start): ``reach``, the latest end of the group up to the row, ``busy``, the union
    of its intervals up to there, and ``totals``, that of each group."""
    for row in range(len(starts)):
        group = groups[row]
        if row == 0 or groups[row - 1] != group:
            reached = starts[row]
        else:
            reached = reach[row - 1]
        totals[group] += max(ends[row] - max(starts[row], reached), 0)
        reach[row] = max(ends[row], reached) if row and groups[row - 1] == group else ends[row]
        busy[row] = totals[group]


_NEAR = 32
"""How far from the last place found a search tries first, in rows."""


@compiled(Ints, Ints, Ints, Ints, Ints)
def last_started(first: Any, starts: Any, groups: Any, times: Any, found: Any) -> None:
    """Fill ``found`` with the place of the last start at or before each time in its group, −1 for none.

    The starts of group ``g`` are sorted, at places first[g] to first[g + 1]; group −1 has none. Points that come in order
    of time are found near each other.
    """
    near = 0
    for point in range(len(times)):
        group = groups[point]
        if group < 0:
            found[point] = -1
            continue
        begin, time = first[group], times[point]
        low, high = begin, first[group + 1]  # the first later start is in [low, high]
        if low <= near < high:
            if starts[near] <= time:
                low = near + 1
                if near + _NEAR < high and starts[near + _NEAR] > time:
                    high = near + _NEAR
            else:
                high = near
                if near - _NEAR >= low and starts[near - _NEAR] <= time:
                    low = near - _NEAR + 1
        while low < high:
            middle = (low + high) // 2
            if starts[middle] <= time:
                low = middle + 1
            else:
                high = middle
        found[point] = low - 1 if low > begin else -1
        near = max(low - 1, 0)


@compiled(Ints, Ints, Ints, Ints, Ints, Ints, Small, Table)
def spent(first: Any, starts: Any, ends: Any, begin: Any, end: Any, row: Any, kind: Any, sums: Any) -> None:
    """Add to ``sums`` how long each window is in pieces of each kind: see intervals.spent."""
    for window in range(len(first)):
        for piece in range(first[window], len(begin)):
            if row[piece] >= 0 and kind[row[piece]] >= 0:
                inside = min(end[piece], ends[window]) - max(begin[piece], starts[window])
                sums[window, kind[row[piece]]] += max(inside, 0)
            if end[piece] >= ends[window]:  # at the latest the last piece of the thread, which ends beyond all time
                break
