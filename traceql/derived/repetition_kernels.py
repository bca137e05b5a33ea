"""The compiled loop behind the search for blocks that nearly repeat."""

from __future__ import annotations

from typing import Any

from traceql.compiled import compiled


@compiled
def longest_alike(symbols: Any, period: Any, most_unlike: Any) -> Any:
    """First and one past the last item of the longest stretch in which every block of ``period`` items differs from the
    next one in at most ``most_unlike`` places; (0, 0) where there is none."""
    size = len(symbols)
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
    return best_from, best_to
