"""Compiled alignment of two symbol sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from traceql.compiled import compiled

_BOTH, _LEFT, _RIGHT = 0, 1, 2


@compiled
def align(left_name: Any, left_shape: Any, right_name: Any, right_shape: Any) -> Any:
    """Right index paired with each left item, −1 for none, in an order-keeping pairing of greatest score.

    A pair needs the same name (score 2); the same launch shape adds 1. Nothing else is ever paired.
    """
    rows, columns = len(left_name), len(right_name)
    score = np.zeros((rows + 1, columns + 1), np.int32)
    choice = np.zeros((rows + 1, columns + 1), np.int8)
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            best, how = score[i + 1, j], _LEFT
            if score[i, j + 1] > best:
                best, how = score[i, j + 1], _RIGHT
            if left_name[i] == right_name[j]:
                paired = score[i + 1, j + 1] + 2 + (1 if left_shape[i] == right_shape[j] else 0)
                if paired >= best:
                    best, how = paired, _BOTH
            score[i, j] = best
            choice[i, j] = how
    pair = np.full(rows, -1, np.int64)
    i = j = 0
    while i < rows and j < columns:
        how = choice[i, j]
        if how == _BOTH:
            pair[i] = j
            i += 1
            j += 1
        elif how == _LEFT:
            i += 1
        else:
            j += 1
    return pair
