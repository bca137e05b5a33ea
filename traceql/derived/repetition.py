"""The longest periodic run in a sequence of symbols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traceql.derived.repetition_kernels import longest_alike

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_REPEATS = 3
"""Two alike stretches may be chance (an attention kernel's two passes); three are a structure."""
_LONGEST_PERIOD = 2048
"""Kernels in a layer at most; bounds the search to n × 2048 comparisons a distinct step."""
_NEARLY = 0.9
"""A shorter period that explains nine tenths of what the best explains is the layer; the rest are its multiples."""


_ODD_ONE_IN = 5
"""Of so many items of a block one may differ from the next block's."""


@dataclass(frozen=True)
class Repetition:
    """``count`` repeats of ``period`` items from position ``start``; count 0 when nothing repeats."""

    start: int
    period: int
    count: int


NO_REPETITION = Repetition(0, 0, 0)


def blocks(symbols: NDArray[np.int64]) -> Repetition:
    """Like ``repetition``, where the repeats need not be equal: each differs from the next in a fifth of its items at most.

    Layers of a model differ so where one kernel's grid follows the tokens routed to an expert, or a library picks another
    variant of a product now and then.
    """
    periods = min(len(symbols) // _MIN_REPEATS, _LONGEST_PERIOD)
    begins, ends = np.zeros(periods + 1, np.int64), np.zeros(periods + 1, np.int64)
    longest_alike(symbols, _ODD_ONE_IN, begins, ends)
    enough = np.flatnonzero(ends - begins >= np.maximum(np.arange(periods + 1), 1) * _MIN_REPEATS)
    covered = {int(period): (int(begins[period]), int(ends[period])) for period in enough}
    if not covered:
        return NO_REPETITION
    most = max(end - begin for begin, end in covered.values())
    period = min(p for p, (begin, end) in covered.items() if end - begin >= _NEARLY * most)
    equal = symbols[period:] == symbols[:-period]
    start, length = _longest_run(equal)
    begin, end = covered[period]
    if length + period < _NEARLY * (end - begin):  # odd ones all over: from the first to the last equal items
        inside = np.flatnonzero(equal[begin : end - period])
        start, length = begin + int(inside[0]), int(inside[-1] - inside[0]) + 1
    start, stop = _extended(symbols, period, start, start + length + period)
    return Repetition(start, period, (stop - start) // period)


def repetition(symbols: NDArray[np.int64]) -> Repetition:
    """The longest periodic run in a sequence, with the shortest period that explains it.

    A run of period p is a stretch where every item equals the one p before it. Single repeats that differ inside an
    otherwise periodic run (another GEMM variant in one layer) do not end it.
    """
    size = len(symbols)
    covered: dict[int, tuple[int, int]] = {}
    for period in range(1, min(size // _MIN_REPEATS, _LONGEST_PERIOD) + 1):
        start, length = _longest_run(symbols[period:] == symbols[:-period])
        if length >= period * (_MIN_REPEATS - 1):
            covered[period] = (start, length + period)
    if not covered:
        return NO_REPETITION
    most = max(length for _, length in covered.values())
    period = min(p for p, (_, length) in covered.items() if length >= _NEARLY * most)
    start, stop = _extended(symbols, period, covered[period][0], sum(covered[period]))
    return Repetition(start, period, (stop - start) // period)


def _longest_run(equal: NDArray[np.bool_]) -> tuple[int, int]:
    """Start and length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], equal, [False])).astype(np.int8)))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    best = int(np.argmax(lengths))
    return int(edges[2 * best]), int(lengths[best])


def _extended(symbols: NDArray[np.int64], period: int, start: int, stop: int) -> tuple[int, int]:
    """The run [start, stop) grown over whole repeats that differ in fewer than half of their items."""
    template = symbols[start : start + period]

    def alike(at: int) -> bool:
        return 2 * int((symbols[at : at + period] == template).sum()) > period

    while start - period >= 0 and alike(start - period):
        start -= period
    whole_stop = start + (stop - start) // period * period
    while whole_stop + period <= len(symbols) and alike(whole_stop):
        whole_stop += period
    return start, max(stop, whole_stop)
