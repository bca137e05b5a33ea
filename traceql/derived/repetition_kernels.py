"""The compiled loop behind the search for blocks that nearly repeat."""

from __future__ import annotations

from typing import Any

from traceql.compiled import Int, Ints, compiled


@compiled(Ints, Int, Ints, Ints)
def longest_alike(symbols: Any, odd_one_in: Any, first: Any, last: Any) -> None:
    """Fill for every period (the index) first and one past the last item of the longest stretch in which every block of so
    many items differs from the next one in at most one of ``odd_one_in`` places; (0, 0) where there is none."""
    size = len(symbols)
    for period in range(1, len(first)):
        most_unlike = period // odd_one_in
        unlike = 0
        run_from = -1
        best_from, best_to = 0, 0
        for at in range(size - period):
            unlike += symbols[at] != symbols[at + period]
            if at >= period:
                unlike -= symbols[at - period] != symbols[at]
            if at < period - 1:
                continue
            if unlike <= most_unlike:
                if run_from < 0:
                    run_from = at - period + 1
                if at + period + 1 - run_from > best_to - best_from:
                    best_from, best_to = run_from, at + period + 1
            else:
                run_from = -1
        first[period], last[period] = best_from, best_to
