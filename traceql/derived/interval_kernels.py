"""Compiled loops over nested intervals: the two steps that need a stack and so no column expression can do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def innermost(starts: Any, ends: Any, groups: Any) -> Any:
    """See intervals.innermost."""
    count = len(starts)
    piece_start = np.empty(2 * count, np.int64)
    piece_end = np.empty(2 * count, np.int64)
    piece_row = np.empty(2 * count, np.int64)
    pieces = 0
    stack = np.empty(count, np.int64)
    height = 0
    now = np.int64(0)
    for row in range(count + 1):
        begins = row < count
        same = begins and row > 0 and groups[row] == groups[row - 1]
        until = starts[row] if same else np.iinfo(np.int64).max
        if row:
            while height and ends[stack[height - 1]] <= until:
                top = stack[height - 1]
                if ends[top] > now:
                    piece_start[pieces], piece_end[pieces], piece_row[pieces] = now, ends[top], top
                    pieces += 1
                    now = ends[top]
                height -= 1
            if height and until > now:
                piece_start[pieces], piece_end[pieces], piece_row[pieces] = now, until, stack[height - 1]
                pieces += 1
        if begins:
            now = starts[row]
            stack[height] = row
            height += 1
    return piece_start[:pieces], piece_end[:pieces], piece_row[:pieces]
