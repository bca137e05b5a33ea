"""Figures no profiler writes: what lies beyond is damage, and sums over it would not fit an Int64."""

from __future__ import annotations

import polars as pl

MOST_INTEGER = 2**62
"""Largest integer taken from a file, either way. As a time in ns it is 146 years: the difference of two fits Int64."""
LONGEST_NS = 2**53
"""Longest event, 104 days: a thousand of them add up within Int64."""


def possible(start_ns: str = "start_ns", dur_ns: str = "dur_ns") -> pl.Expr:
    """Whether a row's time can be reckoned with; false for null."""
    start, dur = pl.col(start_ns), pl.col(dur_ns)
    placed = start.is_between(-MOST_INTEGER, MOST_INTEGER, closed="none")
    return (placed & dur.is_between(0, LONGEST_NS)).fill_null(False)
