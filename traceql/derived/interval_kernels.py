"""Compiled loops over nested intervals: the two steps that need a stack and so no column expression can do."""

from __future__ import annotations

from typing import Any

import numpy as np

from traceql.compiled import compiled


@compiled
def parents(starts: Any, ends: Any, groups: Any) -> Any:
    """See intervals.parents."""
    count = len(starts)
    parent = np.full(count, -1, np.int64)
    stack = np.empty(count, np.int64)
    height = 0
    for row in range(count):
        if row and groups[row] != groups[row - 1]:
            height = 0
        while height and ends[stack[height - 1]] <= starts[row]:
            height -= 1
        if height:
            parent[row] = stack[height - 1]
        stack[height] = row
        height += 1
    return parent


FAR = 2**62
"""Beyond any time of a trace, ns."""


@compiled
def innermost(starts: Any, ends: Any, groups: Any) -> Any:
    """See intervals.innermost."""
    count = len(starts)
    room = 4 * count + 4
    piece_start, piece_end = np.empty(room, np.int64), np.empty(room, np.int64)
    piece_row, piece_group = np.empty(room, np.int64), np.empty(room, np.int64)
    pieces = 0
    stack = np.empty(count, np.int64)
    height = 0
    now = np.int64(-FAR)
    for row in range(count + 1):
        same = 0 < row < count and groups[row] == groups[row - 1]
        until = starts[row] if same else np.int64(FAR)
        while row and now < until:  # what the group did from now until this row starts
            while height and ends[stack[height - 1]] <= now:
                height -= 1
            top = stack[height - 1] if height else np.int64(-1)
            stop = min(ends[top], until) if height else until
            piece_start[pieces], piece_end[pieces] = now, stop
            piece_row[pieces], piece_group[pieces] = top, groups[row - 1]
            pieces += 1
            now = stop
        if row < count:
            if not same:  # a new group: nothing before its first interval
                height = 0
                piece_start[pieces], piece_end[pieces] = -FAR, starts[row]
                piece_row[pieces], piece_group[pieces] = -1, groups[row]
                pieces += 1
            now = starts[row]
            stack[height] = row
            height += 1
    return piece_start[:pieces], piece_end[:pieces], piece_row[:pieces], piece_group[:pieces]
