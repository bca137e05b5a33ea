"""Compiled alignment of two symbol sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from traceql.compiled import Ints, compiled

_BOTH, _LEFT, _RIGHT = 0, 1, 2
_SCORES = np.zeros((0, 0), np.int32)
_CHOICES = np.zeros((0, 0), np.int8)


@compiled(Ints, Ints, Ints, Ints, _SCORES, _CHOICES, Ints)
def align(
    left_name: Any, left_shape: Any, right_name: Any, right_shape: Any, score: Any, choice: Any, pair: Any
) -> None:
    """Fill ``pair`` with the right index paired with each left item, −1 for none, in an order-keeping pairing of greatest
    score.

    A pair needs the same name (score 2); the same launch shape adds 1. Nothing else is ever paired. ``score`` and
    ``choice`` are tables of zeros with a row more than left items and a column more than right ones.
    """
    rows, columns = len(left_name), len(right_name)
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
